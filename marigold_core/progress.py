"""What a run tells its caller while it goes on, and how the caller stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Progress:
    """One report.

    stage: "denoise" or "decode". step: of `total`, one for each member and step and one for each
    member decoded, so that a single bar can show a whole run. preview(): the depth of one member
    as it is estimated now, float32 (h, w) in [0, 1], small and of the padded picture's shape; it
    costs a small decoding, so call it only to show it.
    """

    stage: str
    step: int
    total: int
    preview: Callable[[], NDArray[np.float32]]


Callback = Callable[[Progress], Any]


class Reporter:
    """Calls back after each step, at most one step behind the device.

    On CUDA the host runs ahead of the device. Waiting for the previous step, not for this one,
    keeps the device busy and still lets a callback that raises stop the run within a step.
    """

    def __init__(self, callback: Callback, total: int, device: torch.device) -> None:
        self.callback = callback
        self.total = total
        self.device = device
        self.before = 0  # steps of the stages before this one
        self._previous: torch.cuda.Event | None = None

    def __call__(self, stage: str, step: int, preview: Callable[[], NDArray[np.float32]]) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            if self._previous is not None:
                self._previous.synchronize()
            self._previous = event
        self.callback(Progress(stage, self.before + step, self.total, preview))
