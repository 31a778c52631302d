"""One checkpoint over one data set: a score for every picture, setting and seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from data.benchmark_sets import PROTOCOLS, is_benchmark, open_benchmark
from data.hypersim import MAX_DEPTH as HYPERSIM_DEPTH
from data.normal_sets import NORMALS_PROTOCOLS, open_normals
from data.registry import open_dataset
from data.sample import Sample, SampleDataset
from data.vkitti import MAX_DEPTH as VKITTI_DEPTH
from einops import rearrange
from measures import MEASURES, Rules
from metrics import mean_score
from predictions import Predictor, Setting
from report import Result
from targets import TARGETS
from tqdm import tqdm

from marigold_core import MarigoldError

# Which part of a training set is measured.
SPLITS = {"procedural": "test", "folder": "all", "hypersim": "test", "vkitti": "val"}


class Case(NamedTuple):
    """One row of the table: settings that differ in nothing but the seed; none for a rival."""

    method: str
    settings: tuple[Setting, ...]
    fit: str


class Row(NamedTuple):
    """One picture: a score for each case and seed, or why there is none."""

    number: int
    name: str
    scores: list[list[Any]]
    error: str


class Processes(NamedTuple):
    """This process among those that `accelerate launch` started; gather: their rows together."""

    rank: int = 0
    total: int = 1
    device: Any = None
    gather: Callable[[list[Row]], list[Row]] = lambda rows: rows
    finish: Callable[[], None] = lambda: None


# What a U-Net without any error would score with the checkpoint's VAE.
CEILING = Case("truth through the VAE", (), "")


def started_processes() -> Processes:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    try:
        from accelerate import PartialState
        from accelerate.utils import gather_object
    except ImportError:
        raise MarigoldError("Several processes need accelerate (pip install accelerate).") from None
    state = PartialState()
    return Processes(
        state.process_index,
        state.num_processes,
        state.device,
        gather_object,
        state.destroy_process_group,
    )


def open_set(
    spec: str, target: str, split: str | None, farthest: float | None = None
) -> tuple[SampleDataset, Rules]:
    """farthest: metres that count, of depth without a published protocol; None: its own."""
    kind, _, where = spec.partition(":")
    if target == "normals" and kind in NORMALS_PROTOCOLS:
        found = NORMALS_PROTOCOLS[kind]
        rules = Rules(found.name, found.processing_resolution, expected=found.pictures)
        return open_normals(spec), rules
    if target == "depth" and is_benchmark(spec):
        protocol = PROTOCOLS[kind]
        rules = Rules(
            protocol.name,
            protocol.processing_resolution,
            protocol.depth_range,
            protocol.fit_columns,
            protocol.count,
        )
        return open_benchmark(spec), rules
    maps = TARGETS[target].maps
    dataset = open_dataset(spec, split or SPLITS.get(kind, "all"), farthest=farthest, maps=maps)
    title = "Procedural scenes" if kind == "procedural" else f"{kind} {Path(where).name}"
    if maps:
        return dataset, Rules(title)
    farthest = farthest or {"hypersim": HYPERSIM_DEPTH, "vkitti": VKITTI_DEPTH}.get(kind)
    return dataset, Rules(title, depth_range=None if farthest is None else (1e-5, farthest))


def trivial_cases(dataset: SampleDataset, target: str) -> list[Case]:
    """A row for each rival that needs no checkpoint."""
    for index in range(len(dataset)):
        try:
            return [Case(name, (), "") for name in MEASURES[target].rivals(dataset[index])]
        except (MarigoldError, OSError):
            continue
    return []


def score_picture(
    sample: Sample, predictor: Predictor, target: str, cases: Sequence[Case], rules: Rules
) -> list[list[Any]]:
    measure = MEASURES[target]
    picture = rearrange(sample.image, "c h w -> h w c").numpy()
    wanted = [setting for case in cases for setting in case.settings]
    results = dict(zip(wanted, predictor.results(picture, wanted), strict=True))
    others = measure.rivals(sample)
    if CEILING in cases:
        others[CEILING.method] = predictor.through_vae(sample, target)
    return [
        [measure.of(results[setting], sample, case.fit, rules) for setting in case.settings]
        or [measure.of(others[case.method], sample, "least_squares", rules)]
        for case in cases
    ]


def score_set(
    dataset: SampleDataset,
    predictor: Predictor,
    target: str,
    cases: Sequence[Case],
    rules: Rules,
    processes: Processes,
) -> list[Row]:
    """A row for each picture, in order; one that cannot be read or predicted has its error."""
    rows = []
    mine = range(processes.rank, len(dataset), processes.total)
    for index in tqdm(mine, desc=rules.title, unit="picture", disable=processes.rank > 0):
        try:
            rows.append(
                Row(
                    index,
                    dataset.name(index),
                    score_picture(dataset[index], predictor, target, cases, rules),
                    "",
                )
            )
        except (MarigoldError, OSError) as error:
            rows.append(Row(index, dataset.name(index), [], str(error)))
    return sorted(processes.gather(rows), key=lambda row: row.number)


def results_of(rows: list[Row], cases: Sequence[Case], checkpoint: str) -> list[Result]:
    good = [row for row in rows if not row.error]
    results = []
    for number, case in enumerate(cases if good else ()):
        pictures = {row.name: mean_score(row.scores[number]) for row in good}
        seeds = range(len(good[0].scores[number]))
        means = [mean_score([row.scores[number][seed] for row in good]) for seed in seeds]
        std = type(means[0])(*np.std(means, axis=0, ddof=1)) if len(means) > 1 else None
        whose = checkpoint if case.settings or case == CEILING else ""
        results.append(Result(whose, case.method, mean_score(means), std, pictures))
    return results
