"""Before the first step: processes, the run's folder, the optimiser."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs, set_seed
from checkpointing import clean, states
from filelock import FileLock, Timeout
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
        # DeepSpeed needs it where accelerate has no data loader to read it from.
        plugin = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.micro_batch
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if recipe.ema and sharded:
        raise MarigoldError("--ema does not go with FSDP or DeepSpeed; use --ema 0.")
    # accelerate's own configuration may have chosen it; the card and a resumed run need it.
    recipe.mixed_precision = accelerator.mixed_precision
    # accelerate logs every file it writes.
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    set_seed(recipe.seed)
    return accelerator, share // processes


def world_size() -> int:
    """Processes of this run, before there is an Accelerator."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def output_folder(recipe: Any, base: Path, accelerator: Accelerator) -> Iterator[None]:
    """Make OUTPUT, and keep other runs out of it until the block ends.

    Raises MarigoldError rather than write over another run, or over a folder that is not a run.
    """
    lock = None
    if accelerator.is_main_process:
        begin_folder(recipe.output, base, recipe.resume)
        lock = FileLock(recipe.output / "run" / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise MarigoldError(
                f"Another run is writing to {recipe.output}; wait for its end, or name another "
                "--output."
            ) from None
        except NotImplementedError:  # a network file system without locks
            lock = None
        clean(recipe.output / "run")
    accelerator.wait_for_everyone()
    try:
        yield
    finally:
        if lock:
            lock.release()


def begin_folder(output: Path, base: Path, resume: bool) -> None:
    run = output / "run"
    if output.exists() and output.resolve() == base.resolve():
        raise MarigoldError(f"--output {output} is the base itself; name another folder.")
    found = states(run)
    if found and not resume:
        step = int(found[-1].name.split("-")[1])
        raise MarigoldError(
            f"{output} holds a run at step {step}; add --resume to continue it, or name another "
            "--output."
        )
    if output.is_dir() and any(output.iterdir()) and not run.is_dir():
        raise MarigoldError(
            f"{output} is not empty and holds no run of finetune.py; name another --output."
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarigoldError(f"{output} cannot be made: {error.strerror}.") from error


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
