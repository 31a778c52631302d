"""Several predictions of one picture to one depth map, and frames of a clip to one range.

Affine-invariant predictions d_i = a_i d + b_i + error share a shape but neither scale nor shift.
Marigold (Ke et al. 2024, section 3.3) finds both by numeric descent on the pairwise differences;
here they come from the members' N x N correlation matrix in one step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MarigoldError
from .alignment import CONSTANT, agreement, fit, loadings, paper_alignment
from .merging import merge, moments

# Aligned maps have a spread of about one; a merged range below this is rounding.
SMALLEST_RANGE = 1e-5


class EnsembleWarning(UserWarning):
    """Some members, or frames, could not be aligned; the message names them and says why."""


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

    method: "closed_form", or "paper" for the paper's objective from the min-max start. reduction:
    "median" (for even N the average of the two middle values) with the median absolute deviation
    as the uncertainty, or "mean" with the standard deviation (over N - 1, as in diffusers).

    scale_invariant, shift_invariant: both true, the merged map is mapped to [0, 1]; scale only,
    to a maximum of 1; neither (metric), members are merged as they are. The uncertainty is
    divided by the same range. mask: bool (h, w), True = used; other pixels take no part in
    alignment and range, so they can fall outside [0, 1].

    Members that are constant, not finite or (closed form) contradict the rest are left out with an
    `EnsembleWarning`. When all are constant, their mean comes back, with uncertainty 0. Raises
    MarigoldError on wrong shapes, a wrong word, an empty mask, or when no member is finite.
    """
    if method not in ("closed_form", "paper"):
        raise MarigoldError(f'method is {method!r}; use "closed_form" or "paper".')
    if reduction not in ("median", "mean"):
        raise MarigoldError(f'reduction is {reduction!r}; use "median" or "mean".')
    _check_invariance(scale_invariant, shift_invariant)
    members, wrap = _as_maps(predictions, "predictions")
    n, height, width = members.shape
    used_pixels = None if mask is None else _as_mask(mask, members)
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
    left_out = _named(~finite, "hold NaN or infinity")
    size = covariance.diagonal().sqrt()
    if not shift_invariant:
        size = (covariance.diagonal() + mean.square()).sqrt()
    flat = size <= CONSTANT * mean.abs()
    kept = finite
    if scale_invariant:
        left_out += _named(finite & flat, "are constant" if shift_invariant else "are zero")
        kept = finite & ~flat
        if not kept.any():
            _warn(left_out)
            depth = members[finite.to(members.device)].mean(0)
            return wrap(depth.reshape(height, width)), wrap(torch.zeros(height, width).to(depth))

    scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
    if scale_invariant:
        if method == "closed_form":
            agree, tie = agreement(mean, covariance, kept)
            left_out += _named(kept & ~agree, "contradict the others")
            left_out += _named(tie, "contradict one another, with no majority; merged all the same")
            kept = agree
        second = covariance if shift_invariant else covariance + torch.outer(mean, mean)
        correlation = (second / torch.outer(size, size))[kept][:, kept]
        if method == "closed_form":
            scale[kept] = 1 / (size[kept] * loadings(correlation))
            if shift_invariant:
                shift = -scale * mean
        else:
            scale[kept], shift[kept] = paper_alignment(
                used[kept.to(used.device)], mean[kept], size[kept], correlation,
                reduction, shift_invariant,
            )  # fmt: skip
    _warn(left_out)

    rows = kept.nonzero()[:, 0].tolist()
    depth, spread = merge(members, rows, scale[kept], shift[kept], reduction)
    if scale_invariant:
        seen = depth if used_pixels is None else depth[used_pixels.reshape(-1)]
        low = seen.min() if shift_invariant else torch.zeros_like(seen[0])
        extent = (seen.max() - low).clamp(min=SMALLEST_RANGE)
        depth.sub_(low).div_(extent)
        spread.div_(extent)
    return wrap(depth.reshape(height, width)), wrap(spread.reshape(height, width))


def align_to(
    prediction: Any,
    reference: Any,
    *,
    scale_invariant: bool = True,
    shift_invariant: bool = True,
    mask: Any = None,
) -> Any:
    """The prediction, scaled and shifted onto the reference.

    prediction, reference: floating (h, w), torch or numpy; the result is float32 (h, w) of the
    prediction's kind, in the reference's units, not clipped. scale_invariant, shift_invariant: as
    in `ensemble_depth`; a metric prediction comes back as it is. mask: bool (h, w), True = used.

    This is the closed form of two members, both taken to be noisy: the scale is the ratio of the
    standard deviations, always positive. (A plain regression loses a factor of the squared
    correlation, which over the frames of a clip shrinks depth to nothing.) Pixels that moved
    are weighted down by their residual. Raises MarigoldError on shapes and non-finite values.
    """
    _check_invariance(scale_invariant, shift_invariant)
    maps, wrap = _as_maps(_single(prediction), "prediction")
    onto, _ = _as_maps(_single(reference), "reference")
    if maps.shape != onto.shape:
        raise MarigoldError(
            f"The prediction is {tuple(maps.shape[1:])} and the reference {tuple(onto.shape[1:])};"
            " resize one of them."
        )
    used = torch.ones_like(maps[0], dtype=torch.bool) if mask is None else _as_mask(mask, maps)
    if not scale_invariant:
        return wrap(maps[0].clone())
    x, y = maps[0][used], onto[0].to(maps.device)[used]
    if not (x.isfinite().all() and y.isfinite().all()):
        raise MarigoldError("The maps hold NaN or infinity; mask those pixels.")
    scale, shift, _ = fit(x, y, shift_invariant)
    return wrap(maps[0] * scale + shift)


@torch.no_grad()
def align_sequence(
    frames: Any,
    *,
    scale_invariant: bool = True,
    shift_invariant: bool = True,
    mask: Any = None,
) -> Any:
    """Frames of one clip, each with a scale and shift of its own, to one common range.

    frames: floating (T, h, w), torch or numpy; float32 of the same kind comes back, in [0, 1] over
    all frames together (scale only: a maximum of 1; metric or T = 1: as they are). mask: bool
    (h, w) or (T, h, w), True = used. Each frame is aligned to its predecessor as in `align_to`;
    with the ratio of deviations as the scale, errors do not compound in a still picture.

    A constant frame gets its predecessor's level and is skipped as a reference. Frames that do not
    continue their predecessor (a cut) keep its mean and deviation; both give an `EnsembleWarning`.
    Raises MarigoldError on wrong shapes, an empty mask or non-finite frames.
    """
    _check_invariance(scale_invariant, shift_invariant)
    maps, wrap = _as_maps(frames, "frames")
    count = len(maps)
    if count == 1 or not scale_invariant:
        return wrap(maps.clone())
    used = torch.ones_like(maps, dtype=torch.bool) if mask is None else _as_mask(mask, maps, count)
    aligned = maps.clone()
    previous = 0
    constant, cuts = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    for k in range(count):
        shared = used[k] & used[previous]
        x = maps[k][shared]
        if not maps[k][used[k]].isfinite().all():
            raise MarigoldError(f"Frame {k + 1} holds NaN or infinity; leave it out or mask it.")
        if not len(x):
            raise MarigoldError(f"Frames {previous + 1} and {k + 1} share no pixel in the mask.")
        scale, shift, correlation = fit(x, aligned[previous][shared], shift_invariant)
        aligned[k] = maps[k] * scale + shift
        constant[k] = shift_invariant and bool(x.std(correction=0) <= CONSTANT * x.mean().abs())
        cuts[k] = correlation <= 0
        if not constant[k]:
            previous = k
    strange = _named(constant, "are constant") + _named(cuts, "do not continue the one before")
    _warn(strange, "Frame")
    seen = aligned[used]
    low = seen.min() if shift_invariant else torch.zeros_like(seen[0])
    return wrap(aligned.sub_(low).div_((seen.max() - low).clamp(min=1e-6)))


def _check_invariance(scale_invariant: bool, shift_invariant: bool) -> None:
    if shift_invariant and not scale_invariant:
        raise MarigoldError(
            "No checkpoint is invariant to shift alone; set scale_invariant=True or"
            " shift_invariant=False."
        )


def _single(value: Any) -> Any:
    return value[None] if getattr(value, "ndim", 0) == 2 else value


def _as_maps(value: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """float32 (N, h, w), and what gives a result back in the caller's kind."""
    is_array = isinstance(value, np.ndarray)
    maps = torch.from_numpy(np.ascontiguousarray(value)) if is_array else value
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise MarigoldError(f"The {name} must be a floating-point torch tensor or numpy array.")
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3 or not maps.numel():
        raise MarigoldError(
            f"The {name} have the shape {tuple(value.shape)}; give (N, h, w) with N of 1 or more."
        )
    return maps.detach().float().contiguous(), Tensor.numpy if is_array else lambda result: result


def _as_mask(mask: Any, maps: Tensor, count: int = 1) -> Tensor:
    """bool (h, w) on the maps' device; (T, h, w) when asked for a count of them."""
    pixels = torch.as_tensor(mask, device=maps.device)
    shapes = [tuple(maps.shape[1:])] + [tuple(maps.shape)] * (count > 1)
    if pixels.dtype != torch.bool or tuple(pixels.shape) not in shapes:
        raise MarigoldError(
            f"The mask is {pixels.dtype} {tuple(pixels.shape)}; it must be bool {shapes[-1]}."
        )
    if not pixels.any():
        raise MarigoldError("The mask leaves no pixel; True means that a pixel is used.")
    return pixels if count == 1 else pixels.expand(maps.shape)


def _named(which: Tensor, why: str) -> list[str]:
    numbers = (which.nonzero()[:, 0] + 1).tolist()
    return [f"{', '.join(map(str, numbers))} of {len(which)}: {why}"] if numbers else []


def _warn(reasons: list[str], what: str = "Ensemble member") -> None:
    if reasons:
        warnings.warn(f"{what}s {'; '.join(reasons)}.", EnsembleWarning, stacklevel=4)
