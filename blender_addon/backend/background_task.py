# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work with other programs, watched by a UI that polls. No bpy."""

from __future__ import annotations

import os
import queue
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

from .worker_pipe import clean_environment

SHOWN_LINES = 200


class EnvironmentProblem(Exception):
    """What the user can mend: one sentence."""


class Task:
    """A function in a thread of its own, which may run programs; its fields change in `poll`.

    state: "running", "done", "failed" or "cancelled". stage: a word; detail: what of it, such as
    a file and its bytes. fraction: of the stage, 0 to 1, or None while unknown. lines: the last of
    the log; log_file, once there is one, has all of it. result: what the function returned;
    error: one sentence. grace: the seconds that a program has after SIGTERM to end by itself,
    where a system has that signal; 0 kills it outright.
    """

    def __init__(self, work: Callable[[Task], Any], grace: float = 0.0) -> None:
        self.state = "running"
        self.stage = ""
        self.detail = ""
        self.fraction: float | None = None
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self.log_file: Path | None = None
        self.result: Any = None
        self.error = ""
        self._grace = grace
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        return self.state != "running"

    def poll(self) -> bool:
        """Take over what happened since the last call; True if something did."""
        changed = False
        with suppress(queue.Empty):
            while True:
                news = self._news.get_nowait()
                if "line" in news:
                    self.lines.append(news.pop("line"))
                if not self.finished:
                    vars(self).update(news)
                changed = True
        return changed

    def cancel(self) -> None:
        """Give up at once; the running program is ended behind it."""
        if not self.finished:
            self.state = "cancelled"
            self._stopped.set()
            self._kill()

    def wait(self, timeout: float | None = None) -> Task:
        """Poll until it is finished, or for `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.finished and (end is None or time.monotonic() < end):
            if not self.poll():
                time.sleep(0.02)
        return self

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of it runs any more, after a `cancel` as well."""
        self._thread.join(timeout)

    # For the work, in its thread:

    def tell(self, **news: Any) -> None:
        """New values of fields; line: one more line of the log."""
        if "line" in news and self.log_file is not None:
            with suppress(OSError), self.log_file.open("a", encoding="utf-8") as log:
                log.write(news["line"] + "\n")
        self._news.put(news)

    def command(
        self, arguments: Sequence[str], heard: Callable[[str], bool] = lambda line: True
    ) -> tuple[int, list[str]]:
        """Run a program; its exit status and lines. heard: False keeps a line out of the log.

        Raises EnvironmentProblem if it cannot be started or the task was cancelled.
        """
        self.tell(line="> " + " ".join(arguments))
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                start_new_session=os.name == "posix",  # to be killed with its own children
            )
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise EnvironmentProblem(f"{arguments[0]} cannot be started: {reason}.") from error
        if self._stopped.is_set():
            self._kill()
        lines: list[str] = []
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for raw in output:
                line = raw.decode("utf-8", "replace").rstrip()
                if line and heard(line):
                    lines.append(line)
                    self.tell(line=line)
        status = self._process.wait()
        if self._stopped.is_set():
            raise EnvironmentProblem("Cancelled.")
        return status, lines

    def _run(self, work: Callable[[Task], Any]) -> None:
        try:
            self.tell(result=work(self), state="done")
        except EnvironmentProblem as problem:
            self.tell(line=str(problem))
            self.tell(error=str(problem), state="failed")
        except Exception as error:
            sentence = f"It failed ({type(error).__name__}: {error}); the log has more."
            for line in traceback.format_exc().splitlines():
                self.tell(line=line)
            self.tell(error=sentence, state="failed")

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


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if process.poll() is not None:
            return
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
