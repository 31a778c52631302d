# SPDX-License-Identifier: GPL-3.0-or-later
"""The output of pip and venv, read for a progress bar and for an error message. No bpy."""

from __future__ import annotations

import re

from .background_task import ThreadTask

FULL = re.compile(r"No space left on device|Errno 28|WinError 112|not enough space on the disk")
NO_VENV = re.compile(r"No module named venv|ensurepip is not\s+available|No module named ensurepip")
PROXY = re.compile(r"ProxyError|Cannot connect to proxy|Tunnel connection failed|407 Proxy")
CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError")
# An old pip takes half a file for a complete one, and finds it invalid.
NETWORK = re.compile(
    r"Wheel '[^']+' located at .* is invalid|DO NOT MATCH THE HASHES|"
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Read timed out|Temporary failure in name res|"
    r"getaddrinfo failed|ConnectionResetError|Connection aborted|Connection broken|"
    r"IncompleteRead|incomplete-download|RemoteDisconnected|Max retries exceeded|HTTP error 5\d\d"
)
NO_MATCH = re.compile(r"No matching distribution found for ([^\s;]+)")
READ_ONLY = re.compile(
    r"Permission denied|Errno 13\b|Errno 30\b|Read-only file system|WinError 5\b"
)


class PipProgress:
    """Reads pip's lines as they come and updates the task's stage, detail, step and total.

    lock: the requirement list; every file of it counts the same, and a file that is being
    downloaded counts by its bytes.
    """

    def __init__(self, task: ThreadTask, lock: str) -> None:
        self._task = task
        self._packages = len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE)) or 1
        self._files = 0
        self._file = ""

    def on_line(self, line: str) -> bool:
        """Read a line; False for one that does not belong in a log."""
        words = line.split()
        if words[0] == "Progress" and len(words) == 4:  # of --progress-bar raw: bytes of bytes
            done, total = (float(number) for number in (words[1], words[3]))
            part = done / total if total else 0.0
            detail = f"{self._file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB"
            self._report(self._files - 1 + part, detail)
            return False
        if words[0] in ("Downloading", "Using", "Processing") and line.split("(")[
            0
        ].strip().endswith((".whl", ".whl.metadata")):
            self._on_file(words)
        elif line.startswith("Installing collected packages"):
            self._task.update(stage="install", detail="")
        return True

    def _on_file(self, words: list[str]) -> None:
        name = next(word for word in words if word.endswith((".whl", ".whl.metadata")))
        if name.endswith(".whl"):
            self._files += 1
            self._file = re.split(r"[/\\]", name)[-1].split("-")[0]
            self._report(self._files - 1, self._file)

    def _report(self, files: float, detail: str) -> None:
        # torch's own parts (CUDA) are not in the list, so there can be more files than packages.
        step = min(files, 0.99 * self._packages)
        self._task.update(stage="download", step=step, total=self._packages, detail=detail)


def failure_message(lines: list[str], python: str) -> str:
    """Why `python -m venv` or `pip install` failed, and what to do, from what it printed."""
    text = "\n".join(lines)
    again = "then press the button again: it continues where it stopped."
    if FULL.search(text):
        return f"The disk is full; make room, {again}"
    if NO_VENV.search(text):
        return (
            f"The Python {python} has no pip to make an environment with (on Debian and Ubuntu: "
            "apt install python3-venv); install that, or use an existing Python."
        )
    if PROXY.search(text):
        return f"The proxy could not be reached or refused; correct its address, {again}"
    if CERTIFICATE.search(text):
        return f"The server's certificate is not trusted; install your network's own, {again}"
    if NETWORK.search(text):
        return f"The download was interrupted; check the network and the proxy, {again}"
    if match := NO_MATCH.search(text):
        return (
            f"There is no wheel of {match[1]} for this system and Python; check the wheel folder "
            "if you chose one, or use an existing Python."
        )
    if READ_ONLY.search(text):
        return "The folder of the environment cannot be written to; choose another one."
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    return f"It failed ({errors[-1].removeprefix('ERROR: ')[:200].rstrip('.')}); see the log."
