"""Depth metrics of the affine-invariant protocol (paper, section 4.1), on numpy arrays.

A prediction is first fitted to the truth, then clipped to the data set's range, then measured over
the valid pixels. Numbers of pictures are averaged, each picture counting once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from einops import repeat
from numpy.typing import NDArray

from marigold_core.cli.comparison import scale_and_shift
from marigold_core.errors import MarigoldError

Map = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

FITS = ("least_squares", "disparity", "median", "scale", "none")
# The authors' floors: of disparity after its fit, and of depth after the clipping.
SMALLEST_DISPARITY = 1e-3
SMALLEST_DEPTH = 1e-6
# Depth Pro (Bochkovskii et al. 2024), section 4 and its released code: ten thresholds.
BOUNDARY_RATIOS = np.linspace(1.05, 1.25, 10)


class Score(NamedTuple):
    """Of one picture, or their mean; p the fitted prediction, g the truth, in metres.

    abs_rel: mean |p - g| / g. delta1..3: share of pixels with max(p / g, g / p) < 1.25 ** k.
    sq_rel: mean (p - g)^2 / g. rmse; rmse_log: of natural logarithms; irmse: of 1 / p and 1 / g,
    per metre. log10: mean |log10 p / g|. silog: 100 times the standard deviation of log p - log g.
    boundary_f1: see there; NaN where the truth has no boundary.
    """

    abs_rel: float
    delta1: float
    delta2: float
    delta3: float
    sq_rel: float
    rmse: float
    rmse_log: float
    irmse: float
    log10: float
    silog: float
    boundary_f1: float


# What is better: True = more.
MORE_IS_BETTER = {field: field.startswith(("delta", "boundary")) for field in Score._fields}


def score(
    prediction: Map,
    truth: Map,
    valid: Mask,
    *,
    fit: str = "least_squares",
    depth_range: tuple[float, float] | None = None,
    fit_columns: int | None = None,
) -> Score:
    """Metrics of a prediction (H, W) against truth (H, W) > 0 where valid.

    depth_range: metres, what the fitted prediction is clipped to: the data set's, as published;
    None: it is only kept above 1e-6 m, as the truth of one picture must not help its prediction.
    fit, fit_columns: see `fitted`. Raises MarigoldError where no pixel is valid or the prediction
    is not finite there.
    """
    if not valid.any():
        raise MarigoldError("No pixel of the true depth is valid.")
    if not np.isfinite(prediction[valid]).all():
        raise MarigoldError("The prediction holds NaN or infinity.")
    g = truth[valid].astype(np.float64)
    low, high = (0.0, np.inf) if depth_range is None else depth_range
    depth = fitted(prediction, truth, valid, fit, fit_columns)
    depth = depth.clip(low, high).clip(min=SMALLEST_DEPTH)
    p = depth[valid]
    error, log_error = p - g, np.log(p) - np.log(g)
    ratio = np.maximum(p / g, g / p)
    return Score(
        abs_rel=float(np.mean(abs(error) / g)),
        delta1=float(np.mean(ratio < 1.25)),
        delta2=float(np.mean(ratio < 1.25**2)),
        delta3=float(np.mean(ratio < 1.25**3)),
        sq_rel=float(np.mean(error**2 / g)),
        rmse=float(np.sqrt(np.mean(error**2))),
        rmse_log=float(np.sqrt(np.mean(log_error**2))),
        irmse=float(np.sqrt(np.mean((1 / p - 1 / g) ** 2))),
        log10=float(np.mean(abs(log_error)) / np.log(10)),
        silog=float(100 * log_error.std()),
        boundary_f1=boundary_f1(depth, truth, valid),
    )


def mean_score(scores: Sequence[Any]) -> Any:
    """The mean over pictures of scores of one type, such as `Score`; of a field that a picture has
    not (NaN), such as boundary_f1, over those that have one."""
    columns = np.asarray(scores, np.float64).T
    return type(scores[0])(
        *(float(np.mean(c[~np.isnan(c)])) if (~np.isnan(c)).any() else np.nan for c in columns)
    )


def fitted(
    prediction: Map,
    truth: Map,
    valid: Mask,
    fit: str = "least_squares",
    fit_columns: int | None = None,
) -> NDArray[np.float64]:
    """The prediction (H, W) in the truth's units, not clipped.

    fit: "least_squares": the scale and shift of least squared error (the protocol);
        "disparity": the same between the prediction and 1 / truth, for checkpoints that predict
        inverse depth, and back; "median": equal median and mean deviation from it, which outliers
        change less (MiDaS, Ranftl et al. 2020, eq. 5); "scale": of least squared
        error without a shift; "none": metric already.
    fit_columns: the fit sees no more than so many columns, the nearest ones: ETH3D's protocol.
    """
    if fit not in FITS:
        raise MarigoldError(f"There is no fit {fit!r}; choose from {', '.join(FITS)}.")
    x = prediction.astype(np.float64)
    if fit == "none":
        return x
    seen = slice(None)
    if fit_columns is not None and x.shape[1] > fit_columns:
        seen = np.floor(np.arange(fit_columns) * (x.shape[1] / fit_columns)).astype(int)
    used = valid[:, seen]
    if fit == "disparity":
        used = used & (prediction[:, seen] > 0)
    a, b = x[:, seen][used], truth[:, seen][used].astype(np.float64)
    if not a.size:
        raise MarigoldError(f"The fit {fit!r} finds no pixel to use.")
    if fit == "disparity":
        scale, shift = scale_and_shift(a, 1 / b)
        return 1 / (x * scale + shift).clip(min=SMALLEST_DISPARITY)
    if fit == "median":
        centre, target = np.median(a), np.median(b)
        spread = np.mean(abs(a - centre))
        scale = np.mean(abs(b - target)) / spread if spread > 0 else 0.0
        return (x - centre) * scale + target
    if fit == "scale":
        return x * ((a @ b) / (a @ a) if a.any() else 0.0)
    scale, shift = scale_and_shift(a, b)
    return x * scale + shift


def boundary_f1(depth: Map, truth: Map, valid: Mask) -> float:
    """Scale-invariant boundary F1 of Depth Pro (Bochkovskii et al. 2024), in [0, 1].

    There is a boundary between two neighbours where one is more than t times as deep as the other.
    For each t the F1 of predicted and true boundaries, direction for direction, is averaged with
    the weight t. On dense truth this is the published number; pairs with an invalid pixel are left
    out here. NaN without a true boundary. Sparse truth (laser points) has too few pairs for it.
    """
    sides = []
    for near, far in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        pair = valid[near] & valid[far]
        for first, second in ((near, far), (far, near)):
            true = truth[second][pair].astype(np.float64) / truth[first][pair]
            guess = depth[second][pair].astype(np.float64) / depth[first][pair]
            seen = (true > BOUNDARY_RATIOS[0]) | (guess > BOUNDARY_RATIOS[0])
            sides.append((true[seen], guess[seen]))
    if not any((true > BOUNDARY_RATIOS[0]).any() for true, _ in sides):
        return float("nan")
    f1 = []
    for t in BOUNDARY_RATIOS:
        counts = [(np.sum((r > t) & (p > t)), np.sum(r > t), np.sum(p > t)) for r, p in sides]
        recall = np.mean([both / max(real, 1) for both, real, _ in counts])
        precision = np.mean([both / max(found, 1) for both, _, found in counts])
        total = recall + precision
        f1.append(2 * recall * precision / total if total else 0.0)
    return float(np.average(f1, weights=BOUNDARY_RATIOS))


def vertical_ramp(height: int, width: int) -> NDArray[np.float32]:
    """The trivial guess that depth grows towards the top of the picture, (H, W) in [0, 1]."""
    return repeat(np.linspace(1, 0, height, dtype=np.float32), "h -> h w", w=width)
