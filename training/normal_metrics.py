"""How far normals are from the truth: angles, as the papers on normals report them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marigold_core.errors import MarigoldError


class NormalScore(NamedTuple):
    """Of one picture, or their mean. mean, median, rmse: of the angle between prediction and truth,
    in degrees. within_5 ... within_30: the share of pixels whose angle is below so many degrees."""

    mean: float
    median: float
    rmse: float
    within_5: float
    within_7_5: float
    within_11_25: float
    within_22_5: float
    within_30: float


THRESHOLDS = (5.0, 7.5, 11.25, 22.5, 30.0)


def normal_score(
    prediction: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    valid: NDArray[np.bool_],
) -> NormalScore:
    """Of a prediction (H, W, 3) against unit normals (H, W, 3) where valid (H, W).

    Raises MarigoldError where no pixel is valid or the prediction is not finite there.
    """
    if not valid.any():
        raise MarigoldError("No pixel of the true normals is valid.")
    p, g = prediction[valid].astype(np.float64), truth[valid].astype(np.float64)
    if not np.isfinite(p).all():
        raise MarigoldError("The prediction holds NaN or infinity.")
    angles = np.degrees(angle_between(p, g))
    return NormalScore(
        float(angles.mean()),
        float(np.median(angles)),
        float(np.sqrt(np.mean(angles**2))),
        *(float(np.mean(angles < limit)) for limit in THRESHOLDS),
    )


def angle_between(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The angle between vectors (N, 3) of any length, in radians; a zero vector is at 90 degrees
    to all others, as the authors' cosine similarity has it."""
    cross = np.linalg.norm(np.cross(a, b), axis=1)
    return np.where((a == 0).all(1), np.pi / 2, np.arctan2(cross, (a * b).sum(1)))
