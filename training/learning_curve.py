"""Draw how a checkpoint's validation error fell while it was trained.

    python training/learning_curve.py runs/mine
    python training/learning_curve.py runs/first runs/second --lines runs/evaluation/results.json

Runs of which each began with the result of the one before stand one after another, by the pictures
that the U-Net has seen. --lines: what `evaluate.py` wrote about the validation data; its constant,
its ramp and its `--ceiling` become lines, so that one sees how much is left to learn, and both axes
being logarithmic, how much longer that would take.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scoring import CEILING, TRIVIAL

from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path

METRICS = {"AbsRel": "abs_rel", "delta1": "delta1"}


class Curve(NamedTuple):
    """seen: pictures that the U-Net was trained on, of all runs so far, at each validation."""

    data: str
    seen: list[float]
    values: dict[str, list[float]]


def read_curves(folders: Sequence[Path]) -> list[Curve]:
    """A curve for each validation data set. Raises MarigoldError where there is nothing to draw."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise MarigoldError("The logs need tensorboard (pip install tensorboard).") from None
    curves: dict[str, Curve] = {}
    before = 0
    for folder in folders:
        try:
            recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MarigoldError(f"{folder} is no folder that finetune.py wrote: {error}.") from None
        logs = EventAccumulator(str(folder / "run" / "logs"), size_guidance={"scalars": 0}).Reload()
        for tag in logs.Tags()["scalars"]:
            start, _, metric = tag.rpartition("/")
            if metric not in METRICS or not start.startswith("val/"):
                continue
            data = start.removeprefix("val/")
            curve = curves.setdefault(data, Curve(data, [], {name: [] for name in METRICS}))
            events = logs.Scalars(tag)
            if metric == "AbsRel":
                curve.seen.extend(before + event.step * recipe["batch_size"] for event in events)
            curve.values[metric].extend(event.value for event in events)
        before += recipe["steps_done"] * recipe["batch_size"]
    if not any(curve.seen for curve in curves.values()):
        raise MarigoldError("Nothing was validated there, or --no-tensorboard kept no log of it.")
    return list(curves.values())


def read_lines(file: Path | None) -> dict[str, dict[str, float]]:
    """Name of a line -> its metrics, from the first data set of evaluate.py's results.json."""
    if file is None:
        return {}
    try:
        results = json.loads(file.read_text(encoding="utf-8"))["data"][0]["results"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MarigoldError(f"{file} is no results.json of evaluate.py: {error}.") from None
    names = [case.method for case in (*TRIVIAL, CEILING)]
    return {row["method"]: row["mean"] for row in results if row["method"] in names}


def draw(curves: Sequence[Curve], lines: dict[str, dict[str, float]], file: Path) -> None:
    """AbsRel and 1 - delta1, whose ends are 0."""
    try:
        import matplotlib
    except ImportError:
        raise MarigoldError("The plot needs matplotlib (pip install matplotlib).") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
    for panel, (metric, field) in zip(panels, METRICS.items(), strict=True):

        def shown(value: float, metric: str = metric) -> float:
            return value if metric == "AbsRel" else 1 - value

        for curve in curves:
            values = [shown(value) for value in curve.values[metric]]
            panel.plot(curve.seen, values, marker="o", label=curve.data)
        for number, (name, mean) in enumerate(lines.items()):
            panel.axhline(shown(mean[field]), color=f"C{number + 3}", linestyle="--", label=name)
        panel.set_title("AbsRel" if metric == "AbsRel" else "1 - δ1")
        panel.set_xlabel("pictures seen")
        panel.loglog()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(ScalarFormatter())
        panel.yaxis.set_minor_formatter("")
        panel.grid(alpha=0.3, which="both")
    panels[0].legend(fontsize="small")
    figure.tight_layout()
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders that finetune.py wrote")
    parser.add_argument("--lines", type=Path, help="results.json of evaluate.py")
    parser.add_argument("--output", type=Path, default=Path("learning_curve.png"))
    args = parser.parse_args(argv)
    try:
        draw(read_curves(args.runs), read_lines(args.lines), args.output)
    except (MarigoldError, OSError) as error:
        sys.exit(f"learning_curve.py: {error}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
