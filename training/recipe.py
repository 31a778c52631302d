"""The options of a training run: flags, and YAML files that hold them.

A file (`--config`) has one `name: value` a line, the names being those of the flags with
underscores; flags on the command line override it. Without either, every value is the released
recipe's (Marigold v1.1, config/train_marigold_depth.yaml of the authors' code).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from targets import TARGETS, settle

from marigold_core.errors import MarigoldError

# Options that may change when a run is resumed: none of them changes a weight.
FREE_TO_CHANGE = frozenset(
    "config output resume cpu workers cache save_every keep tensorboard wandb steps card_licence"
    " check_data".split()
)


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--config", type=Path, help="YAML file of flags; see training/configs/")
    parser.add_argument("--base", help="Stable Diffusion or Marigold: folder or hub id")
    parser.add_argument("--output", type=Path, help="checkpoint folder to write")
    parser.add_argument(
        "--target", choices=list(TARGETS), help="what to estimate; default: what the base does"
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        default=["procedural:24000"],
        metavar="KIND:WHERE",
        help="hypersim:FOLDER, vkitti:FOLDER, folder:FOLDER or procedural:COUNT, one or more",
    )
    data.add_argument(
        "--weights",
        nargs="+",
        type=float,
        help="share of the batches for each of --data; default: the released mixture of so many",
    )
    data.add_argument("--val-data", nargs="*", metavar="KIND:WHERE", help="the first one chooses")
    data.add_argument("--val-samples", type=int, default=64, help="of each of --val-data, at most")
    data.add_argument(
        "--resolution", type=int, help="longer side in pixels; default: each data set's own"
    )
    data.add_argument("--flip", action=switch, default=True, help="horizontally, half the time")
    data.add_argument(
        "--invalid",
        choices=("ignore", "far"),
        default="ignore",
        help="pixels without depth: out of the loss, or taught as the far plane (sky)",
    )
    data.add_argument(
        "--farthest", type=float, help="metres; what lies beyond counts as without depth"
    )
    data.add_argument(
        "--variants",
        nargs="+",
        type=int,
        help="crops under other light in place of each sample, for each of --data; default 1, of "
        "normals 2",
    )
    data.add_argument(
        "--cache", type=Path, help="folder of latents; default: latents beside OUTPUT"
    )
    data.add_argument("--workers", type=int, default=2, help="processes that read data")

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--objective", choices=("v_prediction", "epsilon", "e2e"), default="v_prediction"
    )
    recipe.add_argument(
        "--zero-snr", action=switch, default=True, help="rescale the base's noise schedule"
    )
    recipe.add_argument(
        "--steps", type=int, help="of the optimiser; default 30000, of intrinsic images 50000"
    )
    recipe.add_argument("--batch-size", type=int, default=32, help="samples in an optimiser step")
    recipe.add_argument(
        "--micro-batch", type=int, default=2, help="samples at a time on one device"
    )
    recipe.add_argument(
        "--learning-rate", type=float, help="default 3e-5, of normals 6e-5, of lighting 8e-5"
    )
    recipe.add_argument("--warmup", type=int, default=100, help="steps")
    recipe.add_argument(
        "--decay-steps", type=int, help="until 1 %% of the rate; default 25000, of lighting 45000"
    )
    recipe.add_argument("--optimizer", choices=("adam", "adamw", "adam8bit"), default="adam")
    recipe.add_argument("--max-grad-norm", type=float, default=0.0, help="clip; 0 = do not")
    recipe.add_argument("--noise-strength", type=float, default=0.9, help="0 = Gaussian noise")
    recipe.add_argument("--noise-annealing", action=switch, default=True)
    recipe.add_argument(
        "--terminal-share", type=float, default=0.0, help="samples moved to the last timestep"
    )
    recipe.add_argument(
        "--dropout", type=float, default=0.0, help="share of features left out in residual blocks"
    )
    recipe.add_argument("--lora-rank", type=int, default=0, help="0 = train every weight")
    recipe.add_argument("--ema", type=float, default=0.0, help="decay of averaged weights; 0 = off")
    recipe.add_argument("--seed", type=int, default=2024)

    run = parser.add_argument_group("run")
    run.add_argument("--resume", action=switch, default=False, help="continue what is in OUTPUT")
    run.add_argument(
        "--mixed-precision",
        choices=("no", "bf16", "fp16"),
        help="default: what `accelerate launch` says, else no",
    )
    run.add_argument("--gradient-checkpointing", action=switch, default=False)
    run.add_argument("--cpu", action=switch, default=False, help="even where there is a GPU")
    run.add_argument("--val-every", type=int, default=500, help="steps")
    run.add_argument("--save-every", type=int, default=500, help="steps between states to resume")
    run.add_argument("--keep", type=int, default=2, help="states kept, the newest")
    run.add_argument("--select", choices=("best", "last"), default="best", help="what OUTPUT holds")
    run.add_argument("--tensorboard", action=switch, default=True, help="logs in OUTPUT/run/logs")
    run.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases as well")

    saved = parser.add_argument_group("checkpoint")
    saved.add_argument("--default-steps", type=int, default=4, help="its own number of steps")
    saved.add_argument("--save-dtype", choices=("float32", "float16"), default="float32")
    saved.add_argument("--card-licence", help="licence for its model card; default: the base's")

    checks = parser.add_argument_group("checks")
    checks.add_argument("--check-data", action=switch, default=False, help="draw the data and stop")
    checks.add_argument(
        "--overfit-one-batch", action=switch, default=False, help="the first batch, again and again"
    )
    return parser


def read_recipe(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags, over those of `--config`. Raises MarigoldError for values that cannot be used."""
    parser = build_parser(description)
    recipe = parser.parse_args(argv)
    if recipe.config is not None:
        flags = {name: action for action in parser._actions for name in [action.dest]}
        defaults = read_config(recipe.config, flags)
        parser.set_defaults(**defaults)
        recipe = parser.parse_args(argv)
    for name in ("output",) if recipe.check_data else ("base", "output"):
        if getattr(recipe, name) is None:
            raise MarigoldError(f"--{name} is missing.")
    settle(recipe)
    check(recipe)
    if recipe.cache is None:
        recipe.cache = recipe.output.parent / "latents"
    return recipe


def read_config(path: Path, flags: dict[str, argparse.Action]) -> dict[str, Any]:
    """The file's values, checked as the command line's are."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MarigoldError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise MarigoldError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise MarigoldError(f"{path} must hold lines of `name: value`.")
    return {str(name): checked(path, str(name), value, flags) for name, value in content.items()}


def checked(path: Path, name: str, value: Any, flags: dict[str, argparse.Action]) -> Any:
    action = flags.get(name)
    if action is None or name in ("help", "config"):
        raise MarigoldError(f"{path} sets {name!r}, which is not a flag of finetune.py.")
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise MarigoldError(f"{path} sets {name} to {value!r}; it must be true or false.")
        return value
    convert = action.type if callable(action.type) else str
    single = action.nargs is None
    if single == isinstance(value, list):
        kind = "one value" if single else "a list"
        raise MarigoldError(f"{path} sets {name} to {value!r}; it must be {kind}.")
    try:
        # YAML 1.1 reads 3e-5 as a string: the flag's own type decides.
        found = convert(value) if single else [convert(item) for item in value]
    except (TypeError, ValueError) as error:
        raise MarigoldError(f"{path} sets {name} to {value!r}, which it cannot be.") from error
    if isinstance(value, (bool, float)) and found != value:
        raise MarigoldError(f"{path} sets {name} to {value!r}, which it cannot be.")
    if action.choices is not None and found not in action.choices:
        raise MarigoldError(
            f"{path} sets {name} to {value!r}; choose from {', '.join(action.choices)}."
        )
    return found


def check(recipe: argparse.Namespace) -> None:
    for name in ("steps", "batch_size", "micro_batch", "decay_steps", "val_every", "save_every",
                 "keep", "default_steps", "val_samples"):  # fmt: skip
        if getattr(recipe, name) < 1:
            raise MarigoldError(f"--{name.replace('_', '-')} is below 1.")
    for name, low, high in (("noise_strength", 0, 1), ("terminal_share", 0, 1), ("ema", 0, 1),
                            ("dropout", 0, 1), ("learning_rate", 0, 1),
                            ("max_grad_norm", 0, float("inf")), ("warmup", 0, float("inf")),
                            ("lora_rank", 0, 4096)):  # fmt: skip
        if not low <= getattr(recipe, name) <= high:
            raise MarigoldError(f"--{name.replace('_', '-')} must be from {low} to {high}.")
    if recipe.resolution is not None and (recipe.resolution < 8 or recipe.resolution % 8):
        raise MarigoldError(f"--resolution is {recipe.resolution}; it must be a multiple of 8.")
    if recipe.objective == "epsilon" and recipe.zero_snr:
        raise MarigoldError(
            "--objective epsilon has no meaning at zero signal-to-noise ratio; add --no-zero-snr."
        )
    if recipe.objective == "e2e" and TARGETS[recipe.target].end_to_end is None:
        raise MarigoldError(f"--objective e2e has no recipe for --target {recipe.target}.")
    for name, usual in (("farthest", None), ("invalid", "ignore")):
        if recipe.target != "depth" and getattr(recipe, name) != usual:
            raise MarigoldError(f"--{name} is of depth; leave it out for {recipe.target}.")
    for name in ("weights", "variants"):
        given = getattr(recipe, name)
        if len(given) != len(recipe.data):
            raise MarigoldError(
                f"--{name} has {len(given)} numbers for {len(recipe.data)} data sets."
            )
    if min(recipe.variants) < 1:
        raise MarigoldError("--variants is below 1.")
    if recipe.farthest is not None and not recipe.farthest > 0:
        raise MarigoldError("--farthest must be above 0 metres.")


def default_fingerprint() -> dict[str, str]:
    """The values of options that did not exist when a run began: their defaults."""
    return fingerprint(build_parser(None).parse_args([])) | {"target": "depth"}


def fingerprint(recipe: argparse.Namespace) -> dict[str, str]:
    """The options that a resumed run must have in common with the one that it continues."""
    return {k: str(v) for k, v in sorted(vars(recipe).items()) if k not in FREE_TO_CHANGE}
