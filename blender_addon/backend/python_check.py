# SPDX-License-Identifier: GPL-3.0-or-later
"""Can a Python run the engine? It is run once, and never written to. No bpy."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from marigold_core.errors import MarigoldError

from .background_task import ThreadTask
from .probe_python import MARK

PROBE = Path(__file__).with_name("probe_python.py")
# The lower ends of the engine's dependencies; OpenEXR is for files that the worker does not write.
LOWEST = {
    "torch": "2.6",
    "diffusers": "0.33.1",
    "einops": "0.8.0",
    "transformers": "4.48.3",
    "huggingface_hub": "0.27.1",
    "safetensors": "0.4.5",
    "numpy": "1.26.4",
    "PIL": "11.3",
    "tqdm": "4.66.5",
}
LOWEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class PythonReport:
    """What a Python has. ok: the engine runs in it. versions: of what could be imported.

    problems: package -> what is wrong with it. device: "cuda" (ROCm is called so, too), "mps",
    "cpu", or "" without torch. summary: all of it in one line, for the user.
    """

    python: str
    version: str
    versions: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_name: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def missing(self) -> list[str]:
        return [package(name) for name, problem in self.problems.items() if problem == "is missing"]

    @property
    def summary(self) -> str:
        if self.ok:
            device = f"{self.device} ({self.device_name})" if self.device_name else self.device
            return (
                f"Python {self.version}, torch {self.versions.get('torch')}, diffusers "
                f"{self.versions.get('diffusers')}: ready, on {device}."
            )
        if self.missing and len(self.missing) == len(self.problems):
            facts = f"lacks {', '.join(self.missing)}"
        else:
            each = (f"{package(name)} {problem}" for name, problem in self.problems.items())
            facts = f"cannot run the engine: {'; '.join(each)}"
        return f"This Python ({self.version}) {facts}; fix that, or let the add-on make one."


def test_python(python: str | os.PathLike[str]) -> ThreadTask:
    """A task whose result is a PythonReport. Importing torch takes a while."""
    return ThreadTask(lambda task: check_python(task, python))


def check_python(task: ThreadTask, python: str | os.PathLike[str]) -> PythonReport:
    """The same within another task. Raises MarigoldError for a program that is no Python."""
    task.update(stage="test", detail="")
    name = os.fspath(python)
    if not Path(name).is_file():
        raise MarigoldError(f"There is no Python at {name}; choose its python executable.")
    answers: list[str] = []

    def on_line(line: str) -> bool:
        if line.startswith(MARK):
            answers.append(line.removeprefix(MARK))
        return not line.startswith(MARK)

    status, lines = task.command([name, "-I", "-B", str(PROBE), *LOWEST], on_line)
    if not answers:
        last = lines[-1] if lines else f"exit status {status}"
        raise MarigoldError(f"{name} did not answer as a Python does ({last[:200]}).")
    found = json.loads(answers[-1])
    problems = dict(found["problems"])
    for module, version in found["versions"].items():
        if version != "?" and numbers(version) < numbers(LOWEST[module]):
            problems[module] = f"is {version}, and {LOWEST[module]} or newer is needed"
    if numbers(found["python"]) < LOWEST_PYTHON:
        problems = {"Python": f"is {found['python']}, and 3.10 or newer is needed"}
    report = PythonReport(
        name, found["python"], found["versions"], problems, found["device"], found["device_name"]
    )
    task.log(report.summary)
    return report


def package(module: str) -> str:
    """What to install for a module."""
    return "pillow" if module == "PIL" else module


def numbers(version: str) -> tuple[int, ...]:
    """ "2.13.0+cpu" -> (2, 13, 0): enough to compare releases."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
