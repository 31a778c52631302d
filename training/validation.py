"""How good the U-Net is now: metrics over validation samples, and pictures to look at.

As the authors validate while training: one step, one member, at the pictures' own resolution, the
affine fit of the published protocol; the best checkpoint is the one with the lowest AbsRel.
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
from einops import rearrange
from metrics import Score, mean_score, score
from release import public_name

from marigold_core import Marigold
from marigold_core.cli.comparison import side_by_side
from marigold_core.errors import MarigoldError, is_out_of_memory
from marigold_core.memory import release_memory

SHOWN = 4  # pictures of each data set


class Validation(NamedTuple):
    """metrics: data set -> metric -> mean. pictures: (H, W, 3) uint8, one a shown sample: input,
    truth, prediction, error (white is a quarter of the depth range). problem: why there are no
    metrics. finite: False where a prediction was not."""

    metrics: dict[str, dict[str, float]]
    pictures: dict[str, np.ndarray]
    problem: str | None = None
    finite: bool = True

    @property
    def error(self) -> float | None:
        """AbsRel on the first data set, by which the best checkpoint is chosen."""
        return next((scores["AbsRel"] for scores in self.metrics.values()), None)


def validation_samples(recipe: Any) -> dict[str, list[Sample]]:
    """Usable samples of each of --val-data, evenly over it; without it, of the first of --data.

    A data set without a split for validation is not an error: the run is then not validated.
    """
    chosen: dict[str, list[Sample]] = {}
    specs = recipe.val_data
    if specs is None:
        kind = recipe.data[0].split(":")[0]
        specs = [f"procedural:{recipe.val_samples}" if kind == "procedural" else recipe.data[0]]
    for spec in specs:
        try:
            split = validation_split(spec, recipe.data)
            dataset = open_dataset(spec, split, recipe.resolution, farthest=recipe.farthest)
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
            if unusable(sample, whole=True) is None:
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


def validate(marigold: Marigold, samples: Mapping[str, Sequence[Sample]], seed: int) -> Validation:
    """Run over {data set: samples}. Every call draws the same noise for the same sample.

    A prediction that is not finite, or does not fit in memory, ends it with a `problem`: neither
    is a reason to lose the run.
    """
    metrics: dict[str, dict[str, float]] = {}
    pictures: dict[str, np.ndarray] = {}
    for data, chosen in samples.items():
        scores: list[Score] = []
        for number, sample in enumerate(chosen):
            rgb = rearrange(sample.image, "c h w -> h w c").numpy()
            depth, valid = sample.depth.numpy(), sample.valid.numpy()
            failed = None
            try:
                prediction = marigold(
                    rgb,
                    num_inference_steps=1,
                    ensemble_size=1,
                    processing_resolution=0,
                    generator=torch.Generator().manual_seed(seed + number),
                ).depth
            except (MarigoldError, RuntimeError, MemoryError) as error:
                failed = failure(error, sample)
            if failed:  # outside the except block, whose traceback keeps the tensors alive
                release_memory()
                return failed
            scores.append(score(prediction, depth, valid))
            if number < SHOWN:
                pictures[f"{data}/{number}"] = side_by_side(rgb, prediction, depth, valid)
        mean = mean_score(scores)
        metrics[data] = {"AbsRel": mean.abs_rel, "delta1": mean.delta1, "RMSE": mean.rmse}
    return Validation(metrics, pictures)


def failure(error: Exception, sample: Sample) -> Validation:
    """A validation without metrics. Raises what says nothing about this sample or the weights."""
    height, width = sample.depth.shape
    if is_out_of_memory(error):
        return Validation({}, {}, f"no memory to validate {sample.name} ({width} x {height} "
                          "pixels); set --resolution, or validate smaller pictures")  # fmt: skip
    if not isinstance(error, MarigoldError):
        raise error
    return Validation({}, {}, f"the depth of {sample.name} is not finite: the run diverges; try a "
                      "lower --learning-rate or --max-grad-norm 1", finite=False)  # fmt: skip
