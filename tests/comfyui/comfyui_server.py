"""A real ComfyUI as a process, with this pack in a custom_nodes folder of its own.

Its source tree is only read: models, input, output and custom_nodes lie under a base directory
elsewhere. Also used by benchmarks/comfyui_overhead.py.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACK = ("__init__.py", "nodes", "marigold_core", "web", "locales", "example_workflows")
STARTUP_SECONDS = 180
ENDS = ("execution_success", "execution_error", "execution_interrupted")
BINARY = "binary"  # the type given to a preview's frame

Graph = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Installation:
    """A source tree of ComfyUI, and the Python that has its requirements."""

    tree: Path
    python: str

    @property
    def version(self) -> str:
        found = re.search(r'"(.+)"', (self.tree / "comfyui_version.py").read_text(encoding="utf-8"))
        return found[1] if found else self.tree.name


def installations() -> list[Installation]:
    """What COMFYUI_PATH and COMFYUI_PYTHON name: one tree, or several separated as in PATH."""
    trees = os.environ.get("COMFYUI_PATH", "").split(os.pathsep)
    pythons = os.environ.get("COMFYUI_PYTHON", "").split(os.pathsep)
    if len(pythons) < len(trees):
        pythons *= len(trees)
    return [
        Installation(Path(tree).resolve(), python or sys.executable)
        for tree, python in zip(trees, pythons, strict=False)
        if tree
    ]


class PromptFailed(Exception):
    """A prompt was refused, or a node raised; the message is what ComfyUI said."""


class ComfyUIServer:
    """`with ComfyUIServer(base, installation) as comfyui: comfyui.run(graph)`."""

    def __init__(
        self,
        base: Path,
        installation: Installation,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.base = base
        install_pack(base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = (base / "comfyui.log").open("w+")
        self.process = subprocess.Popen(
            [
                installation.python, "main.py", "--cpu",
                "--base-directory", str(base), "--port", str(self.port), "--disable-api-nodes",
                *arguments,
            ],
            cwd=installation.tree, env=os.environ | dict(environment or {}), stdout=self.log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._await_start()
        self.events: list[dict[str, Any]] = []
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        self._socket = self._connect()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> ComfyUIServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._socket.close()
        self.log.close()

    def request(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise PromptFailed(error.read().decode()) from None
        return json.loads(text) if text.strip() else None

    def queue(self, graph: Graph) -> str:
        return self.request("/prompt", {"prompt": graph, "client_id": "tests"})["prompt_id"]

    def run(self, graph: Graph, timeout: float = 300) -> dict[str, Any]:
        """Queue, wait, and return the outputs of /history: node id -> what it showed."""
        entry = self.wait(self.queue(graph), timeout)
        for kind, message in entry["status"]["messages"]:
            if kind == "execution_error":
                raise PromptFailed(message["exception_message"])
        return entry["outputs"]

    def wait(self, prompt: str, timeout: float = 300) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            # Asking for the history all the time would slow down what a benchmark times.
            if any(self.seen(kind, prompt) for kind in ENDS):
                history = self.request(f"/history/{prompt}")
                if prompt in history:
                    return history[prompt]
            time.sleep(0.05)
        raise TimeoutError(f"The prompt did not end in {timeout} s.\n{self.log_text()}")

    def cancel_at(self, graph: Graph, node: str, step: int) -> tuple[str, dict[str, Any]]:
        """The prompt and its history, cancelled when a node reports that step."""

        def cancel(event: dict[str, Any]) -> None:
            data = event["data"]
            if event["type"] == "progress" and data["node"] == node and data["value"] == step:
                self.request("/interrupt", {})

        self.on_event = cancel
        try:
            prompt = self.queue(graph)
            return prompt, self.wait(prompt)
        finally:
            self.on_event = None

    def seen(self, kind: str, prompt: str | None = None) -> list[dict[str, Any]]:
        """The data of the messages of one type, of one prompt."""
        return [
            event["data"]
            for event in list(self.events)
            if event["type"] == kind
            and (prompt is None or event["data"].get("prompt_id") == prompt)
        ]

    def resident_bytes(self) -> int:
        """Main memory of the process. Linux alone tells."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def log_text(self) -> str:
        return (self.base / "comfyui.log").read_text(encoding="utf-8", errors="replace")

    def _await_start(self) -> None:
        end = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.request("/system_stats")
                return
            except (OSError, PromptFailed):
                time.sleep(0.3)
        self.process.kill()
        raise RuntimeError(f"ComfyUI did not start.\n{self.log_text()}")

    def _connect(self) -> socket.socket:
        """A websocket with the standard library alone (RFC 6455); ComfyUI only ever sends."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET /ws?clientId=tests HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self._stream = connection.makefile("rb")
        while self._stream.readline() not in (b"\r\n", b""):
            pass
        return connection

    def _listen(self) -> None:
        for opcode, payload in self._frames():
            if opcode == 2:
                event = {"type": BINARY, "data": {"bytes": payload}}
            elif opcode == 1:
                event = json.loads(payload)
            else:
                continue
            self.events.append(event)
            if self.on_event:
                self.on_event(event)

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        while len(head := self._stream.read(2)) == 2:
            length = head[1] & 127
            if length == 126:
                (length,) = struct.unpack(">H", self._stream.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._stream.read(8))
            yield head[0] & 15, self._stream.read(length)


def install_pack(base: Path) -> None:
    """Copy the pack, as it would be cloned, and the bundled picture as an input."""
    target = base / "custom_nodes" / "marigold-kit"
    for name in PACK:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=ignored, dirs_exist_ok=True)
        elif source.exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    (base / "input").mkdir(exist_ok=True)
    shutil.copy(ROOT / "marigold_core" / "assets" / "example.jpg", base / "input" / "example.jpg")
