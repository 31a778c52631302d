# SPDX-License-Identifier: GPL-3.0-or-later
"""A depth mesh in metres, from what its user knows: `marigold_core.metric` on the mesh's own depth.

The fit is of the depth as it was estimated, also where an earlier fit has bent it since: then the
attribute `estimate` keeps that depth.
"""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import KnownDepths, MarigoldError, MetricFit, fit_depth
from .depth_grid import HOLE
from .depth_object import COLUMNS, ROWS, SIZE
from .grid_mesh import DEPTH, FURTHEST, NEAREST, SEAM_FURTHEST, SEAM_NEAREST
from .shape_inputs import get_input, set_inputs

ESTIMATE = "estimate"
# A fit that is a straight line within this part is near and far alone; no vertex changes.
SAME = 1e-4


def known_depths(obj: bpy.types.Object) -> KnownDepths:
    """What the user gave of this mesh, in pixels of its picture. Raises MarigoldError."""
    known, (height, width) = obj.marigold_known, obj[SIZE]

    def pixel(uv: Any) -> tuple[float, float]:
        return uv[0] * width, (1 - uv[1]) * height

    lengths = [(*pixel(one.start), *pixel(one.end), one.length) for one in known.lengths]
    floor = [pixel(one.at) for one in known.floor]
    height_given = known.camera_height or None
    if height_given and len(floor) < 3:
        raise MarigoldError("The camera's height needs three points of the floor or more.")
    return KnownDepths.along_rays(
        [pixel(one.at) for one in known.points],
        [one.distance for one in known.points],
        (height, width),
        math.degrees(get_input(obj, "Field of View")),
        lengths=np.array(lengths) if lengths else None,
        camera_height=height_given,
        ground=np.array(floor) if height_given else None,
    )


def fit_to_metres(obj: bpy.types.Object) -> MetricFit:
    """Give the whole mesh the distances that fit what is known. Raises MarigoldError; nothing is
    changed then."""
    mesh = obj.data
    source = ESTIMATE if ESTIMATE in mesh.attributes else DEPTH
    estimate = _values(mesh, source)
    grid = estimate[: obj[ROWS] * obj[COLUMNS]].reshape(obj[ROWS], obj[COLUMNS])
    known = known_depths(obj)
    fit = fit_depth(np.where(grid < HOLE / 2, grid, np.nan), known)
    if not fit.shift_fitted:
        return _scaled(obj, known)
    seen = grid[grid < HOLE / 2].astype(np.float64)
    line = fit.scale * seen + fit.shift
    if source == DEPTH and fit.shift > 0 and np.allclose(fit.depth(seen), line, rtol=SAME):
        near, far = fit.shift, fit.shift + fit.scale
    else:
        near, far = (float(z) for z in fit.depth(np.array([seen.min(), seen.max()])))
        if not far > near:
            raise MarigoldError("What is known puts the whole picture at one distance; check it.")
        d = (fit.depth(estimate) - near) / (far - near)
        _bend(mesh, estimate, np.where(estimate < HOLE / 2, d, HOLE).astype(np.float32))
    set_inputs(obj, near=near, far=far, relief=1.0)
    return fit


def _scaled(obj: bpy.types.Object, known: KnownDepths) -> MetricFit:
    """The scale alone is known: the relief stays what the sliders make of it."""
    near, far = get_input(obj, "Near"), get_input(obj, "Far")
    far = near + get_input(obj, "Relief") * (far - near)
    d = _values(obj.data, DEPTH)[: obj[ROWS] * obj[COLUMNS]].reshape(obj[ROWS], obj[COLUMNS])
    z = np.where(d < HOLE / 2, near + d * (far - near), np.nan)
    fit = fit_depth(z, known, shift_invariant=False)
    set_inputs(obj, near=near * fit.scale, far=far * fit.scale, relief=1.0)
    return fit


def _bend(mesh: bpy.types.Mesh, estimate: NDArray[np.float32], d: NDArray[np.float32]) -> None:
    """Give the vertices another d, which grows with the one they have, and all that holds values of
    d the same; the estimate stays with them."""
    if ESTIMATE not in mesh.attributes:
        mesh.attributes.new(ESTIMATE, "FLOAT", "POINT").data.foreach_set("value", estimate)
    before = _values(mesh, DEPTH)
    order = np.argsort(before)[: np.count_nonzero(before < HOLE / 2)]
    for name in (NEAREST, FURTHEST, SEAM_NEAREST, SEAM_FURTHEST):
        if name in mesh.attributes:
            values = _values(mesh, name)
            known = values < HOLE / 2
            values[known] = np.interp(values[known], before[order], d[order])
            mesh.attributes[name].data.foreach_set("value", values)
    mesh.attributes[DEPTH].data.foreach_set("value", d)
    mesh.update()


def _values(mesh: bpy.types.Mesh, name: str) -> NDArray[np.float32]:
    values = np.empty(len(mesh.attributes[name].data), dtype=np.float32)
    mesh.attributes[name].data.foreach_get("value", values)
    return values


def describe(fit: MetricFit) -> str:
    """How good the fit is, in one or two lines of text for the panel."""
    words = []
    if fit.relative_error is not None and fit.error_range is not None:
        low, high = (100 * bound for bound in fit.error_range)
        words.append(
            f"Expected error {100 * fit.relative_error:.1f} % ({low:.1f} to {high:.1f} %)."
        )
    elif fit.shift_fitted:
        words.append("Scale and shift are fixed; another point shows how good they are.")
    else:
        words.append("The scale is fixed; a second point at another depth fixes the shift.")
    if len(fit.outliers):
        words.append(f"{len(fit.outliers)} of {fit.fitted} points do not fit and are left out.")
    return " ".join([*words, *fit.notes])
