# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that outlive the click that began them: a timer of Blender's follows them for the UI."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import bpy

POLL_SECONDS = 0.2


@dataclass
class FollowedTask(ABC):
    """The task that goes on, or how the last one ended. words: what the interface shows."""

    task: Any = None
    words: str = ""
    failed: bool = False
    log: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.task is not None

    @property
    def fraction(self) -> float:
        return (getattr(self.task, "fraction", None) or 0.0) if self.task is not None else 0.0

    def begin(self, task: Any, words: str) -> None:
        """Follow it; without a window, to its end."""
        self.task, self.words, self.failed, self.log = task, words, False, []
        if not bpy.app.background:
            bpy.app.timers.register(self.advance, persistent=True)
            return
        try:
            while self.running:
                self.advance()
                time.sleep(POLL_SECONDS / 4)
        except KeyboardInterrupt:
            self.cancel()
            self.advance()

    def advance(self) -> float | None:
        """Returns the seconds to the next call, as Blender's timers want it; None ends them."""
        task = self.task
        if task is None:
            return None
        task.poll()
        self.log = list(getattr(task, "lines", []))
        if task.finished:
            self.task = None
            self.failed = task.state != "done"
            self.words = task.error if self.failed else self.ending(task)
            self.words = self.words or ("Cancelled." if self.failed else "Done.")
        elif getattr(task, "stage", ""):
            self.words = self.in_words(task)
        self.redraw()
        return POLL_SECONDS if self.running else None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    @abstractmethod
    def in_words(self, task: Any) -> str:
        """What goes on, for the progress bar."""

    @abstractmethod
    def ending(self, task: Any) -> str:
        """What a task that is done has to say."""

    @abstractmethod
    def redraw(self) -> None:
        """The parts of the interface that show it."""
