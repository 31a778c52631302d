# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker process as Blender sees it: requests go in, jobs change when the UI polls.

No bpy here. Nothing blocks: the pipe is written and read in threads of their own, and what came
is applied to the jobs in `EngineProcess.poll`, on the thread of the caller.
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import marigold_core
from marigold_core.worker import jsonrpc

from .worker_pipe import WorkerPipe

ERROR_KINDS = {
    jsonrpc.BAD_INPUT: "input",
    jsonrpc.BAD_CHECKPOINT: "checkpoint",
    jsonrpc.OUT_OF_MEMORY: "memory",
    jsonrpc.NOT_INSTALLED: "python",
}
LOG_LINES = 200


@dataclass(eq=False)
class Job:
    """One request. Its fields change in `EngineProcess.poll` and `cancel` alone.

    state: "queued", "running", "done", "failed" or "cancelled". stage, step, total: as in the
    engine's `Progress`; a total of 0 is unknown. result, arrays: what came, when done. error: one
    sentence, when failed; error_kind: "input", "checkpoint", "memory", "python" (it cannot start
    or lacks a package), "crash", "protocol" or "internal". on_finish: called once, from `poll`
    or `cancel`.
    """

    id: int
    method: str
    state: str = "queued"
    stage: str = ""
    step: int = 0
    total: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    error_kind: str = ""
    on_finish: Callable[[Job], None] | None = None
    _began: tuple[float, int] | None = None  # when the first step of a known total was done
    _message: list[Any] = field(default_factory=list)  # until it runs

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def fraction(self) -> float | None:
        """0 to 1, or None while it is unknown."""
        if self.state == "done":
            return 1.0
        return self.step / self.total if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace since the first step, which also pays for warming up."""
        if self._began is None or self.finished or self.step <= self._began[1]:
            return None
        pace = (time.monotonic() - self._began[0]) / (self.step - self._began[1])
        return pace * (self.total - self.step)

    def _progress(self, stage: str, step: int, total: int) -> None:
        self.state, self.stage, self.step, self.total = "running", stage, step, total
        self._message = []
        if total and self._began is None:
            self._began = time.monotonic(), step

    def _finish(self, state: str, error: str = "", kind: str = "") -> None:
        if not self.finished:
            self.state, self.error, self.error_kind = state, error, kind
            self._message = []
            if self.on_finish is not None:
                self.on_finish(self)


class EngineProcess:
    """One warm worker, started when there is something to do, and again after it died.

    python: the interpreter that has torch and diffusers; a new one is used from the next start on.
    engine_folder: the `marigold_core` that the worker runs; None is this process's own.
    cancel_seconds: how long a cancelled step may go on before the process is terminated.
    """

    def __init__(
        self,
        python: str | os.PathLike[str],
        *,
        engine_folder: str | os.PathLike[str] | None = None,
        cancel_seconds: float = 30.0,
    ) -> None:
        self.python = os.fspath(python)
        own = Path(marigold_core.__file__).parent
        self.engine_folder = Path(own if engine_folder is None else engine_folder)
        self.cancel_seconds = cancel_seconds
        self._ids = itertools.count(1)
        self._jobs: dict[int, Job] = {}  # not yet answered; cancelled ones wait for their end
        self._child: WorkerPipe | None = None
        self._deadlines: dict[int, float] = {}
        self._log: deque[str] = deque(maxlen=LOG_LINES)

    @property
    def state(self) -> str:
        """ "stopped", "starting" (not yet heard of), "ready" or "busy"."""
        if self._child is None:
            return "stopped"
        if not self._child.is_ready:
            return "starting"
        return "busy" if self._jobs else "ready"

    @property
    def jobs(self) -> list[Job]:
        """The unfinished ones, oldest first."""
        return [job for job in self._jobs.values() if not job.finished]

    @property
    def log(self) -> list[str]:
        """The last lines that the worker wrote to stderr."""
        return list(self._log)

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.process.pid

    def warm_up(self) -> None:
        """Start the process, if it does not run."""
        self.submit("status")

    def submit(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> Job:
        """Ask for something; see `marigold_core.worker`. The arrays are not copied before `poll`
        says that the job runs: do not change them until then.

        A Python that cannot be started fails the job, with a sentence.
        """
        self.poll()
        job = Job(next(self._ids), method)
        request = {"id": job.id, "method": method, "params": dict(params or {})}
        job._message = jsonrpc.encode(request, arrays)
        self._send(job)
        return job

    def cancel(self, job: Job | None = None) -> None:
        """Give up a job, or all, at once; the worker ends the step that it is in behind it."""
        for one in self.jobs if job is None else [job]:
            if one.id in self._jobs and not one.finished and self._child is not None:
                self._deadlines[one.id] = time.monotonic() + self.cancel_seconds
                note = {"id": next(self._ids), "method": "cancel", "params": {"id": one.id}}
                self._child.send(jsonrpc.encode(note))
                one._finish("cancelled")

    def poll(self) -> bool:
        """Apply what the worker said since the last call; True if a job or the state changed."""
        changed = False
        while self._child is not None:
            try:
                event = self._child.events.get_nowait()
            except queue.Empty:
                break
            changed = True
            self._apply(event)
        if self._deadlines and min(self._deadlines.values()) < time.monotonic():
            # What waited behind the cancelled job has nothing to do with it, and runs then.
            waiting = [job for job in self.jobs if job._message]
            for job in waiting:
                del self._jobs[job.id]
            self._kill("It was stopped because a cancelled job did not end; run again.")
            for job in waiting:
                self._send(job)
            changed = True
        return changed

    def wait(self, job: Job, timeout: float | None = None) -> Job:
        """Poll until the job is finished, or for `timeout` seconds. Ctrl-C cancels the job."""
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while not job.finished and (end is None or time.monotonic() < end):
                if not self.poll():
                    time.sleep(0.01)
        except KeyboardInterrupt:
            self.cancel(job)
            raise
        return job

    def stop(self) -> None:
        """End the process and all jobs; its memory, on the GPU as well, is free afterwards."""
        if self._child is not None:
            child, self._child = self._child, None
            child.stop()
        self._fail_all("The engine was stopped.", "crash", state="cancelled")

    def _send(self, job: Job) -> None:
        if self._child is None:
            try:
                self._child = WorkerPipe(self.python, self.engine_folder, self._log)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                self._log.append(f"{self.python}: {error}")
                sentence = f"The Python {self.python} cannot be started: {reason}; choose another."
                job._finish("failed", sentence, "python")
                return
        self._jobs[job.id] = job
        self._child.send(job._message)

    def _kill(self, sentence: str) -> None:
        if self._child is not None:
            self._child.process.kill()
            self._child = None
        self._fail_all(sentence, "crash")

    def _fail_all(self, sentence: str, kind: str, state: str = "failed") -> None:
        jobs, self._jobs = self._jobs, {}
        self._deadlines.clear()
        for job in jobs.values():
            job._finish(state, sentence if state == "failed" else "", kind)

    def _apply(self, event: Any) -> None:
        if isinstance(event, jsonrpc.Message):
            self._receive(event)
        elif isinstance(event, jsonrpc.ProtocolError):
            self._log.append(str(event))
            self._kill("The engine and Blender lost each other (see the log); run again.")
        elif self._child is not None:
            child, self._child = self._child, None
            sentence = _death(event, child.is_ready, self._log)
            self._fail_all(sentence, "crash" if child.is_ready else "python")

    def _receive(self, message: jsonrpc.Message) -> None:
        content = message.content
        if self._child is not None:
            self._child.is_ready = True
        params = content.get("params", {})
        if content.get("method") == "progress":
            job = self._jobs.get(params.get("id"))
            if job is not None and not job.finished:
                job._progress(params["stage"], params["step"], params["total"])
            return
        job = self._jobs.pop(content.get("id", 0), None)
        if job is None:
            return
        self._deadlines.pop(job.id, None)
        if "error" in content:
            code, sentence = content["error"]["code"], content["error"]["message"]
            job._finish("failed", sentence, ERROR_KINDS.get(code, "internal"))
        elif not job.finished:
            job.result, job.arrays = content["result"], message.arrays
            job.warnings = job.result.get("warnings", [])
            job._finish("done")


def _death(status: int, was_ready: bool, log: deque[str]) -> str:
    """One sentence for a worker that ended by itself."""
    last = log[-1].strip() if log else ""
    killed = status == -getattr(signal, "SIGKILL", 9)
    if not was_ready:
        reason = last or f"exit status {status}"
        if killed:
            return "The engine was killed as it started, often because memory ran out; run again."
        return f"The engine did not start: {reason.rstrip('.')}; test this Python."
    if killed:
        return (
            "The engine was killed, often because memory ran out; lower the resolution or the "
            "ensemble size and run again."
        )
    if status < 0:
        return f"The engine crashed (signal {-status}); run again, and see the log if it repeats."
    return f"The engine ended unexpectedly (exit status {status}); run again, and see the log."
