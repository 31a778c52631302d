"""States to resume from: a folder a state, complete once it has its final name.

accelerate writes the weights, the optimiser and the gradient scaler, whole or sharded as the run is
(DDP, FSDP, DeepSpeed), and reads them as data only. The averaged weights are ours, in safetensors:
what is registered with accelerate it would read back as a pickle. Everything else about a run is a
function of its step.
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

from marigold_core.errors import MarigoldError

STATE = re.compile(r"state-(\d{8})")
AVERAGED = "averaged_weights.safetensors"


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
    processes call this. The run can go on after a failure (a full disk), and the states that were
    complete stay.
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
            (writing / "state.json").write_text(json.dumps(content, indent=2))
    # torch and safetensors have their own exceptions for a disk that refuses.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    failed = torch.tensor(float(problem is not None), device=accelerator.device)
    if float(accelerator.reduce(failed, "sum")):
        if accelerator.is_main_process:
            shutil.rmtree(writing, ignore_errors=True)
        accelerator.wait_for_everyone()
        return problem or "another process could not write its part"
    if accelerator.is_main_process:
        flush(writing)
        final = folder / f"state-{step:08}"
        shutil.rmtree(final, ignore_errors=True)
        writing.rename(final)
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
    """Onto the disk, so that a power cut after the rename finds whole files under the new name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
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

    Raises MarigoldError where the run that wrote it had another recipe.
    """
    found = states(folder)
    if not found:
        return None
    damaged = f"{found[-1]} cannot be read ({{}}); delete it, and --resume takes the one before."
    try:
        progress = json.loads((found[-1] / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise MarigoldError(damaged.format(error)) from error
    then, now = default_fingerprint() | progress.pop("recipe"), fingerprint(recipe)
    changed = [k for k in sorted(then.keys() | now.keys()) if then.get(k) != now.get(k)]
    if changed:
        facts = ", ".join(f"{name} was {then.get(name)}, now {now.get(name)}" for name in changed)
        raise MarigoldError(
            f"{found[-1]} belongs to a run with another recipe ({facts}); give the same flags, or "
            "another --output."
        )
    try:
        accelerator.load_state(str(found[-1]))
        if ema:
            read_averaged(ema, found[-1] / AVERAGED)
    except Exception as error:  # torch, safetensors and pickle each have their own
        raise MarigoldError(damaged.format(" ".join(str(error).split())[:200])) from error
    return progress
