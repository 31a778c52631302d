"""Robust lines on log residuals: an MM-estimator, leave-one-out errors, the bootstrap. numpy alone.

A residual is log((a x + b) / y): 10 % too far weighs the same at 1 m and at 50 m, and as much as
10 % too near. The estimator is Yohai's (1987): start from the line through two of the points with
the least median residual, which bears nearly half of the points being wrong, then Tukey's biweight
at 95 % of least squares' efficiency.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Tukey's biweight: 95 % efficient where residuals are normal, blind to those beyond 4.685 sigma.
BIWEIGHT = 4.685
# The least spread that residuals have: hints are typed with two or three digits.
_LEAST_SIGMA = 1e-3
_MAX_PAIRS = 600
_MAX_START_POINTS = 300


class RobustLine(NamedTuple):
    """y ~ slope x + intercept, slope > 0; sigma, the spread of its log residuals; rising, the
    share of the pairs of points that rise, which is 1 / 2 where x tells nothing of y."""

    slope: float
    intercept: float
    sigma: float
    rising: float


def robust_line(x: Floats, y: Floats, weights: Floats) -> RobustLine | None:
    """The line through (N,) points, N >= 2, y > 0; None where no two of them make a rising one."""
    starts, rising = _lines_through_pairs(x, y)
    if not len(starts):
        return None
    picked = np.linspace(0, len(x) - 1, min(len(x), _MAX_START_POINTS)).astype(np.int64)
    residuals = np.abs(log_residuals(starts, x[picked], y[picked]))
    # The middle one, not counting the two points that a line passes through by construction.
    rank = min(len(picked) - 1, (len(picked) + 2) // 2)
    spread = np.partition(residuals, rank, axis=1)[:, rank]
    best = int(np.argmin(spread))
    # Of many lines the least spread is small by selection: Rousseeuw's correction for few points.
    small = 1 + 5 / max(len(picked) - 2, 1)
    sigma = max(1.4826 * small * float(spread[best]), _LEAST_SIGMA)
    line = starts[best : best + 1]
    for _ in range(50):
        previous = line
        line = _reweighted(line, x, y, weights, sigma)
        if np.allclose(line, previous, rtol=1e-9, atol=0):
            break
    return RobustLine(float(line[0, 0]), float(line[0, 1]), sigma, rising)


def robust_centre(values: Floats, weights: Floats) -> tuple[float, float]:
    """(centre, sigma) of (N,) values: the median, then the biweight."""
    centre = float(weighted_median(values, weights))
    sigma = max(1.4826 * float(weighted_median(np.abs(values - centre), weights)), _LEAST_SIGMA)
    for _ in range(20):
        w = weights * biweight(values - centre, sigma)
        centre = float((w * values).sum() / w.sum())
    return centre, sigma


def weighted_median(values: Floats, weights: Floats) -> float:
    """The lower weighted median; of two equal weights the mean."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    half = total[-1] / 2
    at = int(np.searchsorted(total, half * (1 - 1e-12)))
    if at + 1 < len(values) and abs(total[at] - half) <= 1e-12 * half:
        return float((values[order[at]] + values[order[at + 1]]) / 2)
    return float(values[order[at]])


def agreement(
    spread: NDArray[np.floating], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Floats:
    """Weights in (0, 1] of pixels of a map by its ensemble's spread (H, W), NaN = unknown: 1 / 2
    where the members differ as much as they usually do."""
    spread = spread.astype(np.float64)
    usual = float(np.median(spread[np.isfinite(spread)])) if np.isfinite(spread).any() else 0.0
    at = np.nan_to_num(spread[rows, columns], nan=np.inf, posinf=np.inf)
    # The map is wrong where its members agree, too: hence the floor of its usual spread.
    return 1 / (1 + (at / usual) ** 2) if usual > 0 else np.ones(len(at))


def log_residuals(lines: Floats, x: Floats, y: Floats) -> Floats:
    """(L, 2) lines, (N,) points -> (L, N); where a line is not above 0, it is far off."""
    return np.log(np.maximum((lines[:, :1] * x + lines[:, 1:]) / y, 1e-9))


def biweight(residuals: Floats, sigma: float) -> Floats:
    """Tukey's weights in [0, 1] of residuals of any shape."""
    return np.square((1 - np.square(residuals / (BIWEIGHT * sigma))).clip(0))


def left_out_residuals(line: RobustLine, x: Floats, y: Floats, weights: Floats) -> Floats:
    """(N,): the log residual of each point to the line that the others make.

    By the leverage h of weighted least squares: the residual y - f becomes (y - f) / (1 - h).
    """
    fitted = line.slope * x + line.intercept
    w = _linear_weights(fitted, y, weights, line.sigma)
    w = w / w.sum()
    deviation = x - (w * x).sum()
    variance = (w * deviation**2).sum()
    leverage = w * (1 + deviation**2 / max(variance, 1e-300))
    predicted = y - (y - fitted) / np.maximum(1 - leverage, 1e-3)
    return np.log(np.maximum(predicted / y, 1e-9))


def bootstrap_lines(
    line: RobustLine, x: Floats, y: Floats, weights: Floats, replicates: int, seed: int = 0
) -> Floats:
    """(replicates, 2): slope and intercept from as many points drawn with replacement.

    A draw whose points make no rising line, which few points allow, counts as the line itself.
    """
    counts = np.random.default_rng(seed).multinomial(
        len(x), np.full(len(x), 1 / len(x)), replicates
    )
    lines = np.tile([line.slope, line.intercept], (replicates, 1))
    for _ in range(5):
        lines = _reweighted(lines, x, y, weights * counts, line.sigma)
    return lines


def _lines_through_pairs(x: Floats, y: Floats) -> tuple[Floats, float]:
    """Rising lines through two of the points, (P, 2), and the share of the pairs that rise; all
    pairs, or 600 at random."""
    if len(x) * (len(x) - 1) // 2 <= _MAX_PAIRS:
        i, j = np.triu_indices(len(x), 1)
    else:
        i, j = np.random.default_rng(0).integers(len(x), size=(2, _MAX_PAIRS))
    apart = (x[i] != x[j]) & (y[i] != y[j])
    i, j = i[apart], j[apart]
    slope = (y[j] - y[i]) / (x[j] - x[i])
    lines = np.column_stack([slope, y[i] - slope * x[i]])
    usable = np.isfinite(lines).all(axis=1) & (slope > 0)
    return lines[usable], float((slope > 0).mean()) if len(slope) else 0.5


def _linear_weights(fitted: Floats, y: Floats, weights: Floats, sigma: float) -> Floats:
    """Weights for least squares of y - fitted that make them those of the log residuals.

    log(f / y) = (f - y) / L(f, y) with the logarithmic mean L, so each gets 1 / L^2.
    """
    fitted = np.maximum(fitted, 1e-9 * y)
    ratio = np.log(fitted / y)
    near = np.abs(ratio) < 1e-4
    mean = np.where(near, (fitted + y) / 2, (fitted - y) / np.where(near, 1, ratio))
    return np.asarray(weights * biweight(ratio, sigma) / mean**2)


def _reweighted(lines: Floats, x: Floats, y: Floats, weights: Floats, sigma: float) -> Floats:
    """One step for (L, 2) lines; weights (N,) or (L, N). A step that falls or has no points left
    leaves its line."""
    w = _linear_weights(lines[:, :1] * x + lines[:, 1:], y, weights, sigma)
    total = np.maximum(w.sum(axis=1), 1e-300)
    centre_x, centre_y = (w @ x) / total, (w @ y) / total
    from_x = x - centre_x[:, None]
    variance = (w * from_x**2).sum(axis=1)
    covariance = (w * from_x * (y - centre_y[:, None])).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = covariance / variance
    new = np.column_stack([slope, centre_y - slope * centre_x])
    good = np.isfinite(new).all(axis=1) & (slope > 0)
    return np.where(good[:, None], new, lines)
