# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the worker process: requests go in, jobs change when the interface polls.

No bpy here. Nothing blocks: the pipe is written and read in threads of their own, and what was
received is applied to the jobs in `EngineProcess.poll`, on the caller's thread.
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import marigold_core
from marigold_core.worker import jsonrpc

from .background_task import Task
from .worker_pipe import WorkerPipe

ERROR_KINDS = {
    jsonrpc.BAD_INPUT: "input",
    jsonrpc.BAD_CHECKPOINT: "checkpoint",
    jsonrpc.OUT_OF_MEMORY: "memory",
    jsonrpc.NOT_INSTALLED: "python",
}
LOG_LINES = 200


class Job(Task):
    """One request to the engine. result: the answer, a dict; arrays: the arrays that came with it.

    stage, step, total: as in the engine's `Progress`.
    """

    def __init__(self, engine: EngineProcess, id: int, method: str, message: list[Any]) -> None:
        super().__init__()
        self.id = id
        self.method = method
        self.result: dict[str, Any] = {}
        self.arrays: dict[str, Any] = {}
        self._engine = engine
        self._message = message  # until it runs

    def poll(self) -> bool:
        return self._engine.poll()

    def cancel(self) -> None:
        self._engine.cancel(self)

    def _progress(self, stage: str, step: float, total: float) -> None:
        super()._progress(stage, step, total)
        self._message = []

    def _finish(self, state: str, error: str = "", kind: str = "") -> None:
        if not self.finished:
            self.state, self.error, self.error_kind = state, error, kind
            self._message = []


class EngineProcess:
    """One warm worker, started with the first request, and again after it ended.

    python: the interpreter that has torch and diffusers; a new one is used from the next start on.
    engine_folder: the `marigold_core` that the worker runs; None is this process's own.
    cancel_seconds: how long a cancelled step may still run before the process is terminated.
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
        """ "stopped", "starting" (no message yet), "ready" or "busy"."""
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

    def submit(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> Job:
        """Send a request; see `marigold_core.worker`. The arrays are not copied before the job
        runs: do not change them until then.

        A Python that cannot be started fails the job, with an error message.
        """
        self.poll()
        request = {"id": next(self._ids), "method": method, "params": dict(params or {})}
        job = Job(self, request["id"], method, jsonrpc.encode(request, arrays))
        self._send(job)
        return job

    def cancel(self, job: Job | None = None) -> None:
        """Give up a job, or all, at once; the worker finishes its present step first."""
        for one in self.jobs if job is None else [job]:
            if one.id in self._jobs and not one.finished and self._child is not None:
                self._deadlines[one.id] = time.monotonic() + self.cancel_seconds
                note = {"id": next(self._ids), "method": "cancel", "params": {"id": one.id}}
                self._child.send(jsonrpc.encode(note))
                one._finish("cancelled")

    def poll(self) -> bool:
        """Apply the worker's messages since the last call; True if a job or the state changed."""
        changed = False
        while self._child is not None:
            try:
                event = self._child.events.get_nowait()
            except queue.Empty:
                break
            changed = True
            self._apply(event)
        if self._deadlines and min(self._deadlines.values()) < time.monotonic():
            # Jobs that waited behind the cancelled one are not affected: a new worker gets them.
            waiting = [job for job in self.jobs if job._message]
            for job in waiting:
                del self._jobs[job.id]
            self._kill("It was stopped because a cancelled job did not end; run again.")
            for job in waiting:
                self._send(job)
            changed = True
        return changed

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
                message = f"The Python {self.python} cannot be started: {reason}; choose another."
                job._finish("failed", message, "python")
                return
        self._jobs[job.id] = job
        self._child.send(job._message)

    def _kill(self, message: str) -> None:
        if self._child is not None:
            self._child.process.kill()
            self._child = None
        self._fail_all(message, "crash")

    def _fail_all(self, message: str, kind: str, state: str = "failed") -> None:
        jobs, self._jobs = self._jobs, {}
        self._deadlines.clear()
        for job in jobs.values():
            job._finish(state, message if state == "failed" else "", kind)

    def _apply(self, event: Any) -> None:
        if isinstance(event, jsonrpc.Message):
            self._receive(event)
        elif isinstance(event, jsonrpc.ProtocolError):
            self._log.append(str(event))
            self._kill("The connection to the engine broke (see the log); run again.")
        elif self._child is not None:
            child, self._child = self._child, None
            message = _exit_message(event, child.is_ready, self._log)
            self._fail_all(message, "crash" if child.is_ready else "python")

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
            code, text = content["error"]["code"], content["error"]["message"]
            job._finish("failed", text, ERROR_KINDS.get(code, "internal"))
        elif not job.finished:
            job.result, job.arrays = content["result"], message.arrays
            job.warnings = job.result.get("warnings", [])
            job._finish("done")


def _exit_message(status: int, was_ready: bool, log: deque[str]) -> str:
    """The error message for a worker that ended by itself."""
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
