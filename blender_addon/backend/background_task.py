# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in the background, polled by the interface. No bpy.

Every kind of it is a `Task`: a request to the engine (`engine_process.Job`), or a function in a
thread that runs other programs (`ThreadTask`: pip, the test of a Python, the renderer).
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from marigold_core.errors import MarigoldError

from .worker_pipe import clean_environment

SHOWN_LINES = 200
# The user and the password in an address, such as a proxy's.
CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]+@")


class Task:
    """Started when it is made; its fields change in `poll` and `cancel` alone.

    state: "queued", "running", "done", "failed" or "cancelled". stage: one word. step, total: of
    the whole task, a total of 0 is unknown. detail: what the stage works on, such as a file and
    its bytes. lines: the last lines of the log. result: what came, when done; warnings: messages
    that came with it. error: one message, when failed; error_kind: "input", "checkpoint",
    "memory", "python" (it cannot start or lacks a package), "crash", "protocol" or "internal".
    """

    def __init__(self) -> None:
        self.state = "queued"
        self.stage = ""
        self.step: float = 0
        self.total: float = 0
        self.detail = ""
        self.lines: Sequence[str] = ()
        self.result: Any = None
        self.warnings: list[str] = []
        self.error = ""
        self.error_kind = ""
        self._first_step: tuple[float, float] | None = None  # when, and which, for the pace

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def fraction(self) -> float | None:
        """0 to 1, or None while it is unknown."""
        if self.state == "done":
            return 1.0
        return min(self.step / self.total, 1.0) if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the pace since the first step, which also includes warming up."""
        if self._first_step is None or self.finished or self.step <= self._first_step[1]:
            return None
        pace = (time.monotonic() - self._first_step[0]) / (self.step - self._first_step[1])
        return pace * (self.total - self.step)

    def poll(self) -> bool:
        """Apply what happened since the last call; True if something changed."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Give up at once; a program that still runs is ended afterwards."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> Any:
        """Poll until it is finished, or for `timeout` seconds; returns itself. Ctrl-C cancels."""
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while not self.finished and (end is None or time.monotonic() < end):
                if not self.poll():
                    time.sleep(0.01)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self

    def _progress(self, stage: str, step: float, total: float) -> None:
        self.state, self.stage, self.step, self.total = "running", stage, step, total
        if total and self._first_step is None:
            self._first_step = time.monotonic(), step


class ThreadTask(Task):
    """`work(task)` in a thread; it may run programs with `task.command`.

    Its return value is the result; a MarigoldError is a failure that the user can fix, its text
    the message. grace: the seconds that a program has after SIGTERM to end by itself, where a
    system has that signal; 0 kills it at once.
    """

    def __init__(self, work: Callable[[ThreadTask], Any], grace: float = 0.0) -> None:
        super().__init__()
        self.state = "running"
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self.log_file: Path | None = None  # the complete log, once the work names a file
        self._grace = grace
        self._updates: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        changed = False
        with suppress(queue.Empty):
            while True:
                self._apply(**self._updates.get_nowait())
                changed = True
        return changed

    def cancel(self) -> None:
        if not self.finished:
            self.state = "cancelled"
            self._stopped.set()
            self._kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait until none of it runs any more, also after a `cancel`."""
        self._thread.join(timeout)

    # For the work, in its thread:

    def update(self, **fields: Any) -> None:
        """New values of fields; stage, step and total belong together."""
        self._updates.put(fields)

    def log(self, line: str) -> None:
        line = without_credentials(line)
        if self.log_file is not None:
            with suppress(OSError), self.log_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self._updates.put({"line": line})

    def command(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], bool] = lambda line: True,
        environment: dict[str, str] | None = None,
    ) -> tuple[int, list[str]]:
        """Run a program; its exit status and lines.

        on_line: called with each line; False keeps it out of the log. environment: variables in
        addition to this process's. Raises MarigoldError if it cannot be started or the task was
        cancelled.
        """
        self.log("> " + " ".join(arguments))
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **(environment or {})},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                start_new_session=os.name == "posix",  # to be killed with its own children
            )
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise MarigoldError(f"{arguments[0]} cannot be started: {reason}.") from error
        if self._stopped.is_set():
            self._kill()
        lines: list[str] = []
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for raw in output:
                line = raw.decode("utf-8", "replace").rstrip()
                if line and on_line(line):
                    lines.append(line)
                    self.log(line)
        status = self._process.wait()
        if self._stopped.is_set():
            raise MarigoldError("Cancelled.")
        return status, lines

    def _apply(self, line: str | None = None, **fields: Any) -> None:
        if line is not None:
            self.lines.append(line)
        if self.finished:
            return
        if "stage" in fields:
            self._progress(fields.pop("stage"), fields.pop("step", 0), fields.pop("total", 0))
        vars(self).update(fields)

    def _run(self, work: Callable[[ThreadTask], Any]) -> None:
        try:
            self.update(result=work(self), state="done")
        except MarigoldError as error:
            self.log(str(error))
            self.update(error=without_credentials(str(error)), state="failed")
        except Exception as error:
            for line in traceback.format_exc().splitlines():
                self.log(line)
            message = f"It failed ({type(error).__name__}: {error}); see the log."
            self.update(error=without_credentials(message), state="failed")

    def _kill(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        with suppress(OSError):
            if self._grace and os.name == "posix":
                process.terminate()
                last = threading.Timer(self._grace, _kill_group, (process,))
                last.daemon = True
                last.start()
            else:
                _kill_group(process)


def without_credentials(text: str) -> str:
    return CREDENTIALS.sub("***@", text)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if process.poll() is not None:
            return
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
