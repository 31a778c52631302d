# SPDX-License-Identifier: GPL-3.0-or-later
"""An environment of the add-on's own for the engine: made, continued, removed. No bpy.

FOLDER/marigold-environment.json   marks it as ours; its requirements, and its state
FOLDER/log.txt
FOLDER/python/                     a venv
FOLDER/downloads/                  pip's cache while it is unfinished, so that a second try
                                   downloads only the files that the first did not finish
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path

from .background_task import ThreadTask
from .pip_output import PipProgress, failure_message
from .python_check import check_python, numbers
from .worker_pipe import clean_environment

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
MARKER = "marigold-environment.json"
WHEELS_OF_TORCH = "https://download.pytorch.org/whl/"
# From 25.1 on an interrupted download is continued; 24.1 is the first to print its progress.
PIP = "26.3"


@dataclass(frozen=True)
class Build:
    """A kind of torch. size: of the download, in words."""

    label: str
    size: str


BUILDS = {
    "cuda": Build("NVIDIA (CUDA)", "some gigabytes"),
    "rocm": Build("AMD (ROCm, Linux)", "some gigabytes"),
    "mps": Build("Apple (Metal)", "some hundred megabytes"),
    "cpu": Build("Processor only", "about 250 MB"),
}


def detect_build() -> str:
    """The build of BUILDS that fits this machine: "cuda", "rocm", "mps" or "cpu"."""
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    if nvidia_cards():
        return "cuda"
    # The kernel driver's device, which exists with or without ROCm's own programs.
    return "rocm" if sys.platform == "linux" and os.path.exists("/dev/kfd") else "cpu"


def nvidia_cards() -> list[tuple[float, int]]:
    """(compute capability, major number of the driver) of each; none without a driver."""
    ask = ["nvidia-smi", "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            ask,
            capture_output=True,
            text=True,
            timeout=10,
            env=clean_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = re.findall(r"^([\d.]+), (\d+)\.", answer, re.MULTILINE)
    return [(float(capability), int(driver)) for capability, driver in found]


def wheel_tag(build: str, cards: list[tuple[float, int]]) -> str:
    """The folder of torch's wheels, "" for PyPI's own.

    CUDA 13 needs driver 580 or newer and supports Turing (7.5) and newer; CUDA 12.6 runs with
    driver 525 or newer and supports up to Hopper (9.0).
    """
    if build == "cuda":
        new = all(capability >= 7.5 and driver >= 580 for capability, driver in cards)
        return "cu130" if new or any(capability > 9.0 for capability, _ in cards) else "cu126"
    if build == "mps" or sys.platform == "darwin":
        return ""
    return {"rocm": "rocm7.2", "cpu": "cpu"}[build]


def environment_python(folder: str | os.PathLike[str]) -> Path:
    """The interpreter of an environment that was made in `folder`."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return Path(folder) / "python" / inside


def environment_state(
    folder: str | os.PathLike[str], requirements: str | os.PathLike[str] = REQUIREMENTS
) -> str:
    """ "absent", "unfinished", "ready", "outdated" (works, with older versions), or "foreign":
    other files, which are left alone."""
    folder = Path(folder)
    marker = _marker(folder)
    if marker is None:
        nothing = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        return "absent" if nothing else "foreign"
    if marker.get("state") != "ready" or not environment_python(folder).exists():
        return "unfinished"
    return "ready" if marker.get("requirements") == _digest(requirements) else "outdated"


def make_environment(
    folder: str | os.PathLike[str],
    *,
    base_python: str | os.PathLike[str] | None = None,
    build: str | None = None,
    proxy: str = "",
    wheel_folder: str | os.PathLike[str] = "",
    requirements: str | os.PathLike[str] = REQUIREMENTS,
) -> ThreadTask:
    """Make an environment in `folder`, or continue or update the one there.

    base_python: what it is made with; None is the running one, Blender's. build: of BUILDS; None
    is `detect_build()`. proxy: as pip takes it, such as http://user:password@host:8080; empty is
    the system's. wheel_folder: install from there, without the network. The stages are "venv",
    "pip", "download", "install" and "test"; the result is the PythonReport of the new one.
    """
    folder = Path(folder)
    base = os.fspath(base_python or sys.executable)
    wheels = os.fspath(wheel_folder)

    def work(task: ThreadTask) -> Any:
        kind = build or detect_build()
        _claim(folder, wheels)
        task.log_file = folder / "log.txt"
        _make_venv(task, folder, base)
        python = str(environment_python(folder))
        # By environment: every user of the machine can read a command line.
        network = {"PIP_PROXY": proxy} if proxy else {}
        source = ["--no-index", "--find-links", wheels] if wheels else []
        if not wheels:
            _update_pip(task, folder, python, network)
        lock = _lock(folder, Path(requirements), kind, offline=bool(wheels))
        _install(task, folder, python, [*source, *lock], network)
        report = check_python(task, python)
        if not report.ok:
            raise MarigoldError(report.summary)
        shutil.rmtree(folder / "downloads", ignore_errors=True)
        _mark(folder, state="ready", build=kind, requirements=_digest(requirements))
        return report

    return ThreadTask(work)


def remove_environment(folder: str | os.PathLike[str]) -> None:
    """Delete what `make_environment` made; raises MarigoldError. Stop the engine first."""
    folder = Path(folder)
    state = environment_state(folder)
    if state == "foreign":
        raise MarigoldError(f"{folder} was not made by this add-on, so it is left alone.")
    if state == "absent":
        return
    try:
        for part in ("python", "downloads"):
            if (folder / part).exists():
                shutil.rmtree(folder / part)
        # The marker last: as long as files are left, the folder is marked as ours.
        for part in ("lock.txt", "log.txt", MARKER):
            (folder / part).unlink(missing_ok=True)
    except OSError as error:
        raise MarigoldError(
            f"{error.filename or folder} cannot be deleted ({error.strerror}); stop the engine, "
            "close other programs that use it, and try again."
        ) from error
    if not any(folder.iterdir()):
        folder.rmdir()


def _claim(folder: Path, wheels: str) -> None:
    if environment_state(folder) == "foreign":
        raise MarigoldError(f"{folder} has other files in it; choose an empty folder.")
    if wheels and not Path(wheels).is_dir():
        raise MarigoldError(f"There is no wheel folder {wheels}; correct it or clear it.")
    try:
        _mark(folder, state="unfinished")
    except OSError as error:
        full = error.errno == errno.ENOSPC
        fact = "the disk is full" if full else error.strerror
        raise MarigoldError(f"{folder} cannot be written to: {fact}.") from error


def _make_venv(task: ThreadTask, folder: Path, base: str) -> None:
    task.update(stage="venv", detail="")
    python = environment_python(folder)
    if python.exists() and task.command([str(python), "-I", "-m", "pip", "--version"])[0] == 0:
        return
    if not Path(base).is_file():
        raise MarigoldError(f"There is no Python at {base} to make an environment with.")
    # pip in a separate step: venv hides the output of ensurepip when it fails.
    venv = [base, "-I", "-m", "venv", "--without-pip", "--clear", str(folder / "python")]
    for arguments in (venv, [str(python), "-I", "-m", "ensurepip"]):
        status, lines = task.command(arguments)
        if status != 0:
            raise MarigoldError(failure_message(lines, base))


def _update_pip(task: ThreadTask, folder: Path, python: str, network: dict[str, str]) -> None:
    task.update(stage="pip")
    # A failure is no error yet: the old pip can do the next step, which reports a lost network.
    task.command([*_pip(folder, python), f"pip=={PIP}"], environment=network)


def _install(
    task: ThreadTask, folder: Path, python: str, arguments: list[str], network: dict[str, str]
) -> None:
    task.update(stage="download")
    _, (version, *_) = task.command([python, "-I", "-m", "pip", "--version"])
    known = numbers(version.removeprefix("pip "))
    options = ["--progress-bar", "raw"] if known >= (24, 1) else ["--progress-bar", "off"]
    options += ["--resume-retries", "20"] if known >= (25, 1) else []
    progress = PipProgress(task, (folder / "lock.txt").read_text("utf-8"))
    command = [*_pip(folder, python), *options, *arguments]
    status, lines = task.command(command, progress.on_line, network)
    if status != 0:
        raise MarigoldError(failure_message(lines, python))


def _pip(folder: Path, python: str) -> list[str]:
    # Only wheels: building from source needs a compiler and runs downloaded code.
    return [
        python, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
        "--only-binary", ":all:", "--cache-dir", str(folder / "downloads"),
    ]  # fmt: skip


def _lock(folder: Path, requirements: Path, build: str, *, offline: bool) -> list[str]:
    """Write the list for this machine; the arguments that install it."""
    text = requirements.read_text("utf-8")
    tag = "" if offline else wheel_tag(build, nvidia_cards())
    if tag:
        # The build by name: of two indexes pip would take the one that seems newer.
        text = re.sub(r"^(torch==[\d.]+)$", rf"\1+{tag}", text, flags=re.MULTILINE)
    with atomic_path(folder / "lock.txt") as temporary:
        temporary.write_text(text, "utf-8")
    index = ["--extra-index-url", WHEELS_OF_TORCH + tag] if tag else []
    return ["-r", str(folder / "lock.txt"), *index]


def _mark(folder: Path, **facts: str) -> None:
    with atomic_path(folder / MARKER) as temporary:
        temporary.write_text(json.dumps({**(_marker(folder) or {}), **facts}), "utf-8")


def _marker(folder: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _digest(requirements: str | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(requirements).read_bytes()).hexdigest()
