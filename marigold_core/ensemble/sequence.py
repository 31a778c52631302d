"""Frames of one clip, brought to a common range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import MarigoldError
from .alignment import CONSTANT, TO_DEVIATION
from .inputs import as_maps, as_mask, check_invariance, named, warn
from .merging import wide_dtype

REWEIGHTING_ROUNDS = 5


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
    (h, w) or (T, h, w), True = used. Each frame is aligned to its predecessor, see `fit`;
    with the ratio of deviations as the scale, errors do not compound in a still picture.

    A constant frame gets its predecessor's level and is skipped as a reference. Frames that do not
    continue their predecessor (a cut) keep its mean and deviation; both give an `EnsembleWarning`.
    Raises MarigoldError on wrong shapes, an empty mask or non-finite frames.
    """
    check_invariance(scale_invariant, shift_invariant)
    maps, wrap = as_maps(frames, "frames")
    count = len(maps)
    if count == 1 or not scale_invariant:
        return wrap(maps.clone())
    used = torch.ones_like(maps, dtype=torch.bool) if mask is None else as_mask(mask, maps, count)
    aligned = torch.empty_like(maps)
    for k, frame in enumerate(follow(zip(maps, used, strict=True), shift_invariant)):
        aligned[k] = frame
    # One frame after the other: a long clip is in memory twice already.
    ends = torch.stack(
        [torch.stack(frame[seen].aminmax()) for frame, seen in zip(aligned, used, strict=True)]
    )
    low = ends[:, 0].min() if shift_invariant else torch.zeros_like(ends[0, 0])
    return wrap(aligned.sub_(low).div_((ends[:, 1].max() - low).clamp(min=1e-6)))


@torch.no_grad()
def follow(
    frames: Iterable[tuple[Tensor, Tensor]], shift_invariant: bool = True
) -> Iterator[Tensor]:
    """Each frame in turn, aligned to its predecessor, in the units of the first one.

    frames: float32 (h, w), and bool (h, w), True = used, of each. They are taken one by one and
    only the last reference is kept, so that a clip of any length takes the memory of two frames.
    Constant frames, cuts, warnings and errors as in `align_sequence`.
    """
    before: tuple[Tensor, Tensor] | None = None  # the reference, aligned, and its mask
    previous = 0
    constant, cuts = [], []
    for k, (frame, used) in enumerate(frames):
        if not frame[used].isfinite().all():
            raise MarigoldError(f"Frame {k + 1} holds NaN or infinity; leave it out or mask it.")
        reference, seen = (frame, used) if before is None else before
        shared = used & seen
        x = frame[shared]
        if not len(x):
            raise MarigoldError(f"Frames {previous + 1} and {k + 1} share no pixel in the mask.")
        scale, shift, correlation = fit(x, reference[shared], shift_invariant)
        aligned = frame * scale + shift
        constant.append(shift_invariant and bool(x.std(correction=0) <= CONSTANT * x.mean().abs()))
        cuts.append(correlation <= 0)
        if before is None or not constant[k]:
            previous, before = k, (aligned, used)
        yield aligned
    strange = named(torch.tensor(constant), "are constant")
    strange += named(torch.tensor(cuts), "do not continue the one before")
    warn(strange, "Frame", stacklevel=6)  # where `align_sequence` was called


def fit(x: Tensor, y: Tensor, shift_invariant: bool) -> tuple[float, float, float]:
    """Scale and shift of x (P,) onto y (P,), and their correlation before reweighting.

    The closed form of two members, both taken to be noisy: the scale is the ratio of the standard
    deviations, always positive. (A plain regression loses a factor of the squared correlation,
    which over the frames of a clip shrinks depth to nothing.)

    Reweighting (Geman and McClure's, at twice the robust deviation) is symmetric in the residual of
    a symmetric fit, so it does not favour either map. It is left out where the maps do not
    correlate; a constant map keeps its scale.
    """
    x, y = x.to(wide_dtype(x)), y.to(wide_dtype(y))
    weight = torch.ones_like(x)
    correlation = scale = 1.0
    shift = 0.0
    for k in range(REWEIGHTING_ROUNDS + 1):
        weight = weight / weight.sum()
        mean_x, mean_y = float(weight @ x), float(weight @ y)
        if not shift_invariant:
            mean_x = mean_y = 0.0
        centred_x, centred_y = x - mean_x, y - mean_y
        size_x = float(weight @ centred_x.square()) ** 0.5
        size_y = float(weight @ centred_y.square()) ** 0.5
        flat_x, flat_y = size_x <= CONSTANT * abs(mean_x), size_y <= CONSTANT * abs(mean_y)
        if flat_x or flat_y:
            return scale, mean_y - scale * mean_x if shift_invariant else 0.0, correlation
        scale = size_y / size_x
        shift = mean_y - scale * mean_x
        if k == 0:
            correlation = float(weight @ (centred_x * centred_y)) / (size_x * size_y)
            if correlation <= 0:
                break
        residual = (scale * x + shift - y).abs()
        bound = (2 * TO_DEVIATION * residual.median()).clamp(min=1e-6 * size_y)
        weight = (1 + (residual / bound).square()).square().reciprocal()
    return scale, shift, correlation
