# SPDX-License-Identifier: GPL-3.0-or-later
"""A training set rendered by a Blender in the background: started, followed, judged. No bpy.

The renderer is a program of its own (`renderer/` in the zip): it is run, never imported.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .background_task import EnvironmentProblem, Task
from .pip_output import FULL, READ_ONLY

HERE = Path(__file__).parents[1]
# The zip's; from a clone there is none and the clone's own program is run.
RENDERER = HERE / "renderer" if (HERE / "renderer").is_dir() else HERE.parent / "training"
PROGRAM = RENDERER / "render_dataset.py"
# The folder within the data set for the copy of the scene; the renderer knows it by this name.
COPY = "scene"
# The renderer ends within a tenth of a second; a Blender that hangs does not.
GRACE_SECONDS = 5.0

STEP = re.compile(
    r"sample (\d{1,9}) of (\d{1,9}), (\d+(?:\.\d+)?) s each, (\d+):([0-5]\d):([0-5]\d) left"
)
THERE = re.compile(r"(\d{1,9}) of (\d{1,9}) samples are there already\.")
FAILED = re.compile(r"(\d+) failed, the first: sample \d+: (.*)")
FINISHED = re.compile(r"(\d+) samples in ")


@dataclass(frozen=True)
class RenderProgress:
    """done of count samples; seconds a sample and until the end, 0.0 while nothing was rendered."""

    done: int
    count: int
    seconds_each: float = 0.0
    seconds_left: float = 0.0

    @property
    def fraction(self) -> float:
        return min(self.done / self.count, 1.0) if self.count else 0.0

    @property
    def time_left(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}"


def parse_progress(line: str) -> RenderProgress | None:
    """The renderer's line on its progress, such as `sample 3 of 100, 2.1 s each, 0:03:24 left`;
    None for any other line."""
    if match := STEP.fullmatch(line.strip()):
        hours, minutes, seconds = (int(match[k]) for k in (4, 5, 6))
        left = (hours * 60 + minutes) * 60 + seconds
        return RenderProgress(int(match[1]), int(match[2]), float(match[3]), left)
    if match := THERE.fullmatch(line.strip()):
        return RenderProgress(int(match[1]), int(match[2]))
    return None


def copy_path(folder: Path, name: str) -> Path:
    """Where the scene's copy goes. A data set that was begun keeps its scene's name, so that it
    can go on after the file was saved under another."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        name = Path(json.loads((folder / "settings.json").read_text("utf-8"))["scenes"][0]).name
    return folder / COPY / name


def render_command(
    blender: str, folder: Path, copy: Path, options: Mapping[str, object]
) -> list[str]:
    """blender: the program, or "" for the bpy of this Python. options: of the renderer, without
    their dashes; a list is several values, True a switch."""
    arguments = [str(folder), "--scenes", str(copy)]
    for name, value in options.items():
        if value is False:
            continue
        values = value if isinstance(value, (list, tuple)) else [] if value is True else [value]
        arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    if blender:
        background = ["-b", "--factory-startup", "--python-exit-code", "1"]
        return [blender, *background, "-P", str(PROGRAM), "--", *arguments]
    return [sys.executable, "-u", str(PROGRAM), *arguments]


def render(command: Sequence[str], folder: Path, copy: Path) -> Task:
    """Run it; the copy is deleted afterwards. `detail` is the last line on the progress, the
    result one sentence."""

    def work(task: Task) -> str:
        def heard(line: str) -> bool:
            progress = parse_progress(line)
            if progress is not None:
                task.tell(stage="render", detail=line, fraction=progress.fraction)
            return progress is None

        task.tell(stage="start", fraction=0.0)
        try:
            status, lines = task.command(command, heard)
        finally:
            discard(copy)
        if status:
            raise EnvironmentProblem(failure_sentence(lines, folder))
        return ending_sentence(lines, folder)

    return Task(work, GRACE_SECONDS)


def discard(copy: Path) -> None:
    with suppress(OSError):
        copy.unlink(missing_ok=True)
        copy.parent.rmdir()


def ending_sentence(lines: Sequence[str], folder: Path) -> str:
    text = "\n".join(lines)
    finished, failed = FINISHED.search(text), FAILED.search(text)
    count = finished[1] if finished else "All"
    if failed is None:
        return f"{count} samples are in {folder.name}; contact_sheet.png shows some."
    if FULL.search(failed[2]):
        return failure_sentence(lines, folder)
    return f"{count} samples are in {folder.name}; {failed[1]} more failed ({failed[2]})."


def failure_sentence(lines: Sequence[str], folder: Path) -> str:
    """Why the renderer ended, and what to do, from what it printed."""
    text = "\n".join(lines)
    if FULL.search(text):
        return "The disk is full; make room, then press the button again: it goes on."
    if READ_ONLY.search(text):
        return f"{folder} cannot be written to; choose another folder."
    if "was begun with other settings" in text:
        return (
            f"{folder.name} was begun with other settings; set them as they were, or choose an"
            " empty folder."
        )
    if "has other files in it" in text:
        return f"{folder.name} has other files in it; choose an empty folder."
    if "no camera position" in text:
        return (
            "No place for a camera was found from where there is something to see; leave free"
            " space around the objects, light the scene, and look whether they are shown in"
            " renders."
        )
    if "nothing in it that can be rendered" in text:
        return "The scene has nothing in it that can be rendered; add objects or unhide them."
    if match := FAILED.search(text):
        return f"The scene could not be rendered ({match[2][:200].rstrip('.')})."
    last = lines[-1] if lines else "no message"
    return f"The renderer ended unexpectedly ({last[:200].rstrip('.')}); press the button again."
