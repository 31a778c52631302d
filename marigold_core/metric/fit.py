"""From affine-invariant depth to metres: `fit_metric`. Needs numpy alone.

A scale a > 0 and a shift b are fitted to the map's values d at the known points, in depth,
z = a d + b, or in inverse depth, 1 / z = b - a d, whichever predicts the points that it has not
seen better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from ..geometry.camera_estimate import NOTHING, estimate_camera
from ..geometry.points import FOV_DEGREES
from .hints import KnownDepths
from .lengths import Measures, scale_and_offset
from .robust import (
    BIWEIGHT,
    RobustLine,
    agreement,
    bootstrap_lines,
    left_out_residuals,
    robust_centre,
    robust_line,
    weighted_median,
)

if TYPE_CHECKING:
    from ..depth import DepthMap

Floats = NDArray[np.float64]
# More known points than this, evenly picked, change nothing but the time.
_MAX_FITTED = 5000
_MAX_BOOTSTRAPPED = 500
_REPLICATES = 100
# Inverse depth is taken where its errors on points left out are this much smaller, of as many.
_CLEARLY_BETTER = 0.9
_FEWEST_FOR_INVERSE = 5
# Depth beyond the known points is held within this many times nearer and farther than they are.
_REACH = 20.0
# Known values that the map has within this part of its range of each other do not fix a shift.
_SAME_DEPTH = 1e-3
# What users measure in by mistake, in metres.
_UNITS = {"feet": 0.3048, "centimetres": 0.01, "millimetres": 0.001, "inches": 0.0254}


@dataclass(frozen=True, eq=False)
class MetricFit:
    """How a depth map's values d become distances, and how well.

    scale, shift: z = scale d + shift, or with `inverse`, 1 / z = shift - scale d; scale > 0.
    shift_fitted: False where the hints fix the scale alone.
    outliers: (K,) int64, indices of the known points that the fit left out; fitted: of how many,
        at most 5000 evenly picked ones.
    relative_error: the mean relative error expected at other pixels, from points that the fit has
        not seen; error_range: its 90 % interval, by bootstrap over the hints. None where fewer than
        three known points agree: two lie on a line always.
    lines: (B, 2), scale and shift of the bootstrap's replicates.
    limits: (nearest, farthest), to which distances are clipped.
    in_metres: False where the known depths had no scale; distances are in their units.
    notes: what a user should look at, one message each.
    """

    scale: float
    shift: float
    inverse: bool = False
    shift_fitted: bool = True
    outliers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    fitted: int = 0
    relative_error: float | None = None
    error_range: tuple[float, float] | None = None
    lines: Floats = field(default_factory=lambda: np.empty((0, 2)))
    limits: tuple[float, float] = (0.0, math.inf)
    in_metres: bool = True
    notes: tuple[str, ...] = ()

    def depth(self, values: NDArray[np.floating]) -> Floats:
        """The map's values, of any shape -> distances, float64; NaN stays NaN."""
        return self._depth(np.asarray(values, dtype=np.float64), self.scale, self.shift)

    def uncertainty(
        self, values: NDArray[np.floating], spread: NDArray[np.floating] | None = None
    ) -> Floats | None:
        """Standard deviation of the distances at these values: of the bootstrap's lines, and of
        the map about them. `spread`: the ensemble's, in the map's units. None where none is known.
        """
        values = values.astype(np.float64)
        z = self.depth(values)
        squares = np.zeros_like(z)
        known = False
        # By how much distance changes with the line's own value at a pixel.
        gain = z**2 if self.inverse else np.ones_like(z)
        if len(self.lines):
            (scales, both), (_, shifts) = np.cov(self.lines.T)
            sign = -2 if self.inverse else 2
            squares += gain**2 * (scales * values**2 + sign * both * values + shifts)
            known = True
        if self.relative_error is not None:
            # Of a normal distribution, whose mean deviation is 0.8 of its standard deviation.
            squares += (1.2533 * self.relative_error * z) ** 2
            known = True
        elif spread is not None:
            squares += (gain * self.scale * np.asarray(spread, np.float64)) ** 2
            known = True
        return np.sqrt(np.maximum(squares, 0)) if known else None

    def scaled(self, factor: float) -> MetricFit:
        """The same with all distances times `factor`, then in metres."""
        by = 1 / factor if self.inverse else factor
        return replace(
            self,
            scale=self.scale * by,
            shift=self.shift * by,
            lines=self.lines * by,
            limits=(self.limits[0] * factor, self.limits[1] * factor),
            in_metres=True,
        )

    def _depth(self, values: NDArray[np.floating], scale: float, shift: float) -> Floats:
        if not self.inverse:
            return np.clip(scale * values + shift, *self.limits)
        inverse = shift - scale * values
        return np.clip(1 / np.maximum(inverse, 1 / max(self.limits[1], 1e-300)), *self.limits)


def fit_metric(
    depth_map: DepthMap,
    known: KnownDepths,
    *,
    inverse: bool | None = None,
    fit_shift: bool | None = None,
    fov_degrees: float | None = None,
) -> DepthMap:
    """The depth map in metres, by what is known; its `fit` says how.

    depth_map: affine-invariant, 0 = near; or with a known shift, or metric: then only its scale is
        corrected, unless fit_shift is True. Its uncertainty weights the hints: those where the
        ensemble disagrees count less.
    inverse: fit in inverse depth, or not; None = what predicts points left out better.
    fov_degrees: for known lengths and the camera's height; None = the hints' own, else
        `estimate_camera`'s, else 50.

    Two hints or more that differ in depth fix scale and shift. One fixes the scale alone: then
    the farthest point is as many times farther than the nearest as `estimate_camera` finds, else 5.
    The result's depth is z in metres, both invariances false (the scale unknown where
    `known.in_metres` is False and no length tells it), its uncertainty the fit's and the
    ensemble's. Distances are held within 20 times nearer and farther than the hints.

    Raises MarigoldError where there is no hint, where hints lie in the masked part alone or
    outside the picture, and where they contradict the map.
    """
    fit = fit_depth(
        depth_map.depth,
        known,
        mask=depth_map.mask,
        uncertainty=depth_map.uncertainty,
        scale_invariant=depth_map.scale_invariant,
        shift_invariant=depth_map.shift_invariant,
        inverse=inverse,
        fit_shift=fit_shift,
        fov_degrees=fov_degrees,
    )
    distances = fit.depth(depth_map.depth)
    spread = fit.uncertainty(depth_map.depth, depth_map.uncertainty)
    return replace(
        depth_map,
        depth=distances.astype(np.float32),
        uncertainty=None if spread is None else spread.astype(np.float32),
        scale_invariant=not fit.in_metres,
        shift_invariant=False,
        fit=fit,
    )


def fit_depth(
    depth: NDArray[np.floating],
    known: KnownDepths,
    *,
    mask: NDArray[np.bool_] | None = None,
    uncertainty: NDArray[np.floating] | None = None,
    scale_invariant: bool = True,
    shift_invariant: bool = True,
    inverse: bool | None = None,
    fit_shift: bool | None = None,
    fov_degrees: float | None = None,
) -> MetricFit:
    """The fit alone, of a float array (H, W): what `fit_metric` does, without `DepthMap`, which
    needs Pillow. `MetricFit.depth` then turns values of the map, all or some, into distances."""
    used = np.isfinite(depth) & (True if mask is None else mask)
    values = np.where(used, depth.astype(np.float64), np.nan)
    notes: list[str] = []
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise MarigoldError("The depth map has no depth inside its mask.")
    span = float(finite.min()), float(finite.max())
    height, width = values.shape
    size = (height, width) if known.size is None else known.size
    usable, x, y, weights = _at_points(values, uncertainty, known, notes)

    fov = fov_degrees if fov_degrees is not None else known.fov_degrees
    measured = known.camera_height is not None or len(known.lengths)  # type: ignore[arg-type]
    guess = NOTHING
    if shift_invariant and len(x) < 2 or measured and fov is None:
        guess = estimate_camera(values)
    angle = fov or guess.fov_degrees or FOV_DEGREES
    measures = Measures(values, known, size, angle)
    if len(measures) and fov is None:
        notes.append(
            "No field of view is known: lengths are measured with"
            f" {'an estimate of ' if guess.fov_degrees else ''}{angle:g} degrees, and change with"
            " it."
        )
    if not len(x) + len(measures):
        raise MarigoldError("There is no known depth, length or camera height to fit to.")
    if not known.in_metres and not len(x):
        raise MarigoldError("The reconstruction has no point where the depth map has depth.")

    relief = span[1] - span[0]
    together = known.in_metres and bool(len(measures))
    hints = len(x) + (len(measures) if together else 0)
    shift_open = shift_invariant if fit_shift is None else fit_shift
    if shift_open and hints > 1 and not together and np.ptp(x) <= _SAME_DEPTH * max(relief, 1e-12):
        notes.append(
            "All known points are at the same depth in the map: they fix the scale alone. Add one"
            " that is clearly nearer or farther."
        )
        shift_open = False
    # Without a second hint, near to far as it is drawn without any.
    near, far = guess.near_far
    usual = relief * near / (far - near) - span[0] if shift_invariant else 0.0
    if shift_invariant and hints == 1:
        notes.append(
            f"One hint fixes the scale alone: the farthest point is taken to be {far / near:.3g}"
            f" times as far as the nearest,{' an estimate' if guess.relief else ' a guess'}. Add a"
            " known point at another depth."
        )
    if together or not shift_open or hints == 1:
        fit = _scale_fit(x, y, weights, measures if together else None, span, usual,
                         shift_open and hints > 1)  # fmt: skip
    else:
        fit = _line_fit(x, y, weights, inverse)
    fit = _with_limits(fit, y, measures, known)
    if not known.in_metres and len(measures):
        factor = math.exp(-float(np.median(measures.log_ratios(fit.depth))))
        fit = fit.scaled(factor)
        y = y * factor
    elif not known.in_metres:
        fit = replace(fit, in_metres=False)
        notes.append(
            "The known depths have no scale, and neither has the result: it is in the"
            " reconstruction's units. Give its metres per unit, or one known length."
        )
    notes += _suspicions(fit, not (scale_invariant or shift_invariant), x, y, measures)
    return replace(fit, outliers=usable[fit.outliers], fitted=len(usable), notes=tuple(notes))


def _at_points(
    values: Floats,
    uncertainty: NDArray[np.floating] | None,
    known: KnownDepths,
    notes: list[str],
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """(indices, map values, distances, weights) of the points where the map has depth."""
    rows, columns = known.pixels(values.shape)  # type: ignore[arg-type]
    found = values[rows, columns]
    usable = np.flatnonzero(np.isfinite(found))
    lost = len(found) - len(usable)
    if lost and not len(usable) and not len(known.lengths) and known.camera_height is None:  # type: ignore[arg-type]
        raise MarigoldError("All known points lie where the mask leaves the depth map out.")
    if lost:
        notes.append(f"{lost} of {len(found)} known points lie where the depth map has no depth.")
    if len(usable) > _MAX_FITTED:
        usable = usable[np.linspace(0, len(usable) - 1, _MAX_FITTED).astype(np.int64)]
    weights = np.asarray(known.weights)[usable]
    if uncertainty is not None and len(usable):
        inside = np.where(np.isfinite(values), uncertainty, np.nan)
        weights = weights * agreement(inside, rows[usable], columns[usable])
    return usable, found[usable], known.metres[usable], np.maximum(weights, 1e-12)


def _line_fit(x: Floats, y: Floats, weights: Floats, inverse: bool | None) -> MetricFit:
    """Scale and shift from two points or more."""
    fits = {}
    if inverse is not True:
        fits[False] = x, y
    if inverse is not False and (inverse or len(x) >= _FEWEST_FOR_INVERSE):
        fits[True] = -x, 1 / y
    lines = {key: robust_line(*points, weights) for key, points in fits.items()}
    rising = [line for line in lines.values() if line is not None and line.rising >= 0.5]
    if not rising and not np.ptp(y):
        raise MarigoldError(
            f"All known points have the distance {y[0]:.4g}, and the depth map has them at"
            " different depths: give points at two distances or more, or one alone for the scale."
        )
    if not rising:
        raise MarigoldError(
            "The known depths contradict the depth map: what is farther in the map has the smaller"
            " distance. Check the positions (x from the left, y from the top) and distances, or"
            " whether the map has white = near."
        )
    left_out = {
        key: left_out_residuals(line, *fits[key], weights)
        for key, line in lines.items()
        if line is not None
    }
    cap = BIWEIGHT * min(line.sigma for line in rising)
    scores = {
        key: float(np.average(np.abs(r).clip(0, cap), weights=weights))
        for key, r in left_out.items()
    }
    better = bool(inverse) or False not in scores
    if len(scores) == 2:
        better = scores[True] < _CLEARLY_BETTER * scores[False]
    line = lines[better]
    assert line is not None
    return _described(line, better, *fits[better], weights, left_out[better])


def _described(
    line: RobustLine, inverse: bool, x: Floats, y: Floats, weights: Floats, left_out: Floats
) -> MetricFit:
    """The line as a fit, with its outliers and errors."""
    fit = MetricFit(line.slope, line.intercept, inverse)
    if len(x) < 3:
        return fit
    fit = replace(fit, outliers=np.flatnonzero(np.abs(left_out) > BIWEIGHT * line.sigma))
    if len(x) - len(fit.outliers) < 3:
        return fit
    picked = np.linspace(0, len(x) - 1, min(len(x), _MAX_BOOTSTRAPPED)).astype(np.int64)
    lines = bootstrap_lines(line, x[picked], y[picked], weights[picked], _REPLICATES)
    centre = np.array([line.slope, line.intercept])
    # Of fewer points than there are, the replicates spread too far.
    lines = centre + (lines - centre) * math.sqrt(len(picked) / len(x))
    error, error_range = _error_estimate(left_out, line.sigma)
    return replace(fit, relative_error=error, error_range=error_range, lines=lines)


def _error_estimate(left_out: Floats, sigma: float) -> tuple[float, tuple[float, float]]:
    """The mean relative error at a pixel like the known points, and its 90 % interval.

    Some residuals beyond the biweight's reach are the map's own errors, at edges and near the
    camera; only those of twice that are surely the hints'. The interval is the bootstrap-t's of
    the logarithm: a mean of few errors spreads to the upper side.
    """
    errors = np.abs(np.expm1(left_out[np.abs(left_out) <= 2 * BIWEIGHT * sigma]))
    mean = max(float(errors.mean()), 1e-12)
    draws = errors[np.random.default_rng(1).integers(len(errors), size=(1000, len(errors)))]
    means = np.maximum(draws.mean(axis=1), 1e-12)
    spread = np.maximum(draws.std(axis=1) / means, 1e-12)
    t = np.log(means / mean) / spread
    low, high = np.percentile(t[np.isfinite(t)], [5, 95]) * errors.std() / mean
    return mean, (mean * math.exp(-min(high, 3)), mean * math.exp(-max(low, -3)))


def _scale_fit(
    x: Floats,
    y: Floats,
    weights: Floats,
    measures: Measures | None,
    span: tuple[float, float],
    usual: float,
    shift_open: bool,
) -> MetricFit:
    """z = a (d + c): a alone with the `usual` c, or both where lengths are among the hints."""
    if shift_open and measures is not None:
        a, c = scale_and_offset(x, y, weights, measures, span, usual)
    else:
        c = usual
        if len(x) and (x + c <= 0).any():
            raise MarigoldError(
                "A known point lies where this depth map has the distance 0, so no scale fits it."
            )
        points = np.log((x + c) / y)
        others = np.empty(0)
        if measures is not None:
            others = measures.log_ratios(lambda d: np.maximum(d + c, 1e-12))
        ratios = np.concatenate([points, others])
        all_weights = np.concatenate([weights / max(weights.sum(), 1e-12) * len(points),
                                      np.ones(len(others))])  # fmt: skip
        a = math.exp(-robust_centre(ratios, all_weights)[0])
    fit = MetricFit(a, a * c, shift_fitted=shift_open)
    if len(x) < 3:
        return fit
    residuals = np.log(np.maximum(a * (x + c), 1e-12) / y)
    sigma = max(1.4826 * weighted_median(np.abs(residuals), weights), 1e-3)
    fit = replace(fit, outliers=np.flatnonzero(np.abs(residuals) > BIWEIGHT * sigma))
    if len(x) - len(fit.outliers) < 3:
        return fit
    error, error_range = _error_estimate(residuals, sigma)
    return replace(fit, relative_error=error, error_range=error_range)


def _with_limits(fit: MetricFit, y: Floats, measures: Measures, known: KnownDepths) -> MetricFit:
    if len(y):
        kept = np.delete(y, fit.outliers)
        return replace(fit, limits=(float(kept.min()) / _REACH, float(kept.max()) * _REACH))
    # Lengths alone: nothing is nearer than a small part of the least of them.
    return replace(fit, limits=(float(measures.known_metres.min()) / _REACH**2, math.inf))


def _suspicions(
    fit: MetricFit, metric: bool, x: Floats, y: Floats, measures: Measures
) -> list[str]:
    """Notes on hints that are off by the factor between two units, and on those that disagree."""
    notes = []
    if metric and fit.in_metres and (unit := _unit_of(fit.scale)):
        notes.append(
            f"The known depths are {fit.scale:.3g} times those of the depth map, which is in"
            f" metres: are they in {unit}?"
        )
    off = y[fit.outliers] / fit.depth(x[fit.outliers])
    units = [_unit_of(ratio) for ratio in off]
    for unit in sorted({unit for unit in units if unit}):
        if units.count(unit) > 1:
            notes.append(
                f"{units.count(unit)} of the {len(off)} outliers fit if they are in {unit}, not in"
                " metres."
            )
    ratios = np.exp(-measures.log_ratios(fit.depth))
    for name, ratio in zip(measures.names, ratios, strict=True):
        if abs(math.log(ratio)) > math.log(1.15):
            unit = _unit_of(ratio)
            guess = f": is it in {unit}?" if unit else "; check it, and the field of view."
            notes.append(f"{name} is {ratio:.3g} times what the other hints make of it{guess}")
    return notes


def _unit_of(ratio: float) -> str | None:
    """The unit, not the metre, whose numbers are `ratio` times as large as metres."""
    for name, metres in _UNITS.items():
        if abs(math.log(ratio * metres)) < 0.08:
            return name
    return None


def surely_wrong(depth_map: DepthMap, known: KnownDepths) -> NDArray[np.bool_]:
    """(N,) bool: the known points that lie beyond twice the reach of the biweight about a map
    that `fit_metric` made; where its uncertainty is wide, so is the reach."""
    rows, columns = known.pixels(depth_map.depth.shape)  # type: ignore[arg-type]
    at = depth_map.depth[rows, columns].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        residuals = np.abs(np.log(at / known.metres))
    found = np.isfinite(residuals)
    if found.sum() < 3:
        return np.zeros(len(known), bool)
    sigma = np.full(len(known), 1.4826 * float(np.median(residuals[found])))
    if depth_map.uncertainty is not None:
        sigma = np.hypot(sigma, np.nan_to_num(depth_map.uncertainty[rows, columns] / at))
    return found & (residuals > 2 * BIWEIGHT * np.maximum(sigma, 1e-3))
