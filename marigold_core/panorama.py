"""Depth of an equirectangular panorama: perspective views all around, merged in closed form.

A checkpoint knows perspective pictures only. Six of them, the faces of a cube made wider so that
neighbours overlap, cover the sphere. Each view has its own scale and shift; the overlaps, where two
views see the same distance, determine them all at once.

Axes are OpenCV's (x right, y down, z forward). Column 0 of a panorama looks backwards, its middle
column forwards; row 0 is straight up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .depth import DepthMap
from .engine import Marigold
from .errors import MarigoldError
from .images import read_image
from .options import Options
from .progress import Callback

VIEWS = 6
VIEW_DEGREES = 110.0  # of a cube's 90, so that 10 degrees of each side are seen twice
LARGEST_VIEW = 2048  # pixels a side; more than any checkpoint processes
SOLVED_WIDTH = 256  # pixels around, of the panorama that scales and shifts are found on
ROWS = 128  # of the panorama that are merged at once, which bounds the memory
# A view's shift, in units of its spread, is held back by this share of the data's weight: where a
# scene is too plain to determine it, it stays near 0 instead of following the noise.
SHIFT_PRIOR = 1e-4
LEAST_SCALE = 0.2  # of the median view's, for one that contradicts its neighbours
FLAT = 0.02  # of the median view's spread


@dataclass(frozen=True)
class View:
    """A perspective view from the panorama's centre.

    rotation: (3, 3), camera to panorama. depth: float32 (h, w), along the view's axis, known up to
    a scale and a shift. uncertainty: float32 (h, w) in the same units, or None.
    """

    rotation: Tensor
    depth: Tensor
    uncertainty: Tensor | None = None


def panorama_depth(
    marigold: Marigold,
    image: Any,
    options: Options | None = None,
    *,
    callback: Callback | None = None,
    **changes: Any,
) -> DepthMap:
    """Depth of an equirectangular picture (H, 2 H): the distance from its centre, at its size.

    float32 (H, W) in [0, 1], 0 = nearest, 1 = farthest, up to a scale and a shift. The uncertainty
    contains where views disagree, and each view's own. image, options, callback and changes as in
    `Marigold.predict`, for each of six views, which share the networks' batches as frames of a clip
    do; options.latents are not used. Raises MarigoldError as that does, for a picture of another
    shape, and for a checkpoint that estimates other things.
    """
    marigold.expect("depth")
    picture = read_image(image)
    height, width = picture.shape[:2]
    if not 1.9 <= width / height <= 2.1:
        raise MarigoldError(
            f"The picture is {width} x {height}; an equirectangular panorama is twice as wide as "
            "high."
        )
    options = replace(options or Options(), latents=None, match_input_resolution=False, **changes)
    reduction = marigold.target.reduction(options.reduction)
    rotations, side = cube_rotations(), view_side(width)
    faces = [perspective(torch.from_numpy(picture), one, side).numpy() for one in rotations]
    views = []
    predictions = marigold.predict_frames(faces, options, callback=callback)
    for rotation, members in zip(rotations, predictions, strict=True):
        depth_map = marigold.target.merge(
            members,
            (side, side),
            match_input_resolution=False,
            ensemble_method=options.ensemble_method,
            reduction=reduction,
        )
        spread = depth_map.uncertainty
        views.append(
            View(
                rotation,
                torch.from_numpy(depth_map.depth),
                None if spread is None else torch.from_numpy(spread),
            )
        )
    scale, shift = torch.ones(len(views)), torch.zeros(len(views))
    if marigold.scale_invariant:
        scale, shift = align_views(views)
    return merge_views(views, scale, shift, (height, width))


def view_side(width: int) -> int:
    """Pixels of a side of the square views: the panorama's own number of pixels per degree, in the
    middle of a view, up to LARGEST_VIEW."""
    own = round(math.tan(math.radians(VIEW_DEGREES) / 2) * width / math.pi)
    return max(16, min(LARGEST_VIEW, own))


def cube_rotations() -> list[Tensor]:
    """Camera-to-panorama rotations (3, 3): front, right, back, left, up, down."""
    turns = [(0, 0), (90, 0), (180, 0), (270, 0), (0, 90), (0, -90)]
    rotations = []
    for right, up in np.radians(turns):
        yaw = [[math.cos(right), 0, math.sin(right)], [0, 1, 0],
               [-math.sin(right), 0, math.cos(right)]]  # fmt: skip
        pitch = [[1, 0, 0], [0, math.cos(up), -math.sin(up)], [0, math.sin(up), math.cos(up)]]
        rotations.append(torch.tensor(yaw, dtype=torch.float32) @ torch.tensor(pitch).float())
    return rotations


def perspective(panorama: Tensor, rotation: Tensor, side: int) -> Tensor:
    """The square view (side, side, C) of a panorama (H, W, C), bilinear across its seam."""
    reach = math.tan(math.radians(VIEW_DEGREES) / 2)
    steps = ((torch.arange(side) + 0.5) / side * 2 - 1) * reach
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    rays = F.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1) @ rotation.T
    longitude = torch.atan2(rays[..., 0], rays[..., 2])
    latitude = torch.asin(rays[..., 1].clamp(-1, 1))
    # One more column on each side, from the other end: a panorama has no edge there.
    width = panorama.shape[1]
    wrapped = torch.cat([panorama[:, -1:], panorama, panorama[:, :1]], dim=1).permute(2, 0, 1)
    u = longitude / math.pi * (width / (width + 2))
    grid = torch.stack([u, latitude / (math.pi / 2)], dim=-1)[None]
    sampled = F.grid_sample(
        wrapped[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0].permute(1, 2, 0).contiguous()


def seen(view: View, rays: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a view holds for the rays (..., 3) of a panorama, each (...): its depth, its
    uncertainty, the cosine between ray and axis, and a weight that falls to 0 at its edges."""
    local = rays @ view.rotation
    cosine = local[..., 2].clamp(min=1e-3)
    reach = math.tan(math.radians(VIEW_DEGREES) / 2)
    grid = local[..., :2] / cosine[..., None] / reach
    inside = (local[..., 2] > 1e-3) & (grid.abs().amax(-1) < 1)
    weight = torch.where(inside, (1 - grid.abs().amax(-1)).clamp(min=0) ** 2, 0.0)
    maps = [view.depth, view.depth * 0 if view.uncertainty is None else view.uncertainty]
    sampled = F.grid_sample(
        torch.stack(maps)[None],
        grid.clamp(-1, 1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0]
    return sampled[0], sampled[1], cosine, weight


def sphere_rays(height: int, width: int, rows: slice) -> tuple[Tensor, Tensor]:
    """Unit rays (h, W, 3) of some rows of a panorama, and the area (h, 1) of their pixels."""
    latitude = ((torch.arange(height)[rows] + 0.5) / height - 0.5) * math.pi
    longitude = ((torch.arange(width) + 0.5) / width * 2 - 1) * math.pi
    y = torch.sin(latitude)[:, None].expand(-1, width)
    level = torch.cos(latitude)[:, None]
    return torch.stack([level * torch.sin(longitude), y, level * torch.cos(longitude)], -1), level


def align_views(views: list[View]) -> tuple[Tensor, Tensor]:
    """Scales and shifts (K,) that give the distances (scale * depth + shift) / cosine their
    smallest disagreement, for a fixed energy of the scaled depths: an eigenvector problem.

    The distance of a pixel is its depth along the axis over the cosine, so that in an overlap two
    views weigh their shifts differently, which determines these too. They come from one linear
    system, given the scales. Float64, on the CPU.
    """
    count = len(views)
    rays, area = sphere_rays(SOLVED_WIDTH // 2, SOLVED_WIDTH, slice(None))
    means = torch.stack([view.depth.double().mean() for view in views])
    sizes = torch.stack([view.depth.double().std() for view in views])
    # A view of one plane, such as a ceiling, has no scale: a shift alone describes it.
    shaped = sizes > FLAT * sizes.median()
    if not shaped.any():
        return torch.zeros(count), torch.ones(count)
    sizes = torch.where(shaped, sizes, 1.0)
    features = torch.zeros(2 * count, *rays.shape[:2], dtype=torch.float64)
    weights = torch.zeros(count, *rays.shape[:2], dtype=torch.float64)
    for number, view in enumerate(views):
        depth, _, cosine, weight = seen(view, rays)
        # Standardised, so that the unknowns of all views are alike.
        features[number] = (depth.double() - means[number]) / sizes[number] / cosine
        features[count + number] = 1 / cosine.double()
        weights[number] = weight.double() * area
    # Sum over pixels of the weighted variance between the views, a quadratic form of the unknowns.
    total = weights.sum(0)
    flat = features.reshape(2 * count, -1)
    both = weights.repeat(2, 1, 1).reshape(2 * count, -1)
    owner = torch.arange(count).repeat(2)
    same = owner[:, None] == owner
    weighted = flat * both
    form = torch.where(same, weighted @ flat.T, 0.0) - (weighted / total.reshape(-1)) @ weighted.T
    held = form[count:, count:].diagonal().mean() * SHIFT_PRIOR
    shifts_form = form[count:, count:] + held * torch.eye(count, dtype=torch.float64)
    cross = form[count:, :count]
    # The best shifts for given scales, and what is left to minimise in the scales alone.
    response = -torch.linalg.solve(shifts_form, cross)
    reduced = form[:count, :count] + cross.T @ response
    vector = torch.linalg.eigh(reduced[shaped][:, shaped])[1][:, 0]
    vector = vector if vector.sum() >= 0 else -vector
    vector = vector.clamp(min=LEAST_SCALE * float(vector.clamp(min=0).median()))
    scale = torch.zeros(count, dtype=torch.float64)
    scale[shaped] = vector / vector.mean()
    shift = response @ scale
    return (scale / sizes).float(), (shift - scale * means / sizes).float()


def merge_views(views: list[View], scale: Tensor, shift: Tensor, size: tuple[int, int]) -> DepthMap:
    """The views' distances, blended over a panorama of `size` (H, W), in [0, 1]."""
    height, width = size
    distance = np.empty(size, np.float32)
    spread = np.empty(size, np.float32)
    for start in range(0, height, ROWS):
        rows = slice(start, min(start + ROWS, height))
        rays, _ = sphere_rays(height, width, rows)
        parts = [seen(view, rays) for view in views]
        weights = torch.stack([weight for *_, weight in parts])
        weights = weights / weights.sum(0)
        distances = torch.stack(
            [
                (scale[k] * depth + shift[k]) / cosine
                for k, (depth, _, cosine, _) in enumerate(parts)
            ]
        )
        own = torch.stack(
            [scale[k] * doubt / cosine for k, (_, doubt, cosine, _) in enumerate(parts)]
        )
        mean = (weights * distances).sum(0)
        variance = (weights * ((distances - mean) ** 2 + own**2)).sum(0)
        distance[rows], spread[rows] = mean.numpy(), variance.clamp(min=0).sqrt().numpy()
    low, high = float(distance.min()), float(distance.max())
    extent = max(high - low, 1e-6)
    unit: NDArray[np.float32] = ((distance - low) / extent).clip(0, 1)
    return DepthMap(unit, spread / np.float32(extent))
