"""One checkpoint over one data set: a score for every picture, setting and seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from data.benchmark_sets import PROTOCOLS, is_benchmark, open_benchmark
from data.hypersim import MAX_DEPTH as HYPERSIM_DEPTH
from data.registry import open_dataset
from data.sample import Sample, SampleDataset
from data.vkitti import MAX_DEPTH as VKITTI_DEPTH
from einops import rearrange
from metrics import Score, mean_score, score, vertical_ramp
from predictions import Predictor, Setting
from report import Result
from tqdm import tqdm

from marigold_core import MarigoldError

# Which part of a training set is measured.
SPLITS = {"procedural": "test", "folder": "all", "hypersim": "test", "vkitti": "val"}


class Case(NamedTuple):
    """One row of the table: settings that differ in nothing but the seed, or a trivial map."""

    method: str
    settings: tuple[Setting, ...]
    fit: str


class Rules(NamedTuple):
    """How one data set is scored; see `metrics.score`. resolution None: the checkpoint's own."""

    title: str
    resolution: int | None = None
    depth_range: tuple[float, float] | None = None
    fit_columns: int | None = None
    expected: int | None = None


class Row(NamedTuple):
    """One picture: a score for each case and seed, or why there is none."""

    number: int
    name: str
    scores: list[list[Score]]
    error: str


class Processes(NamedTuple):
    """This process among those that `accelerate launch` started; gather: their rows together."""

    rank: int = 0
    total: int = 1
    device: Any = None
    gather: Callable[[list[Row]], list[Row]] = lambda rows: rows
    finish: Callable[[], None] = lambda: None


TRIVIAL = (Case("constant", (), ""), Case("ramp", (), ""))
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
    spec: str, split: str | None, farthest: float | None = None
) -> tuple[SampleDataset, Rules]:
    """farthest: metres that count, of data without a published protocol; None: its own."""
    kind, _, where = spec.partition(":")
    if is_benchmark(spec):
        protocol = PROTOCOLS[kind]
        rules = Rules(
            protocol.name,
            protocol.processing_resolution,
            protocol.depth_range,
            protocol.fit_columns,
            protocol.count,
        )
        return open_benchmark(spec), rules
    dataset = open_dataset(spec, split or SPLITS.get(kind, "all"), farthest=farthest)
    farthest = farthest or {"hypersim": HYPERSIM_DEPTH, "vkitti": VKITTI_DEPTH}.get(kind)
    title = "Procedural scenes" if kind == "procedural" else f"{kind} {Path(where).name}"
    return dataset, Rules(title, depth_range=None if farthest is None else (1e-5, farthest))


def score_picture(
    sample: Sample, predictor: Predictor, cases: Sequence[Case], rules: Rules
) -> list[list[Score]]:
    truth, valid = sample.depth.numpy(), sample.valid.numpy()
    picture = rearrange(sample.image, "c h w -> h w c").numpy()
    wanted = [setting for case in cases for setting in case.settings]
    depths = dict(zip(wanted, predictor.depths(picture, wanted), strict=True))

    def measured(depth: np.ndarray, fit: str) -> Score:
        return score(
            depth,
            truth,
            valid,
            fit=fit,
            depth_range=rules.depth_range,
            fit_columns=rules.fit_columns,
        )

    others = {"constant": np.zeros(truth.shape, np.float32), "ramp": vertical_ramp(*truth.shape)}
    if CEILING in cases:
        others[CEILING.method] = predictor.through_vae(truth, valid)
    return [
        [measured(depths[setting], case.fit) for setting in case.settings]
        or [measured(others[case.method], "least_squares")]
        for case in cases
    ]


def score_set(
    dataset: SampleDataset,
    predictor: Predictor,
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
                    score_picture(dataset[index], predictor, cases, rules),
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
        std = Score(*np.std(means, axis=0, ddof=1)) if len(means) > 1 else None
        whose = "" if case in TRIVIAL else checkpoint
        results.append(Result(whose, case.method, mean_score(means), std, pictures))
    return results
