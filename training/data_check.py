"""A contact sheet of what a run would learn from: pictures, their truth, masks and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from data.latent_cache import unusable
from data.sample import DataError, Sample, SampleDataset
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont, ImageOps
from targets import TrainingTarget

from marigold_core import normalize_depth
from marigold_core.depth import colorize
from marigold_core.files import atomic_path

ROWS = 6  # samples of each data set, evenly over it
WIDTH, HEIGHT = 240, 180  # of a panel
LABEL = 16
BINS = 48
# The paper is darker than a mask's white.
GREY, BLACK, PAPER = (110, 110, 110), (0, 0, 0), (215, 215, 215)


def contact_sheet(
    datasets: Mapping[str, SampleDataset], path: Path, target: TrainingTarget
) -> list[str]:
    """Write the sheet (PNG) and return what is wrong with the samples that it shows.

    A row a sample: picture; depth between its 2 % and 98 % quantiles, red is near; mask, white is
    valid; histogram of the valid depth in metres. Of other targets, what the VAE encodes.
    """
    rows, problems = [], []
    for spec, dataset in datasets.items():
        for number in sorted(set(np.linspace(0, len(dataset) - 1, ROWS).astype(int).tolist())):
            try:
                sample = dataset[number]
            except (DataError, OSError) as error:
                problems.append(str(error))
                continue
            problem = unusable(sample, True, target)
            problems += [problem] if problem else []
            draw = draw_maps if target.maps else draw_row
            rows.append(draw(sample, f"{spec}  {sample.name}", problem, target))
    if rows:
        with atomic_path(path) as temporary:
            Image.fromarray(np.concatenate(rows)).save(temporary)
    return problems


def draw_row(sample: Sample, label: str, problem: str | None, target: TrainingTarget) -> np.ndarray:
    depth, valid = sample.depth.numpy(), sample.valid.numpy()
    rgb = rearrange(sample.image, "c h w -> h w c").numpy().clip(0, 1)
    shown = np.zeros_like(depth)
    if problem is None:
        shown = normalize_depth(depth, mode="percentile", mask=valid)
    coloured = colorize(np.where(valid, shown, np.nan))
    mask = repeat(valid * np.uint8(255), "h w -> h w c", c=3)
    panels = [fit(panel) for panel in (np.rint(rgb * 255).astype(np.uint8), coloured, mask)]
    return labelled([*panels, histogram(depth[valid])], sample, label, problem)


def draw_maps(
    sample: Sample, label: str, problem: str | None, target: TrainingTarget
) -> np.ndarray:
    """The picture, what the VAE encodes the mask."""
    pictures = [] if problem else list(target.pictures(sample, "ignore").add(1).div(2))
    pictures = [sample.image, *pictures, sample.valid.float().expand(3, -1, -1)]
    panels = [
        fit(np.rint(rearrange(p, "c h w -> h w c").numpy().clip(0, 1) * 255).astype(np.uint8))
        for p in pictures
    ]
    empty = [Image.new("RGB", (WIDTH, HEIGHT), PAPER)] * (1 + target.latents + 1 - len(panels))
    return labelled([*panels[:-1], *empty, panels[-1]], sample, label, problem)


def labelled(
    panels: Sequence[Image.Image], sample: Sample, label: str, problem: str | None
) -> np.ndarray:
    row = Image.new("RGB", (len(panels) * WIDTH, HEIGHT + LABEL), PAPER)
    for column, panel in enumerate(panels):
        row.paste(panel, (column * WIDTH, LABEL))
    height, width = sample.valid.shape
    text = f"{label}   {width} x {height}, {sample.valid.float().mean():.1%} valid"
    text += f"   {problem.split(': ')[1]}" if problem else ""
    ImageDraw.Draw(row).text((3, 2), text, BLACK, ImageFont.load_default())
    return np.asarray(row)


def fit(panel: np.ndarray) -> Image.Image:
    """Into a panel, proportions kept."""
    picture = ImageOps.contain(Image.fromarray(panel), (WIDTH - 4, HEIGHT - 4))
    framed = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    framed.paste(picture, ((WIDTH - picture.width) // 2, (HEIGHT - picture.height) // 2))
    return framed


def histogram(depth: np.ndarray) -> Image.Image:
    """How often each depth is there, from the least to the greatest, in logarithmic steps."""
    panel = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(panel)
    if depth.size:
        # Outdoors most pixels are near and a few are hundreds of metres away.
        near, far = float(depth.min()), float(depth.max())
        counts, _ = np.histogram(np.log(depth.astype(np.float64)), BINS)
        bottom, bar = HEIGHT - 16, (WIDTH - 8) / BINS
        for i, count in enumerate(counts):
            top = bottom - (bottom - 6) * count / counts.max()
            draw.rectangle((4 + i * bar, top, 4 + (i + 1) * bar - 1, bottom), GREY)
        font = ImageFont.load_default()
        draw.text((4, HEIGHT - 14), f"{near:.3g} m", BLACK, font)
        label = f"{far:.3g} m"
        draw.text((WIDTH - 4 - draw.textlength(label, font), HEIGHT - 14), label, BLACK, font)
    return panel
