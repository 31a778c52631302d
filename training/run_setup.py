"""Before the first step: processes, the run's folder, the optimiser."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs, set_seed
from checkpointing import clean, states
from torch import nn

from marigold_core.errors import MarigoldError

# Other processes wait while one validates, or while a slower one fills its part of the cache.
PATIENCE = timedelta(hours=12)


def start(recipe: Any) -> tuple[Accelerator, int]:
    """This process's Accelerator, and how many micro-batches it takes for an optimiser step.

    Raises MarigoldError where the batch does not divide, or the machine lacks what is asked for.
    """
    share, sample = divmod(recipe.batch_size, recipe.micro_batch)
    processes = world_size()
    if sample or share % processes:
        raise MarigoldError(
            f"--batch-size {recipe.batch_size} is not a multiple of --micro-batch "
            f"{recipe.micro_batch} times {processes} process(es)."
        )
    try:
        accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            gradient_accumulation_steps=share // processes,
            cpu=recipe.cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:  # half precision that this machine does not have
        raise MarigoldError(f"{' '.join(str(error).split())}") from error
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed asks for it when no data loader of accelerate's is there to tell it.
        plugin = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.micro_batch
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if recipe.ema and sharded:
        raise MarigoldError("--ema does not go with FSDP or DeepSpeed; use --ema 0.")
    # For the card, and for a resumed run to agree on, whoever chose it.
    recipe.mixed_precision = accelerator.mixed_precision
    # accelerate tells of every file it writes.
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    set_seed(recipe.seed)
    return accelerator, share // processes


def world_size() -> int:
    """Processes of this run, before there is an Accelerator."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def begin_folder(recipe: Any, base: Path) -> None:
    """Make OUTPUT, and refuse to write over another run, or over what is no run at all."""
    output: Path = recipe.output
    run = output / "run"
    if output.exists() and output.resolve() == base.resolve():
        raise MarigoldError(f"--output {output} is the base itself; name another folder.")
    found = states(run)
    if found and not recipe.resume:
        step = int(found[-1].name.split("-")[1])
        raise MarigoldError(
            f"{output} holds a run at step {step}; add --resume to go on, or name another --output."
        )
    if output.is_dir() and any(output.iterdir()) and not run.is_dir():
        raise MarigoldError(
            f"{output} is not empty and holds no run of finetune.py; name another --output."
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarigoldError(f"{output} cannot be made: {error.strerror}.") from error
    clean(run)


def make_optimizer(recipe: Any, trained: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam as the authors use it (no weight decay), AdamW, or Adam with 8-bit moments."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trained, recipe.learning_rate)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(trained, recipe.learning_rate)
    try:
        from bitsandbytes.optim import Adam8bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise MarigoldError(
            "--optimizer adam8bit needs bitsandbytes; run `pip install bitsandbytes`, or use adam."
        ) from error
    return Adam8bit(trained, recipe.learning_rate)
