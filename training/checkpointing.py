"""States to resume from: a folder for each, complete once it has its final name.

accelerate writes the weights, the optimiser and the gradient scaler, whole or sharded as the run is
(DDP, FSDP, DeepSpeed), and reads them as data only. The averaged weights are ours, in safetensors:
what is registered with accelerate it would read back as a pickle. Everything else about a run is a
function of its step. `SHA256SUMS` in a state is verified before the state is used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from recipe import default_fingerprint, fingerprint
from safetensors import safe_open
from safetensors.torch import save_file

from marigold_core.checkpoints.checksums import damaged_files, read_checksums, write_checksums
from marigold_core.errors import MarigoldError
from marigold_core.files import flush_folder

STATE = re.compile(r"state-(\d{8})")
AVERAGED = "averaged_weights.safetensors"
PROGRESS = "state.json"


def states(folder: Path) -> list[Path]:
    """The complete states, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if STATE.fullmatch(path.name))


def save_state(
    accelerator: Accelerator,
    folder: Path,
    step: int,
    recipe: Any,
    progress: dict[str, Any],
    ema: EMAModel | None,
) -> str | None:
    """Write a state and delete older ones; None, or why it could not be written.

    ema: the averaged weights, if there are any. progress: what else to remember, JSON. All
    processes call this. The run can continue after a failure (a full disk), and the states that
    were complete stay.
    """
    writing = folder / f"writing-{step:08}"
    if accelerator.is_main_process:
        clean(folder)
    accelerator.wait_for_everyone()
    problem = None
    try:
        accelerator.save_state(writing)
        if accelerator.is_main_process:
            if ema:
                write_averaged(ema, writing / AVERAGED)
            content = {"step": step, "recipe": fingerprint(recipe), **progress}
            (writing / PROGRESS).write_text(json.dumps(content, indent=2))
    # torch and safetensors have their own exceptions for a full disk.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and problem is None:
        try:
            write_checksums(writing)
            flush(writing)
        except OSError as error:
            problem = str(error)
    failed = torch.tensor(float(problem is not None), device=accelerator.device)
    if float(accelerator.reduce(failed, "sum")):
        if accelerator.is_main_process:
            shutil.rmtree(writing, ignore_errors=True)
        accelerator.wait_for_everyone()
        return problem or "another process could not write its part"
    if accelerator.is_main_process:
        final = folder / f"state-{step:08}"
        shutil.rmtree(final, ignore_errors=True)
        writing.rename(final)
        flush_folder(folder)
        for old in states(folder)[: -recipe.keep]:
            # Renamed first: half a deleted state must not look like a complete one.
            doomed = old.rename(old.with_name(f"deleting-{old.name}"))
            shutil.rmtree(doomed, ignore_errors=True)
    accelerator.wait_for_everyone()
    return None


def clean(folder: Path) -> None:
    """Remove what killed runs left half-written."""
    for pattern in ("writing-*", "deleting-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def flush(folder: Path) -> None:
    """Make a folder's files reach the disk, so that a power cut after the rename finds them."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            flush_folder(path)
            continue
        with path.open("rb+") as opened:
            os.fsync(opened.fileno())


def write_averaged(ema: EMAModel, file: Path) -> None:
    weights = {f"{i:05}": weight.contiguous() for i, weight in enumerate(ema.shadow_params)}
    save_file(weights, file, {"optimization_step": str(ema.optimization_step)})


def read_averaged(ema: EMAModel, file: Path) -> None:
    """In place; the decay follows from the number of steps."""
    with safe_open(str(file), "pt") as opened:
        ema.optimization_step = int(opened.metadata()["optimization_step"])
        for i, weight in enumerate(ema.shadow_params):
            weight.copy_(opened.get_tensor(f"{i:05}"))


def load_state(
    accelerator: Accelerator, folder: Path, recipe: Any, ema: EMAModel | None
) -> dict[str, Any] | None:
    """Continue from the newest complete state: its progress and "step"; None where there is none.

    Raises MarigoldError where it is damaged, or the run that wrote it had another recipe.
    """
    found = states(folder)
    if not found:
        return None
    newest = found[-1]
    before = f"continues from {found[-2].name}" if len(found) > 1 else "starts from the beginning"
    try:
        if accelerator.is_local_main_process:
            damaged = damaged_files(newest, read_checksums(newest) or {})
            if damaged:
                raise ValueError(", ".join(damaged))
        progress = read_progress(newest / PROGRESS)
        check_recipe(newest, progress.pop("recipe"), recipe)
        accelerator.load_state(str(newest))
        if ema:
            read_averaged(ema, newest / AVERAGED)
    except OtherRecipe:
        raise
    except Exception as error:  # torch, safetensors and pickle each have their own
        reason = " ".join(str(error).split())[:300]
        raise MarigoldError(
            f"{newest} cannot be read ({reason}); delete it, and --resume {before}."
        ) from error
    return progress


def read_progress(file: Path) -> dict[str, Any]:
    """What `save_state` remembered. Raises ValueError where it is not that."""
    progress = json.loads(file.read_text())
    best = progress.get("best") if isinstance(progress, dict) else None
    if (
        not isinstance(progress, dict)
        or not isinstance(progress.get("recipe"), dict)
        or type(progress.get("step")) is not int
        or not isinstance(best, (float, int, type(None)))
    ):
        raise ValueError(f"{file.name} is damaged")
    return progress


class OtherRecipe(MarigoldError):
    """The state is of a run with other flags."""


def check_recipe(state: Path, written: dict[str, Any], recipe: Any) -> None:
    then, now = default_fingerprint() | written, fingerprint(recipe)
    changed = [k for k in sorted(then.keys() | now.keys()) if then.get(k) != now.get(k)]
    if changed:
        facts = ", ".join(f"{name} was {then.get(name)}, now {now.get(name)}" for name in changed)
        raise OtherRecipe(
            f"{state} belongs to a run with another recipe ({facts}); give the same flags, or "
            "another --output."
        )
