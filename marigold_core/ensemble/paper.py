"""The paper's ensembling objective, held at unit range and minimised by L-BFGS."""

from __future__ import annotations

from operator import itemgetter

import torch
from torch import Tensor

from .alignment import align_to_median, loadings
from .merging import merge, sample

ITERATIONS = 20
# Weight of the regulariser |min m| + |1 - max m| (Ke et al. 2024, eq. 4).
REGULARISER = 0.02


def paper_alignment(
    maps: Tensor,
    mean: Tensor,
    size: Tensor,
    correlation: Tensor,
    reduction: str,
    shift_invariant: bool,
) -> tuple[Tensor, Tensor]:
    """Scales and shifts that minimise the paper's eq. 4, float64 (N,) on the CPU.

    maps: float32 (N, P), none of them constant. mean, size: float64 (N,); correlation (N, N). Size
    is the standard deviation; scale-only, where correlations are uncentred, the root mean square.

    The paper's cost, one RMS over all pairs and pixels + 0.02 (|min m| + |1 - max m|), is lowest
    at scale 0 once the RMS exceeds 0.02. Here it is taken after the merged map m is brought to a
    range of one (scale-only: a maximum of one), so that it cannot collapse.

    The search starts from the paper's min-max scales or from the closed form, whichever costs
    least, and the best point visited is returned: the cost is never above either. The RMS needs
    the correlations alone; an evaluation is one pass over the pixels, for the extremes of m.
    """
    # Autograd does not take the tensors that a caller made in torch.inference_mode().
    with torch.inference_mode(False), torch.enable_grad():
        mean, size, disagreement = mean.clone(), size.clone(), 1 - correlation

        def affine(parameters: Tensor) -> tuple[Tensor, Tensor]:
            """Scale and shift from the logarithm of each map's size and its level."""
            scale = parameters[0].exp() / size
            return scale, (parameters[1] - scale * mean) * shift_invariant

        def cost(parameters: Tensor) -> Tensor:
            scale, shift = affine(parameters)
            near, far = _extremes(maps, scale, shift, reduction)
            extent = (far - near if shift_invariant else far).clamp(min=1e-6)
            rms = _pairwise_rms(parameters[0].exp(), parameters[1] * shift_invariant, disagreement)
            return (rms + (0 if shift_invariant else REGULARISER * near.abs())) / extent

        starts = [
            torch.stack([(scale * size).log(), scale * mean + shift])
            for scale, shift in _starts(maps, mean, size, correlation.clone(), shift_invariant)
        ]
        with torch.no_grad():
            best_cost, best = min(
                ((cost(start).item(), start) for start in starts), key=itemgetter(0)
            )
        parameters = best.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [parameters], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
        )

        def evaluate() -> Tensor:
            nonlocal best_cost, best
            optimiser.zero_grad()
            value = cost(parameters)
            value.backward()
            if value.item() < best_cost:
                best_cost, best = value.item(), parameters.detach().clone()
            return value

        optimiser.step(evaluate)
        scale, shift = affine(best)
        # The cost leaves the common scale open; the search may have moved far along it.
        near, far = _extremes(maps, scale, shift, reduction)
        extent = (far - near if shift_invariant else far).clamp(min=1e-6)
    return scale / extent, (shift - near) / extent * shift_invariant


def _starts(
    maps: Tensor, mean: Tensor, size: Tensor, correlation: Tensor, shift_invariant: bool
) -> list[tuple[Tensor, Tensor]]:
    """Scales and shifts by minimum and maximum, in closed form, and in closed form refined."""
    low, high = (value.cpu().double() for value in maps.aminmax(dim=1))
    by_range = 1 / (high - low if shift_invariant else high.abs()).clamp(min=1e-6)
    closed = 1 / (size * loadings(correlation))
    by_range_shift, closed_shift = -by_range * low, -closed * mean
    if not shift_invariant:
        by_range_shift = closed_shift = torch.zeros_like(mean)
    refined = align_to_median(sample(maps), closed, closed_shift, shift_invariant)
    return [(by_range, by_range_shift), (closed, closed_shift), refined]


def _pairwise_rms(amplitude: Tensor, level: Tensor, disagreement: Tensor) -> Tensor:
    """Root mean square over pairs of maps and pixels of their difference, differentiable at 0."""
    # |a_i x_i - a_j x_j|^2 without the cancellation of a_i^2 + a_j^2 - 2 a_i a_j r_ij.
    apart = (amplitude[:, None] - amplitude).square() + (level[:, None] - level).square()
    apart = apart + 2 * torch.outer(amplitude, amplitude) * disagreement
    n = len(amplitude)
    return (apart.sum() / (n * max(n - 1, 1)) + 1e-12).sqrt()


def _extremes(maps: Tensor, scale: Tensor, shift: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """The merged map's minimum and maximum, differentiable by scale and shift."""
    n = len(maps)
    with torch.no_grad():
        merged, _ = merge(maps, list(range(n)), scale, shift, reduction, spread=False)
        pixels = maps[:, torch.stack([merged.argmin(), merged.argmax()])].to(scale)
    ends = pixels * scale[:, None] + shift[:, None]
    if reduction == "median":
        ends = ends.sort(0).values[[(n - 1) // 2, n // 2]]
    near, far = ends.mean(0)
    return near, far
