# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the engine that need only numpy, which Blender's Python has.

They come from the wheel in the extension's zip: an extension is imported below
`bl_ext.REPOSITORY`, where no relative import reaches a wheel, so this module imports absolutely
and the others import from here. Everything that needs torch or Pillow runs in the worker.
"""

from __future__ import annotations

from marigold_core.colormaps import colorize
from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path
from marigold_core.geometry import (
    FAR,
    FOV_DEGREES,
    NEAR,
    default_tear_ratio,
    grid_lines,
    grid_quads,
    intrinsics,
    unproject,
)

__all__ = [
    "FAR",
    "FOV_DEGREES",
    "NEAR",
    "MarigoldError",
    "atomic_path",
    "colorize",
    "default_tear_ratio",
    "grid_lines",
    "grid_quads",
    "intrinsics",
    "unproject",
]
