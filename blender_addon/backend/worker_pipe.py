# SPDX-License-Identifier: GPL-3.0-or-later
"""A running worker and its three pipes, each in a thread of its own."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

from marigold_core.worker import jsonrpc

LAUNCHER = Path(__file__).with_name("launch_worker.py")


class WorkerPipe:
    """Starts the process; `events` holds what it sent.

    An event is a Message, a ProtocolError, or, as the last one, the exit status.
    """

    def __init__(self, python: str, engine_folder: Path, log: deque[str]) -> None:
        self.is_ready = False
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            # -B: no bytecode is written into an environment that is not ours.
            [python, "-I", "-B", "-u", "-X", "utf8", str(LAUNCHER), str(engine_folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=clean_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        log_reader = threading.Thread(
            target=_keep_lines, args=(self.process.stderr, log), daemon=True
        )
        log_reader.start()
        threading.Thread(target=self._write, args=(self.process.stdin,), daemon=True).start()
        threading.Thread(
            target=self._read, args=(self.process.stdout, log_reader), daemon=True
        ).start()

    def send(self, pieces: list[Any]) -> None:
        self._outgoing.put(pieces)

    def stop(self) -> None:
        """Close the pipe, upon which the worker exits; kill it if it does not."""
        self._outgoing.put(None)
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5.0)

    def _write(self, pipe: BinaryIO) -> None:
        try:
            with pipe:
                while (pieces := self._outgoing.get()) is not None:
                    for piece in pieces:
                        view = memoryview(piece)
                        while view:  # an unbuffered write takes what fits into the pipe
                            view = view[pipe.write(view) :]
        except OSError:
            pass  # the process ended, which the reader reports

    def _read(self, pipe: BinaryIO, log_reader: threading.Thread) -> None:
        reader = jsonrpc.MessageReader()
        try:
            with pipe:
                while data := os.read(pipe.fileno(), 1 << 20):
                    for message in reader.feed(data):
                        self.events.put(message)
        except jsonrpc.ProtocolError as error:
            self.events.put(error)
        self._outgoing.put(None)
        status = self.process.wait()
        log_reader.join(1.0)  # the reason may be its last line
        self.events.put(status)


def clean_environment() -> dict[str, str]:
    """The variables of this process without those of Blender's Python."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    }


def _keep_lines(pipe: BinaryIO, log: deque[str]) -> None:
    with pipe:
        rest = b""
        while data := os.read(pipe.fileno(), 1 << 16):
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            rest = rest[-10_000:]
            log.extend(line.decode("utf-8", "replace") for line in lines if line.strip())
        if rest.strip():
            log.append(rest.decode("utf-8", "replace"))
