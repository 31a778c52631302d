"""Curves and pictures of a run: TensorBoard, Weights & Biases, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from marigold_core.errors import MarigoldError


class Tracker:
    """Where the numbers of step n go. On processes other than the main one, nowhere."""

    def __init__(self, recipe: Any, folder: Path, main: bool, start: int) -> None:
        self.writer: Any = None
        self.wandb: Any = None
        if main and recipe.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MarigoldError(
                    "Logging needs tensorboard; run `pip install tensorboard`, or add "
                    "--no-tensorboard."
                ) from error
            # Steps that a killed run logged after its last state are removed.
            self.writer = SummaryWriter(str(folder), purge_step=start + 1)
        if main and recipe.wandb:
            try:
                import wandb  # type: ignore[import-not-found]
            except ImportError as error:
                raise MarigoldError("--wandb needs wandb; run `pip install wandb`.") from error
            self.wandb = wandb.init(
                project=recipe.wandb,
                id=f"{recipe.output.name}-{recipe.seed}",
                resume="allow",
                config={k: str(v) for k, v in vars(recipe).items()},
            )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.write("add_scalar", ((name, value, step) for name, value in values.items()))
        if self.wandb:
            self.wandb.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """name -> (H, W, 3) uint8."""
        self.write(
            "add_image", ((name, picture, step, None, "HWC") for name, picture in pictures.items())
        )
        if self.wandb:
            import wandb

            self.wandb.log({n: wandb.Image(p) for n, p in pictures.items()}, step=step)

    def write(self, method: str, calls: Iterable[tuple[Any, ...]]) -> None:
        """A full disk ends the log, not the run."""
        try:
            for arguments in calls if self.writer else ():
                getattr(self.writer, method)(*arguments)
        except OSError as error:
            print(f"TensorBoard's log cannot be written ({error}); the run continues without it.")
            self.writer = None

    def close(self) -> None:
        if self.writer:
            with suppress(OSError):
                self.writer.close()
        if self.wandb:
            self.wandb.finish()
