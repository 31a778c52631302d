"""Which training data teaches what: the paper's ablation of data (its table 3), in small.

    python training/data_ablation.py runs/ablation --base runs/nano-base \\
        --kinds ray-cast=procedural:2000 worlds=folder:runs/worlds \\
            textured=folder:runs/textured \\
        --held-back procedural:100 folder:runs/heldback folder:runs/textured-heldback

trains the same U-Net for the same number of steps on each kind of data alone and on all of them in
equal parts, with several seeds, and measures each on every held-back set, in one step. Prints a
table: mean and standard deviation over the seeds. What was trained or measured stays under OUTPUT;
the same command continues where it was stopped. Further flags, after `--`, are finetune.py's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marigold_core.files import atomic_path

HERE = Path(__file__).resolve().parent
ALL = "all"
# A small network at a small size, for a CPU; the rates and shares are nano's.
RECIPE = (
    "--resolution 160 --invalid far --farthest 80 --batch-size 32 --micro-batch 32 --warmup 50 "
    "--learning-rate 1e-3 --terminal-share 0.4 --ema 0.99 --max-grad-norm 1 --no-flip "
    "--no-tensorboard --val-data --select last"
).split()


def mixtures(kinds: dict[str, str]) -> dict[str, list[str]]:
    """Each kind alone, then all of them."""
    return {name: [spec] for name, spec in kinds.items()} | {ALL: list(kinds.values())}


def train(args: argparse.Namespace, folder: Path, data: list[str], seed: int) -> None:
    """One run of finetune.py, from where it stopped; raises CalledProcessError where it fails."""
    steps = str(args.steps)
    command = [
        sys.executable, str(HERE / "finetune.py"), "--base", str(args.base), "--output",
        str(folder), "--cache", str(args.output / "latents"), "--data", *data,
        "--weights", *[str(1 / len(data))] * len(data), "--steps", steps,
        "--decay-steps", steps, "--seed", str(seed), *RECIPE, "--resume", *args.finetune,
    ]  # fmt: skip
    subprocess.run(command, check=True)


def measure(args: argparse.Namespace, folders: list[Path]) -> dict[str, Any]:
    """What evaluate.py found over the held-back sets: its results.json."""
    output = args.output / "evaluation"
    command = [
        sys.executable, str(HERE / "evaluate.py"), *map(str, folders), "--settings", "1x1",
        "--farthest", "80", "--output", str(output), "--data", *args.held_back,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return found


def table(found: dict[str, Any], runs: dict[str, list[Path]]) -> str:
    """A row for each mixture, a column for each held-back set: AbsRel/delta1, +- over seeds."""
    specs = [data["spec"] for data in found["data"]]
    lines = ["| trained on | " + " | ".join(specs) + " |", "|---|" + "---|" * len(specs)]
    for name, folders in runs.items():
        cells = []
        for data in found["data"]:
            of_run = {r["checkpoint"]: r["mean"] for r in data["results"]}
            means = np.array(
                [[of_run[str(f)][key] for key in ("abs_rel", "delta1")] for f in folders]
            )
            spread = f" ± {means[:, 0].std(ddof=1):.3f}" if len(folders) > 1 else ""
            cells.append(f"{means[:, 0].mean():.3f}{spread} / {means[:, 1].mean():.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def named(text: str) -> tuple[str, str]:
    name, equals, spec = text.partition("=")
    if not (name and equals and spec) or name == ALL:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=KIND:WHERE")
    return name, spec


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("output", type=Path, help="folder of the runs, their latents and the table")
    add("--base", type=Path, required=True, help="what pretrain_nano.py wrote")
    add("--kinds", nargs="+", type=named, required=True, metavar="NAME=KIND:WHERE")
    add("--held-back", nargs="+", required=True, metavar="KIND:WHERE")
    add("--steps", type=int, default=400)
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    given = list(sys.argv[1:] if argv is None else argv)
    place = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:place])
    args.finetune = given[place + 1 :]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    runs: dict[str, list[Path]] = {}
    for name, data in mixtures(dict(args.kinds)).items():
        runs[name] = [args.output / f"{name}-{seed}" for seed in args.seeds]
        for folder, seed in zip(runs[name], args.seeds, strict=True):
            train(args, folder, data, seed)
    text = table(measure(args, [f for folders in runs.values() for f in folders]), runs)
    with atomic_path(args.output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"data_ablation: {Path(error.cmd[1]).name} ended with {error.returncode}")
