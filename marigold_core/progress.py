"""Reports of a running estimate, its cancellation, and the time that each stage takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Progress:
    """One report.

    stage: "denoise" or "decode". step: of `total`, one for each member and step and one for each
    member decoded, so that a single bar can show a whole run; it never decreases. preview(): one
    member as it is estimated now, float32 in [0, 1], (h, w) for depth and (h, w, 3) for normals (as
    colours) and intrinsic images (the first of them), at most 128 pixels a side, of the padded
    picture's shape; in "denoise" it costs a small decoding, so call it only to show it.
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
        self._furthest = 0
        self._previous: torch.cuda.Event | None = None

    def __call__(self, stage: str, step: int, preview: Callable[[], NDArray[np.float32]]) -> None:
        if self.device.type == "cuda":
            import torch

            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            if self._previous is not None:
                self._previous.synchronize()
            self._previous = event
        # A batch that was halved is repeated; a bar does not run backwards.
        self._furthest = max(self._furthest, step)
        self.callback(Progress(stage, self._furthest, self.total, preview))


@contextmanager
def timed(
    seconds: dict[str, float], stage: str, wait: Callable[[], Any] | None = None
) -> Iterator[None]:
    """Add to `seconds[stage]` how long the block took; wait(): for what it left running."""
    began = perf_counter()
    yield
    if wait is not None:
        wait()
    seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - began
