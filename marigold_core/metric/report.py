"""A fit in words, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .hints import KnownDepths

if TYPE_CHECKING:
    from ..depth import DepthMap

# More outliers than this are counted, not listed.
_LISTED = 8


def fit_report(depth_map: DepthMap, known: KnownDepths) -> list[str]:
    """Scale and shift, the error to expect, outliers and notes of a map that `fit_metric` or guided
    sampling made of these hints, a line each."""
    fit = depth_map.fit
    assert fit is not None
    unit = "m" if fit.in_metres else "model units"
    formula = (
        f"1 / z = {fit.shift:.4g} - {fit.scale:.4g} d"
        if fit.inverse
        else f"z = {fit.scale:.4g} d + {fit.shift:.4g}"
    )
    used = np.isfinite(depth_map.depth)
    if depth_map.mask is not None:
        used &= depth_map.mask
    near, far = np.percentile(depth_map.depth[used], [2, 98])
    lines = [f"{formula} {unit}; 2nd to 98th percentile {near:.3g} to {far:.3g} {unit}"]
    if fit.relative_error is not None and fit.error_range is not None:
        low, high = (100 * bound for bound in fit.error_range)
        lines.append(f"expected error {100 * fit.relative_error:.1f} % ({low:.1f} to {high:.1f} %)")
    if len(fit.outliers):
        lines.append(
            f"{len(fit.outliers)} of {fit.fitted} known points do not fit and were left out:"
        )
        rows, columns = known.pixels(depth_map.depth.shape)  # type: ignore[arg-type]
        for index in fit.outliers[:_LISTED]:
            x, y = known.positions[index]
            found = depth_map.depth[rows[index], columns[index]]
            lines.append(
                f"  point {index + 1} at x = {x:g}, y = {y:g}: {known.metres[index]:.4g} given,"
                f" {found:.4g} found"
            )
        if len(fit.outliers) > _LISTED:
            lines.append(f"  and {len(fit.outliers) - _LISTED} more")
    return lines + [f"note: {note}" for note in fit.notes]
