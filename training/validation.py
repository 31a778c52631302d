"""How good the U-Net is now: metrics over validation samples, and pictures to look at.

As the authors validate while training: one member, at the pictures' own resolution; here one step
for every target. The best checkpoint is the one with the lowest AbsRel after the affine fit of the
published protocol, the lowest mean angle of normals, the highest PSNR of the albedo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from data.folder import Folder
from data.latent_cache import unusable
from data.registry import open_dataset
from data.sample import DataError, Sample
from einops import rearrange, repeat
from release import public_name
from targets import TARGETS, TrainingTarget

from marigold_core import DepthMap, Marigold, NormalMap
from marigold_core.cli.comparison import side_by_side
from marigold_core.errors import MarigoldError, is_out_of_memory
from marigold_core.memory import release_memory

SHOWN = 4  # pictures of each data set


class Validation(NamedTuple):
    """metrics: data set -> metric -> mean. pictures: (H, W, 3) uint8, one a shown sample: input,
    truth, prediction, of depth the error too (white is a quarter of the depth range). problem: why
    there are no metrics. finite: False where a prediction was not. more_is_better: of the first
    metric."""

    metrics: dict[str, dict[str, float]]
    pictures: dict[str, np.ndarray]
    problem: str | None = None
    finite: bool = True
    more_is_better: bool = False

    @property
    def error(self) -> float | None:
        """The first metric on the first data set, by which the best checkpoint is chosen: the
        lowest, so that one of which more is better is negative."""
        first = next((next(iter(scores.values())) for scores in self.metrics.values()), None)
        return first if first is None or not self.more_is_better else -first


def validation_samples(recipe: Any) -> dict[str, list[Sample]]:
    """Usable samples of each of --val-data, evenly over it; without it, of the first of --data.

    A data set without a split for validation is not an error: the run is then not validated.
    """
    chosen: dict[str, list[Sample]] = {}
    target = TARGETS[recipe.target]
    views = {"farthest": recipe.farthest, "maps": target.maps}
    specs = recipe.val_data
    if specs is None:
        kind = recipe.data[0].split(":")[0]
        specs = [f"procedural:{recipe.val_samples}" if kind == "procedural" else recipe.data[0]]
    for spec in specs:
        try:
            split = validation_split(spec, recipe.data)
            dataset = open_dataset(spec, split, recipe.resolution, **views)
        except DataError:
            if recipe.val_data is not None:
                raise
            continue
        count = min(len(dataset), recipe.val_samples)
        found = []
        for number in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
            try:
                sample = dataset[number]
            except DataError as error:
                print(f"left out of validation: {error}")
                continue
            if unusable(sample, True, target) is None:
                found.append(sample)
        if found:
            name = public_name(spec)
            chosen[f"{name} {len(chosen) + 1}" if name in chosen else name] = found
    return chosen


def validation_split(spec: str, trained_on: Sequence[str]) -> str:
    """The split to validate on: "val", or "all" for a folder that is not trained on and has no
    splits of its own."""

    def place(name: str) -> Path:
        return Path(name.partition(":")[2]).resolve()  # however it is spelled

    kind, _, where = spec.partition(":")
    if kind != "folder" or place(spec) in map(place, trained_on):
        return "val"
    return "val" if any(entry.split for entry in Folder(where, "all").entries) else "all"


def validate(
    marigold: Marigold,
    samples: Mapping[str, Sequence[Sample]],
    seed: int,
    target: TrainingTarget = TARGETS["depth"],
) -> Validation:
    """Run over {data set: samples}. Every call draws the same noise for the same sample.

    A prediction that is not finite, or does not fit in memory, ends it with a `problem`: neither
    is a reason to lose the run.
    """
    metrics: dict[str, dict[str, float]] = {}
    pictures: dict[str, np.ndarray] = {}
    for data, chosen in samples.items():
        scores: list[dict[str, float]] = []
        for number, sample in enumerate(chosen):
            rgb = rearrange(sample.image, "c h w -> h w c").numpy()
            failed = None
            try:
                result = marigold(
                    rgb,
                    num_inference_steps=1,
                    ensemble_size=1,
                    processing_resolution=0,
                    generator=torch.Generator().manual_seed(seed + number),
                )
            except (MarigoldError, RuntimeError, MemoryError) as error:
                failed = failure(error, sample, target)
            if failed:  # outside the except block, whose traceback keeps the tensors alive
                release_memory()
                return failed
            scores.append(target.measure(result, sample))
            if number < SHOWN:
                pictures[f"{data}/{number}"] = shown(rgb, result, sample, target)
        metrics[data] = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
    return Validation(metrics, pictures, more_is_better=target.more_is_better)


def shown(rgb: np.ndarray, result: Any, sample: Sample, target: TrainingTarget) -> np.ndarray:
    if isinstance(result, DepthMap):
        return side_by_side(rgb, result.depth, sample.depth.numpy(), sample.valid.numpy())
    pairs = zip(views_of(target.truth(sample)), views_of(result), strict=True)
    panels = [rgb, *(view for pair in pairs for view in pair)]
    return np.concatenate([np.rint(panel.clip(0, 1) * 255) for panel in panels], 1).astype(np.uint8)


def views_of(result: Any) -> list[np.ndarray]:
    """Each map of a result, (H, W, 3)."""
    if isinstance(result, NormalMap):
        return [result.encoded()]
    views = (result.picture(name) for name in result.maps)
    return [view if view.ndim == 3 else repeat(view, "h w -> h w c", c=3) for view in views]


def failure(error: Exception, sample: Sample, target: TrainingTarget) -> Validation:
    """A validation without metrics. Raises what says nothing about this sample or the weights."""
    height, width = sample.depth.shape
    if is_out_of_memory(error):
        return Validation({}, {}, f"no memory to validate {sample.name} ({width} x {height} "
                          "pixels); set --resolution, or validate smaller pictures")  # fmt: skip
    if not isinstance(error, MarigoldError):
        raise error
    problem = (f"the {target.name} of {sample.name} is not finite: the run diverges; try a lower "
               "--learning-rate or --max-grad-norm 1")  # fmt: skip
    return Validation({}, {}, problem, finite=False)
