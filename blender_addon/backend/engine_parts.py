# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the engine that need only numpy, which Blender's Python has.

They come from the wheel in the extension's zip: an extension is imported below
`bl_ext.REPOSITORY`, where no relative import reaches a wheel, so this module imports absolutely
and the others import from here. Everything that needs torch or Pillow runs in the worker.
"""

from __future__ import annotations

from marigold_core.checkpoints.published import BUNDLED, PUBLISHED
from marigold_core.colormaps import colorize
from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path
from marigold_core.geometry.camera_estimate import NOTHING, estimate_camera
from marigold_core.geometry.fill import CORNERS, background_layer, sharpen_edges
from marigold_core.geometry.grid import (
    at_lines,
    grid_coordinates,
    grid_lines,
    grid_stride,
    grid_uvs,
)
from marigold_core.geometry.points import (
    FAR,
    FOV_DEGREES,
    NEAR,
    default_tear_ratio,
    depth_to_normals,
    field_of_view,
)
from marigold_core.geometry.sphere import PANORAMA_FOV, sphere_lines, sphere_rays
from marigold_core.metric.fit import MetricFit, fit_depth
from marigold_core.metric.hints import KnownDepths

__all__ = [
    "BUNDLED",
    "CORNERS",
    "FAR",
    "FOV_DEGREES",
    "KnownDepths",
    "NEAR",
    "NOTHING",
    "PANORAMA_FOV",
    "PUBLISHED",
    "MarigoldError",
    "MetricFit",
    "at_lines",
    "atomic_path",
    "background_layer",
    "colorize",
    "default_tear_ratio",
    "depth_to_normals",
    "estimate_camera",
    "field_of_view",
    "fit_depth",
    "grid_coordinates",
    "grid_lines",
    "grid_stride",
    "grid_uvs",
    "sharpen_edges",
    "sphere_lines",
    "sphere_rays",
]
