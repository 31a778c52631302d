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
from metrics import Score, mean_score, score
from release import public_name

from marigold_core import Marigold
from marigold_core.cli.comparison import side_by_side

SHOWN = 4  # pictures of each data set


class Validation(NamedTuple):
    """metrics: data set -> metric -> mean. pictures: (H, W, 3) uint8, one a shown sample: input,
    truth, prediction, error (white is a quarter of the depth range)."""

    metrics: dict[str, dict[str, float]]
    pictures: dict[str, np.ndarray]

    @property
    def error(self) -> float | None:
        """AbsRel on the first data set, by which the best checkpoint is chosen."""
        return next((scores["AbsRel"] for scores in self.metrics.values()), None)


def validation_samples(recipe: Any) -> dict[str, list[Sample]]:
    """Usable samples of each of --val-data, evenly over it; without it, of the first of --data.

    A data set that gives no split away for validation is no error: the run goes without.
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
    """ "val"; but a folder that nothing is trained on, and that says nothing of splits, validates
    whole."""

    def place(name: str) -> Path:
        return Path(name.partition(":")[2]).resolve()  # however it is spelled

    kind, _, where = spec.partition(":")
    if kind != "folder" or place(spec) in map(place, trained_on):
        return "val"
    return "val" if any(entry.split for entry in Folder(where, "all").entries) else "all"


def validate(marigold: Marigold, samples: Mapping[str, Sequence[Sample]], seed: int) -> Validation:
    """Run over {data set: samples}. Every call draws the same noise for the same sample."""
    metrics: dict[str, dict[str, float]] = {}
    pictures = {}
    for data, chosen in samples.items():
        scores: list[Score] = []
        for number, sample in enumerate(chosen):
            rgb = sample.image.permute(1, 2, 0).numpy()
            depth, valid = sample.depth.numpy(), sample.valid.numpy()
            generator = torch.Generator().manual_seed(seed + number)
            prediction = marigold(
                rgb,
                num_inference_steps=1,
                ensemble_size=1,
                processing_resolution=0,
                generator=generator,
            ).depth
            if not np.isfinite(prediction).all():
                print(f"validation: the depth of {sample.name} is not finite")
                return Validation({}, {})
            scores.append(score(prediction, depth, valid))
            if number < SHOWN:
                pictures[f"{data}/{number}"] = side_by_side(rgb, prediction, depth, valid)
        mean = mean_score(scores)
        metrics[data] = {"AbsRel": mean.abs_rel, "delta1": mean.delta1, "RMSE": mean.rmse}
    return Validation(metrics, pictures)
