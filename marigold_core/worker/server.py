"""The engine as a child process: python -m marigold_core.worker

Requests come on stdin and answers go to stdout, both as `jsonrpc.py` describes them; what each
method does is in `methods.py`. One request runs at a time, in the order they came. Two are
answered at once, while another runs: `cancel` {id; left out: all} and `status`.

The process sends notifications: `ready` once, `progress` {id, stage, step, total; a total of 0 is
unknown}, and `unloaded` when the networks were freed after `idle_seconds` (a parameter of every
request, None = never) without work. It ends as soon as its stdin is closed, so that it cannot
outlive its parent.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import __version__
from ..errors import Cancelled, CheckpointError, MarigoldError, is_out_of_memory
from ..files import LARGE_PAGES, exit_on_sigterm
from .jsonrpc import (
    BAD_CHECKPOINT,
    BAD_INPUT,
    BUSY,
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    NOT_INSTALLED,
    OUT_OF_MEMORY,
    PARSE_ERROR,
    Message,
    MessageReader,
    ProtocolError,
    encode,
)

if TYPE_CHECKING:
    from .methods import Session

METHODS = (
    "load", "depth", "panorama", "normals", "intrinsics", "guided", "align", "download", "unload",
)  # fmt: skip
IDLE_SECONDS = 300.0
LONGEST_IDLE_SECONDS = 7 * 24 * 3600
MOST_WAITING = 100  # requests: a front end sends few before it waits for an answer
NO_MEMORY = (
    "The device ran out of memory: close other programs that use it, lower the resolution, use "
    "dtype float16, or choose device 'cpu'."
)


@dataclass
class Request:
    id: int | str
    method: str
    params: dict[str, Any]
    arrays: dict[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Reads requests in a thread of its own and runs them in the one that calls `run`."""

    def __init__(self, source: int, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._sending = threading.Lock()
        self._changed = threading.Condition()  # guards the two below
        self._waiting: deque[Request] = deque()
        self._running: Request | None = None
        self._session: Session | None = None
        self._free_at: float | None = None

    def run(self) -> None:
        """Serve until the pipe is closed; never returns."""
        python = ".".join(map(str, sys.version_info[:3]))
        self._notify("ready", {"version": __version__, "python": python, "pid": os.getpid()})
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while True:
            request = self._next()
            if request is None:
                self._unload_idle()
            else:
                self._answer(request)
                with self._changed:
                    self._running = None
            del request  # and its arrays, before the wait for the next

    def _listen(self) -> None:
        reader = MessageReader()
        status = 0
        try:
            while data := os.read(self._source, 1 << 20):
                for message in reader.feed(data):
                    self._receive(message)
            reader.close()
        except ProtocolError as error:
            self._refuse(None, PARSE_ERROR, str(error))
            status = 2
        except OSError:
            pass  # Windows: the parent has gone
        except BaseException as error:
            traceback.print_exception(error, file=sys.stderr)
            status = 3
        # Not sys.exit: a step may be running in the other thread, for nobody now.
        os._exit(status)

    def _receive(self, message: Message) -> None:
        content = message.content
        id, method, params = content.get("id"), content.get("method"), content.get("params", {})
        if not isinstance(id, (int, str)) or isinstance(id, bool):
            self._refuse(None, INVALID_REQUEST, "A request has an id, a number or a string.")
        elif not isinstance(method, str) or not isinstance(params, dict):
            self._refuse(id, INVALID_REQUEST, "A request has a method and named params.")
        elif method == "cancel":
            self._send({"id": id, "result": {"cancelled": self._cancel(params.get("id"))}})
        elif method == "status":
            self._send({"id": id, "result": self._status()})
        elif method in METHODS:
            request = Request(id, method, params, message.arrays)
            with self._changed:
                is_full = len(self._waiting) >= MOST_WAITING
                if not is_full:
                    self._waiting.append(request)
                    self._changed.notify()
            if is_full:
                self._refuse(id, BUSY, f"{MOST_WAITING} requests are waiting; wait for answers.")
        else:
            self._refuse(id, METHOD_NOT_FOUND, f"The engine has no method {method!r}.")

    def _cancel(self, id: int | str | None) -> list[int | str]:
        """Drop waiting requests and stop the running one within a step; the ids that were meant."""
        with self._changed:
            dropped = [request for request in self._waiting if id in (None, request.id)]
            self._waiting = deque(one for one in self._waiting if one not in dropped)
            running = self._running
        meant = [request.id for request in dropped]
        if running is not None and id in (None, running.id):
            running.cancelled.set()
            meant.insert(0, running.id)
        for request in dropped:
            self._refuse(request.id, CANCELLED, "Cancelled before it began.")
        return meant

    def _status(self) -> dict[str, Any]:
        # torch may just be importing in the other thread, so nothing here imports it.
        torch = sys.modules.get("torch")
        session = self._session
        with self._changed:
            return {
                "version": __version__,
                "python": ".".join(map(str, sys.version_info[:3])),
                "torch": getattr(torch, "__version__", None),
                "pid": os.getpid(),
                "loaded": session.loaded if session else None,
                "running": self._running.id if self._running else None,
                "queued": [request.id for request in self._waiting],
            }

    def _next(self) -> Request | None:
        """The next request, or None when the idle time is over."""
        with self._changed:
            while not self._waiting:
                left = None if self._free_at is None else self._free_at - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            self._running = self._waiting.popleft()
            return self._running

    def _unload_idle(self) -> None:
        self._free_at = None
        if self._session is not None and self._session.loaded:
            self._session.free()
            self._notify("unloaded", {"reason": "idle"})

    def _answer(self, request: Request) -> None:
        def report(stage: str, step: int = 0, total: int = 0) -> None:
            if request.cancelled.is_set():
                raise Cancelled("Cancelled.")
            params = {"id": request.id, "stage": stage, "step": step, "total": total}
            self._notify("progress", params)

        failure = None
        idle_seconds: float | None = IDLE_SECONDS
        try:
            idle_seconds = _idle_seconds(request.params)
            if self._session is None:
                report("start")
                from .methods import Session  # torch and diffusers: some seconds

                self._session = Session()
            result, arrays = self._session.call(
                request.method, request.params, request.arrays, report
            )
            message = encode({"id": request.id, "result": result}, arrays)
        except SystemExit:  # SIGTERM
            raise
        except BaseException as error:
            failure = _failure(error, request.method)
        # Outside the except block: the traceback keeps the failed run's tensors alive.
        if failure is None:
            self._write(message)
        else:
            if failure[0] == OUT_OF_MEMORY and self._session is not None:
                self._session.free()
            self._refuse(request.id, *failure)
        self._free_at = None if idle_seconds is None else time.monotonic() + idle_seconds

    def _notify(self, method: str, params: Mapping[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def _refuse(self, id: int | str | None, code: int, reason: str) -> None:
        self._send({"id": id, "error": {"code": code, "message": reason}})

    def _send(self, content: Mapping[str, Any]) -> None:
        self._write(encode(content))

    def _write(self, pieces: list[Any]) -> None:
        try:
            with self._sending:
                for piece in pieces:
                    self._sink.write(piece)
                self._sink.flush()
        except OSError:
            os._exit(0)  # nobody reads any more


def _idle_seconds(params: dict[str, Any]) -> float | None:
    seconds = params.pop("idle_seconds", IDLE_SECONDS)
    if seconds is None:
        return None
    if type(seconds) not in (int, float) or not 0 <= seconds <= LONGEST_IDLE_SECONDS:
        raise MarigoldError(
            f"idle_seconds is {str(seconds)[:40]}; give seconds, at most {LONGEST_IDLE_SECONDS}, or"
            " None for never."
        )
    return float(seconds)


def _failure(error: BaseException, method: str) -> tuple[int, str]:
    """The code and the message of the error that a request ended in."""
    if isinstance(error, Cancelled):
        return CANCELLED, "Cancelled."
    if is_out_of_memory(error):
        return OUT_OF_MEMORY, NO_MEMORY
    if isinstance(error, MarigoldError):
        code = BAD_CHECKPOINT if isinstance(error, CheckpointError) else BAD_INPUT
        return code, str(error)
    traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, ImportError):
        lacks = f"has no {error.name}" if isinstance(error, ModuleNotFoundError) else str(error)
        return NOT_INSTALLED, f"The engine's Python ({sys.executable}) {lacks}; test it."
    lines = str(error).strip().splitlines() or ["no message"]
    return INTERNAL_ERROR, f"The engine failed in {method!r} ({type(error).__name__}: {lines[0]})."


def main() -> None:
    # A library's print() must not end up between two messages, nor an input() take one away:
    # the pipe moves to other descriptors, 1 becomes stderr and 0 nothing.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # Ctrl-C in the terminal that Blender was started from goes to all its children as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_on_sigterm()
    os.environ.setdefault(*LARGE_PAGES)
    Worker(source, os.fdopen(sink, "wb")).run()
