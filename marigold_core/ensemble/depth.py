"""Several depth predictions of one picture, aligned and merged into one.

Affine-invariant predictions d_i = a_i d + b_i + error share a shape but neither scale nor shift.
Marigold (Ke et al. 2024, section 3.3) finds both by numeric descent on the pairwise differences;
here they come from the members' N x N correlation matrix in one step, and a few rounds on a
sample of the pixels make them robust.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import MarigoldError
from .alignment import CONSTANT, closed_form_alignment
from .inputs import NOT_FINITE, as_maps, as_mask, check_invariance, check_reduction, named, warn
from .merging import merge, moments
from .paper import paper_alignment

# Aligned maps have a spread of about one; a merged range below this is rounding.
SMALLEST_RANGE = 1e-5


@torch.no_grad()
def ensemble_depth(
    predictions: Any,
    *,
    method: str = "closed_form",
    reduction: str = "median",
    scale_invariant: bool = True,
    shift_invariant: bool = True,
    mask: Any = None,
) -> tuple[Any, Any]:
    """Align the members and merge them: `depth, uncertainty = ensemble_depth(predictions)`.

    predictions: floating (N, h, w) or (N, 1, h, w), torch on any device or numpy; the results are
    of the same kind, float32 (h, w). One member comes back as it is, with uncertainty None.

    method: "closed_form", or "paper" for the paper's objective (see `paper_alignment`). reduction:
    "median" (for even N the average of the two middle values) with the median absolute deviation
    as the uncertainty, or "mean" with the standard deviation (over N - 1, as in diffusers).

    scale_invariant, shift_invariant: both true, the merged map is mapped to [0, 1]; scale only,
    to a maximum of 1; neither (metric), members are merged as they are. The uncertainty is
    divided by the same range. mask: bool (h, w), True = used; other pixels take no part in
    alignment and range, so they can fall outside [0, 1].

    Members that are constant, not finite or (closed form) contradict the rest or are much noisier
    are left out with an `EnsembleWarning`. When all are constant, their mean comes back, with
    uncertainty 0. Raises MarigoldError on wrong shapes, a wrong word, an empty mask, or when no
    member is finite.
    """
    if method not in ("closed_form", "paper"):
        raise MarigoldError(f'method is {method!r}; use "closed_form" or "paper".')
    check_reduction(reduction, "median", "mean")
    check_invariance(scale_invariant, shift_invariant)
    members, wrap = as_maps(predictions, "predictions")
    n, height, width = members.shape
    used_pixels = None if mask is None else as_mask(mask, members)
    if n == 1:
        return wrap(members[0].clone()), None

    members = members.reshape(n, -1)
    used = members if used_pixels is None else members[:, used_pixels.reshape(-1)]
    mean, covariance = moments(used)
    finite = covariance.diagonal().isfinite()
    if not finite.any():
        raise MarigoldError(
            "Every ensemble member holds NaN or infinity; run the checkpoint in float32."
        )
    left_out = named(~finite, NOT_FINITE)
    size = covariance.diagonal().sqrt()
    if not shift_invariant:
        size = (covariance.diagonal() + mean.square()).sqrt()
    flat = size <= CONSTANT * mean.abs()
    kept = finite
    if scale_invariant:
        left_out += named(finite & flat, "are constant" if shift_invariant else "are zero")
        kept = finite & ~flat
        if not kept.any():
            warn(left_out)
            depth = members[finite.to(members.device)].mean(0)
            return wrap(depth.reshape(height, width)), wrap(torch.zeros(height, width).to(depth))

    if not scale_invariant:
        scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
    elif method == "closed_form":
        scale, shift, kept, reasons = closed_form_alignment(
            used, mean, covariance, size, kept, shift_invariant
        )
        left_out += reasons
    else:
        scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
        second = covariance if shift_invariant else covariance + torch.outer(mean, mean)
        scale[kept], shift[kept] = paper_alignment(
            used[kept.to(used.device)],
            mean[kept],
            size[kept],
            (second / torch.outer(size, size))[kept][:, kept],
            reduction,
            shift_invariant,
        )
    warn(left_out)

    rows = kept.nonzero()[:, 0].tolist()
    depth, spread = merge(members, rows, scale[kept], shift[kept], reduction)
    if scale_invariant:
        seen = depth if used_pixels is None else depth[used_pixels.reshape(-1)]
        low = seen.min() if shift_invariant else torch.zeros_like(seen[0])
        extent = (seen.max() - low).clamp(min=SMALLEST_RANGE)
        depth.sub_(low).div_(extent)
        spread.div_(extent)
    return wrap(depth.reshape(height, width)), wrap(spread.reshape(height, width))
