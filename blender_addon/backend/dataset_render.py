# SPDX-License-Identifier: GPL-3.0-or-later
"""A training set rendered by a Blender in the background. No bpy.

The renderer is a separate program (`renderer/` in the zip): it is run, never imported.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from marigold_core.errors import MarigoldError

from .background_task import ThreadTask
from .pip_output import FULL, READ_ONLY

HERE = Path(__file__).parents[1]
# In the zip; in a clone the program of `training/` is run.
RENDERER = HERE / "renderer" if (HERE / "renderer").is_dir() else HERE.parent / "training"
PROGRAM = RENDERER / "render_dataset.py"
# The folder within the data set for the copy of the scene; the renderer expects this name.
COPY = "scene"
# The renderer ends within a tenth of a second; a Blender that hangs does not.
GRACE_SECONDS = 5.0

STEP = re.compile(r"sample (\d{1,9}) of (\d{1,9}), \d+(\.\d+)? s each, \d+:\d\d:\d\d left$")
THERE = re.compile(r"(\d{1,9}) of (\d{1,9}) samples are there already\.")
FAILED = re.compile(r"(\d+) failed, the first: sample \d+: (.*)")
FINISHED = re.compile(r"(\d+) samples in ")


def parse_progress(line: str) -> tuple[int, int] | None:
    """(done, count) of the renderer's line on its progress, such as
    `sample 3 of 100, 2.1 s each, 0:03:24 left`; None for any other line."""
    match = STEP.match(line.strip()) or THERE.fullmatch(line.strip())
    return (int(match[1]), int(match[2])) if match else None


def copy_path(folder: Path, name: str) -> Path:
    """The path of the scene's copy. A data set that was started keeps its scene's name, so that it
    can be continued after the file was saved under another."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        name = Path(json.loads((folder / "settings.json").read_text("utf-8"))["scenes"][0]).name
    return folder / COPY / name


def render_command(
    blender: str, folder: Path, copy: Path, options: Mapping[str, object]
) -> list[str]:
    """The command that starts the renderer.

    blender: the program, or "" for the bpy of this Python. options: of the renderer, without
    their dashes; a list is several values, True a switch.
    """
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


def render(command: Sequence[str], folder: Path, copy: Path) -> ThreadTask:
    """A task that runs the renderer and deletes the copy of the scene afterwards; step and total
    count samples, the result is one line for the user."""

    def work(task: ThreadTask) -> str:
        def on_line(line: str) -> bool:
            progress = parse_progress(line)
            if progress is not None:
                task.update(stage="render", step=progress[0], total=progress[1])
            return progress is None

        task.update(stage="blender")
        try:
            status, lines = task.command(command, on_line)
        finally:
            discard(copy)
        if status:
            raise MarigoldError(failure_message(lines, folder))
        return summary(lines, folder)

    return ThreadTask(work, GRACE_SECONDS)


def discard(copy: Path) -> None:
    with suppress(OSError):
        copy.unlink(missing_ok=True)
        copy.parent.rmdir()


def summary(lines: Sequence[str], folder: Path) -> str:
    text = "\n".join(lines)
    finished, failed = FINISHED.search(text), FAILED.search(text)
    count = finished[1] if finished else "All"
    if failed is None:
        return f"{count} samples are in {folder.name}; contact_sheet.png shows some."
    if FULL.search(failed[2]):
        return failure_message(lines, folder)
    return f"{count} samples are in {folder.name}; {failed[1]} more failed ({failed[2]})."


def failure_message(lines: Sequence[str], folder: Path) -> str:
    """Why the renderer ended, and what to do, from what it printed."""
    text = "\n".join(lines)
    if FULL.search(text):
        return "The disk is full; make room, then press the button again: it continues."
    if READ_ONLY.search(text):
        return f"{folder} cannot be written to; choose another folder."
    if "was begun with other settings" in text:
        return (
            f"{folder.name} was started with other settings; set them as they were, or choose an"
            " empty folder."
        )
    if "has other files in it" in text:
        return f"{folder.name} has other files in it; choose an empty folder."
    if "no camera position" in text:
        return (
            "No place for a camera was found from which something can be seen; leave free space"
            " around the objects, light the scene, and check that they are shown in renders."
        )
    if "nothing in it that can be rendered" in text:
        return "The scene has nothing in it that can be rendered; add objects or unhide them."
    if match := FAILED.search(text):
        return f"The scene could not be rendered ({match[2][:200].rstrip('.')})."
    last = lines[-1] if lines else "no message"
    return f"The renderer ended unexpectedly ({last[:200].rstrip('.')}); press the button again."
