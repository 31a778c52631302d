"""Guided sampling: known depths steer every denoising step, so that the map bends to them.

Marigold-DC (Viola et al. 2024, arXiv 2412.13389), training-free depth completion. Each step
decodes the clean latent that the U-Net predicts, compares it with the known depths, and moves the
latent, and a global scale and shift, along the gradient before the sampler's own step.

The procedure is the published one, term by term; a test holds it to that. Faster, with the same
result: the loss samples the map at the known points alone, where the original scales all of it to
the picture's size; weights take no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..denoising import start_of, vae_factor
from ..depth import DepthMap
from ..engine import Marigold
from ..errors import MarigoldError, is_out_of_memory
from ..images import read_image
from ..memory import release_memory, too_little_memory
from ..options import Options
from ..progress import Callback, Reporter, timed
from ..resize import checked_mask, resize_map
from ..targets import synchronize
from .fit import MetricFit, fit_metric, surely_wrong
from .hints import KnownDepths
from .robust import agreement

STEPS = 50
# Adam's learning rates, published: of the latent, and of the roots of scale and shift.
LATENT_RATE, SCALE_RATE = 0.05, 0.005


@dataclass(frozen=True)
class _Points:
    """The known depths on the device, and where the padded map has them.

    grid: (1, 1, N, 2), positions for `grid_sample`. metres, weights: (N,), weights of mean 1.
    nearest, span: the least of the depths, and the greatest minus it. start: the roots of scale
    and shift to begin with; 1 and 1 as published.
    """

    grid: Tensor
    metres: Tensor
    weights: Tensor
    nearest: float
    span: float
    start: tuple[float, float] = (1.0, 1.0)

    def loss(self, depth: Tensor, roots: Tensor) -> Tensor:
        """L1 + L2 of the map (1, H, W) in [0, 1] at the points, in metres; equation 3."""
        at = F.grid_sample(depth[None], self.grid, padding_mode="border", align_corners=False)
        error = self.metric(at.flatten(), roots) - self.metres
        return (self.weights * (error.abs() + error.square())).mean()

    def metric(self, depth: Tensor, roots: Tensor) -> Tensor:
        """Equation 2: scale and shift are squares, and so never negative."""
        scale, shift = roots.square()
        return scale * self.span * depth + shift * self.nearest


def guided_depth(
    marigold: Marigold,
    image: Any,
    known: KnownDepths,
    options: Options | None = None,
    *,
    before: DepthMap | None = None,
    mask: Any = None,
    callback: Callback | None = None,
    checkpointing: bool = False,
    **changes: Any,
) -> DepthMap:
    """Depth in metres at the picture's size, denoised under the guidance of `known`.

    options, changes: as in `Marigold.predict`; num_inference_steps None is 50, as published (10
    is the authors' choice for CPUs). Members are denoised one at a time and merged by their
    median; two or more give an uncertainty. bfloat16 and a tiny VAE save memory and time.
    before: an earlier depth map of this picture, as `Marigold` or `fit_metric` returned it. The
    scale and shift of its fit are where those of the sampling start; None starts from the points'
    range, as published. Known points that are surely wrong by it are left out: the squared error
    follows every point, a wrong one too. Where it is of an ensemble, and not yet fitted, points at
    which the members disagree count less, as in `fit_metric`.
    checkpointing: compute activations twice instead of keeping them, for small cards; switched on
    by itself where memory runs out.
    callback: as in `predict`.

    Only the points of `known` steer. Its lengths and camera height do not, and the result's notes
    say so; of points without a scale they give the scale, by the fit of `before`. Raises
    MarigoldError for fewer than two points, points of one distance, and checkpoints without a
    denoising trajectory (LCM, E2E).
    """
    options = replace(options or Options(), **changes)
    marigold.expect("depth")
    if marigold.family != "ddim":
        raise MarigoldError(
            "Guidance steers many denoising steps, which this checkpoint of the family"
            f" {marigold.family} does not take; choose one such as v1-1, or leave the guidance"
            " out."
        )
    if options.num_inference_steps is None:
        options = replace(options, num_inference_steps=STEPS)
    picture = read_image(image)
    full_size = picture.shape[0], picture.shape[1]
    used = None if mask is None else checked_mask(mask, full_size)
    spread = None
    if before is not None and before.fit is None:
        spread = before.uncertainty
        before = fit_metric(before, known)
    known, notes = _steering(known, before, full_size)
    table, size, latents, _ = start_of(marigold, full_size, options)
    table = table.to(marigold.device)
    factor = vae_factor(marigold.vae)
    padded = latents.shape[-2] * factor, latents.shape[-1] * factor
    points, outliers = _points(known, before, spread, full_size, size, padded, marigold.device)
    seconds: dict[str, float] = {}
    wait = partial(synchronize, marigold.device)
    with timed(seconds, "encode", wait):
        image_latent = marigold.encode(picture, size).clone()
    steps = len(table)
    total = len(latents) * (steps + 1)
    report = Reporter(callback, total, marigold.device) if callback else None

    maps: list[Tensor] = []
    lines: list[tuple[float, float]] = []
    with timed(seconds, "denoise", wait):
        for number, latent in enumerate(latents):
            step_report = None
            if report is not None:
                step_report = partial(_report, marigold, report, number * (steps + 1))
            run = partial(_denoised, marigold, table, image_latent, latent[None], points)
            depth, roots, checkpointing = _within_memory(run, step_report, checkpointing)
            maps.append(points.metric(depth[: size[0], : size[1]], roots).cpu())
            scale, shift = roots.square().tolist()
            lines.append((scale * points.span, shift * points.nearest))
            if report is not None:
                report("decode", (number + 1) * (steps + 1), partial(_shown, depth.cpu()))
    fit = _fit(lines, known, outliers, notes)
    return _merged(maps, full_size, used, fit, seconds, options)


def _steering(
    known: KnownDepths, before: DepthMap | None, size: tuple[int, int]
) -> tuple[KnownDepths, tuple[str, ...]]:
    """The points, in metres where something says how long those are; and what the user should know
    of hints that do not steer."""
    notes = []
    if not known.in_metres and before is not None and before.fit and before.fit.in_metres:
        rows, columns = known.pixels(size)
        ratios = before.depth[rows, columns] / known.metres
        known = known.scaled(float(np.median(ratios[np.isfinite(ratios)])))
    assert known.lengths is not None
    others = [
        *(["known lengths"] if len(known.lengths) else []),
        *(["the camera's height"] if known.camera_height is not None else []),
    ]
    if others:
        notes.append(
            f"Of the hints only the points steer guided sampling: {' and '.join(others)} did not."
        )
    if not known.in_metres:
        notes.append("The known depths have no scale, and neither has the result.")
    return known, tuple(notes)


def _within_memory(
    run: Callable[[Any, bool], tuple[Tensor, Tensor]], report: Any, checkpointing: bool
) -> tuple[Tensor, Tensor, bool]:
    """run(report, checkpointing), once more with checkpointing where memory runs out."""
    try:
        return *run(report, checkpointing), checkpointing
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if checkpointing:
            raise too_little_memory() from error
    # Outside the except block: the traceback keeps the failed step's tensors alive.
    release_memory()
    return _within_memory(run, report, True)


def _denoised(
    marigold: Marigold,
    table: Any,
    image_latent: Tensor,
    latent: Tensor,
    points: _Points,
    report: Any,
    checkpointing: bool,
) -> tuple[Tensor, Tensor]:
    """One member: noise (1, 4, h, w) -> depth (H, W) in [0, 1], padded, and the roots of its
    scale and shift, (2,)."""
    device = marigold.device
    x = latent.to(device, torch.float32).clone().requires_grad_()
    roots = torch.tensor(points.start, device=device, requires_grad=True)
    adam = torch.optim.Adam(
        [{"params": [roots], "lr": SCALE_RATE}, {"params": [x], "lr": LATENT_RATE}]
    )
    prompt = marigold.text_embedding.to(device, marigold.dtype)
    abar = marigold.schedule.alphas_cumprod.to(device)[table.timesteps].float()
    with _gradients(marigold, checkpointing), torch.enable_grad():
        for i, timestep in enumerate(table.timesteps):
            adam.zero_grad()
            both = torch.cat([image_latent, x], 1).to(marigold.dtype)
            output = marigold.unet(both, timestep, encoder_hidden_states=prompt).sample.float()
            x0 = table.x0[i, 0] * x + table.x0[i, 1] * output
            points.loss(_decoded(marigold, x0), roots).backward()
            with torch.no_grad():
                # The latent's gradient gets the length of the noise that the U-Net sees in it.
                noise = (x - abar[i].sqrt() * x0) / (1 - abar[i]).sqrt()
                assert x.grad is not None
                x.grad *= noise.norm() / x.grad.norm().clamp(min=1e-8)
                adam.step()
                x.data = table.previous[i, 0] * x + table.previous[i, 1] * output
                if report is not None:
                    report(i + 1, x0.detach())
            del both, output, x0, noise
    with torch.no_grad():
        depth = _decoded(marigold, x.detach())[0]
    if not depth.isfinite().all():
        raise MarigoldError(
            "The result of guided sampling is not finite: use bfloat16 or float32, and check"
            " the distances."
        )
    return depth, roots.detach()


def _decoded(marigold: Marigold, latent: Tensor) -> Tensor:
    """(1, 4, h, w) -> (1, H, W) in [0, 1], with gradients."""
    vae = marigold.vae
    scaled = (latent / vae.config.scaling_factor).to(next(vae.parameters()).dtype)
    decoded = vae.decode(scaled, return_dict=False)[0].float()
    return marigold.target.from_decoded(decoded[:, None])


@contextmanager
def _gradients(marigold: Marigold, checkpointing: bool) -> Iterator[None]:
    """The networks without gradients of their weights, as they were before afterwards."""
    networks = (marigold.unet, marigold.vae)
    wanted = [p for network in networks for p in network.parameters() if p.requires_grad]
    switched = [n for n in networks if checkpointing and not n.is_gradient_checkpointing]
    for parameter in wanted:
        parameter.requires_grad_(False)
    for network in switched:
        network.enable_gradient_checkpointing()
    try:
        with marigold.unet_on_device():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for network in switched:
            network.disable_gradient_checkpointing()


def _points(
    known: KnownDepths,
    before: DepthMap | None,
    spread: NDArray[np.float32] | None,
    full_size: tuple[int, int],
    size: tuple[int, int],
    padded: tuple[int, int],
    device: torch.device,
) -> tuple[_Points, NDArray[np.int64]]:
    """The known points that guide, and the indices of those left out. spread: of the ensemble
    before, (H, W)."""
    rows, columns = known.pixels(full_size)
    wrong = np.zeros(len(known), bool) if before is None else surely_wrong(before, known)
    metres = torch.from_numpy(known.metres[~wrong]).float()
    if len(metres) < 2 or not metres.max() > metres.min():
        raise MarigoldError(
            f"Guided sampling takes two or more known points at different distances, and there are"
            f" {len(metres)}; leave the guidance out."
        )
    # The centre of the pixel, in the map before padding; `grid_sample` counts from -1 to 1.
    centres = np.column_stack([(columns + 0.5) / full_size[1], (rows + 0.5) / full_size[0]])
    # Scaling to the picture repeats the edge of the map, not of the padding beside it.
    places = np.clip(centres * (size[1], size[0]), 0.5, (size[1] - 0.5, size[0] - 0.5))
    grid = torch.from_numpy(2 * places[~wrong] / (padded[1], padded[0]) - 1).float()
    trust = np.asarray(known.weights) * (1 if spread is None else agreement(spread, rows, columns))
    weights = torch.from_numpy(trust[~wrong]).float()
    nearest = float(metres.min())
    span = float(metres.max()) - nearest
    start = 1.0, 1.0
    if before is not None and before.fit is not None and not before.fit.inverse:
        # The rates are small, so that a wrong start stays wrong for many steps.
        start = (
            math.sqrt(before.fit.scale / span),
            math.sqrt(max(before.fit.shift, 0.0) / nearest),
        )
    points = _Points(
        grid[None, None].to(device),
        metres.to(device),
        (weights / weights.mean()).to(device),
        nearest,
        span,
        start,
    )
    return points, np.flatnonzero(wrong)


def _fit(
    lines: list[tuple[float, float]],
    known: KnownDepths,
    outliers: NDArray[np.int64],
    notes: tuple[str, ...],
) -> MetricFit:
    """The members' median scale and shift, as a fit."""
    scale, shift = np.median(np.array(lines), axis=0)
    return MetricFit(
        float(scale),
        float(shift),
        outliers=outliers,
        fitted=len(known),
        in_metres=known.in_metres,
        notes=notes,
    )


def _merged(
    maps: list[Tensor],
    full_size: tuple[int, int],
    mask: NDArray[np.bool_] | None,
    fit: MetricFit,
    seconds: dict[str, float],
    options: Options,
) -> DepthMap:
    """The members' median, and their spread as in `ensemble_depth`: the median deviation."""
    with timed(seconds, "resize"):
        size = full_size if options.match_input_resolution else tuple(maps[0].shape)
        stack = torch.stack([resize_map(one, (size[0], size[1])) for one in maps])
        # numpy's median: of two members the mean, where torch takes the lower.
        members = stack.numpy()
        depth = np.median(members, axis=0)
        uncertainty = None
        if len(members) > 1:
            uncertainty = np.median(np.abs(members - depth), axis=0).astype(np.float32)
    if mask is not None and tuple(size) != full_size:
        mask = None
    return DepthMap(
        depth.astype(np.float32),
        uncertainty,
        mask=mask,
        scale_invariant=not fit.in_metres,
        shift_invariant=False,
        seconds=seconds,
        fit=fit,
    )


def _report(marigold: Marigold, report: Reporter, done: int, step: int, x0: Tensor) -> None:
    report("denoise", done + step, lambda: marigold.preview(x0))


def _shown(depth: Tensor) -> NDArray[np.float32]:
    shrink = max(1.0, max(depth.shape) / 128)
    size = [max(1, round(side / shrink)) for side in depth.shape]
    shown: NDArray[np.float32] = F.interpolate(depth[None, None], size, mode="area")[0, 0].numpy()
    return shown
