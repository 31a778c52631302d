"""Evaluation results as Markdown, as JSON, and as the plot of a sweep."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from intrinsic_metrics import why_no_lpips
from measures import MEASURES
from published import PUBLISHED, Published

from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path


class Result(NamedTuple):
    """One method on one data set. mean: over pictures and seeds. std: over the seeds' means, None
    for one seed. pictures: name -> the mean of its seeds."""

    checkpoint: str
    method: str
    mean: Any
    std: Any
    pictures: dict[str, Any]


class Evaluation(NamedTuple):
    """One data set. target: of `measures.MEASURES`. kind: the part of `spec` before the colon.
    expected: pictures in the published protocol. failed: name -> why."""

    spec: str
    target: str
    kind: str
    title: str
    expected: int | None
    results: list[Result]
    failed: dict[str, str]

    @property
    def published(self) -> tuple[Published, ...]:
        return PUBLISHED.get(self.kind, ()) if self.target == "depth" else ()

    @property
    def measured(self) -> int:
        return len(self.results[0].pictures) if self.results else 0


def markdown(evaluation: Evaluation, per_picture: bool = False) -> str:
    """A table with a row for each method, the published ones last."""
    lines = [f"### {evaluation.title}: {evaluation.measured} pictures", ""]
    measure = MEASURES[evaluation.target]
    fields = [  # without LPIPS where its weights are not here
        field
        for field in measure.score._fields
        if any(not math.isnan(getattr(r.mean, field)) for r in evaluation.results)
        or not field.endswith("lpips")
    ]
    arrows = [f"{measure.headings[f]} {'↑' if measure.better[f] else '↓'}" for f in fields]
    lines += _table_head(["method", *arrows])
    several = len({r.checkpoint for r in evaluation.results if r.checkpoint}) > 1
    for result in evaluation.results:
        cells = [
            _number(getattr(result.mean, field), getattr(result.std, field, None))
            for field in fields
        ]
        method = f"{result.checkpoint}, {result.method}" if several else result.method
        lines.append(_row([method.removeprefix(", "), *cells]))
    for row in evaluation.published:
        rest = [""] * (len(fields) - 2)
        lines.append(_row([f"*{row.method}*", _number(row.abs_rel), _number(row.delta1), *rest]))
    if evaluation.results and len(fields) < len(measure.score._fields):
        lines += ["", why_no_lpips() or "LPIPS has no value here."]
    if evaluation.expected not in (None, evaluation.measured) and (
        evaluation.published or evaluation.target != "depth"
    ):
        lines += ["", f"The published figures are of {evaluation.expected} pictures."]
    if per_picture and evaluation.results:
        methods = [result.method for result in evaluation.results]
        first, second = fields[:2]
        words = f"{measure.headings[first]}/{measure.headings[second]} of each picture:"
        lines += ["", words, "", *_table_head(["picture", *methods])]
        for name in evaluation.results[0].pictures:
            scores = [result.pictures[name] for result in evaluation.results]
            cells = [f"{getattr(s, first):.3f}/{getattr(s, second):.3f}" for s in scores]
            lines.append(_row([name, *cells]))
    if evaluation.failed:
        lines += ["", f"{len(evaluation.failed)} left out:", ""]
        lines += [f"- {name}: {why}" for name, why in evaluation.failed.items()]
    return "\n".join(lines) + "\n"


def write_json(evaluations: list[Evaluation], command: dict[str, object], file: Path) -> None:
    """All numbers, each picture's too; null where one has no value."""

    def plain(score: Any) -> dict[str, float | None] | None:
        if score is None:
            return None
        return {
            key: value if math.isfinite(value) else None for key, value in score._asdict().items()
        }

    content = {
        "command": command,
        "data": [
            {
                "spec": evaluation.spec,
                "pictures": evaluation.measured,
                "failed": evaluation.failed,
                "published": [row._asdict() for row in evaluation.published],
                "results": [
                    {
                        "checkpoint": result.checkpoint,
                        "method": result.method,
                        "mean": plain(result.mean),
                        "std": plain(result.std),
                        "pictures": {n: plain(score) for n, score in result.pictures.items()},
                    }
                    for result in evaluation.results
                ],
            }
            for evaluation in evaluations
        ],
    }
    with atomic_path(file) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_plot(
    evaluations: list[Evaluation], axis: str, values: list[str], per_line: int, file: Path
) -> None:
    """A panel each for the main figures (AbsRel, delta1, boundary F1) over the values of a sweep.

    A data set's results are lines of `per_line` points, one for each value, after another.
    Checkpoints that differ by a number at the end, such as gaussian-1 and gaussian-2, are one
    recipe trained with several seeds: points above one another. Raises MarigoldError where
    matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise MarigoldError("The plot needs matplotlib (pip install matplotlib).") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    numeric = all(value.isdecimal() and int(value) for value in values)  # 0 has no logarithm
    labels = list(dict.fromkeys(re.sub(r"-\d+$", "", value) for value in values))
    seeds = axis == "checkpoint" and len(labels) < len(values)
    labels = labels if seeds else values
    places = [float(value) for value in values] if numeric else list(range(len(values)))
    if seeds:
        places = [labels.index(re.sub(r"-\d+$", "", value)) for value in values]
    measure = MEASURES[evaluations[0].target]
    plotted = measure.plotted
    figure, panels = plt.subplots(1, len(plotted), figsize=(4.2 * len(plotted), 3.6))
    for field, panel in zip(plotted, panels, strict=True):
        for evaluation in evaluations:
            swept = [r for r in evaluation.results if r.checkpoint]
            for start in range(0, len(swept), per_line):
                line = swept[start : start + per_line]
                means = [getattr(r.mean, field) for r in line]
                bars = None
                if all(r.std is not None for r in line):
                    bars = [getattr(r.std, field) for r in line]
                name = evaluation.title
                if axis != "checkpoint" and len(swept) > per_line:
                    name = f"{name}, {line[0].checkpoint}"
                panel.errorbar(
                    places, means, bars, marker="o", capsize=3, label=name,
                    linestyle="-" if numeric and not seeds else "none",  # Names have no order.
                )  # fmt: skip
        panel.set_title(
            f"{measure.headings[field]} ({'more' if measure.better[field] else 'less'} is better)"
        )
        panel.set_xlabel(axis)
        if numeric:
            panel.set_xscale("log", base=2)
        panel.set_xticks(sorted(set(places)) if seeds else places, labels)
        if numeric:
            low, high = panel.get_xlim()
            gaps = np.diff(np.sort(np.log(places))) / math.log(high / low)
            if (gaps < 0.05).any():  # numbers beside one another would run together
                panel.tick_params(axis="x", rotation=90)
        else:
            panel.tick_params(axis="x", rotation=20)
            panel.margins(x=0.15)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    figure.tight_layout()
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _number(value: float, std: float | None = None) -> str:
    if math.isnan(value):
        return "-"
    digits = 2 if abs(value) >= 10 else 4
    return f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if std is not None else "")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table_head(cells: list[str]) -> list[str]:
    return [_row(cells), "|---" * len(cells) + "|"]
