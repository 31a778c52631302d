# SPDX-License-Identifier: GPL-3.0-or-later
"""A training set of pictures with true depth, rendered from the open scene in the background."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from ...backend.background_task import Task
from ...backend.dataset_render import (
    GRACE_SECONDS,
    PROGRAM,
    copy_path,
    discard,
    parse_progress,
    render,
    render_command,
)
from ...backend.engine_parts import MarigoldError
from ..poll_messages import refuse
from .engine_run import redraw
from .followed_task import FollowedTask

SHOWS = {"MESH", "CURVE", "SURFACE", "FONT", "META", "VOLUME"}
FULL_BYTES = 1_000_000


class DatasetSettings:
    """Mixed into the operator and into the scene's settings; named as the renderer's options."""

    directory: bpy.props.StringProperty(
        name="Folder",
        description="Of the training set: an empty one, or one whose set is to go on",
        subtype="DIR_PATH",
    )
    count: bpy.props.IntProperty(
        name="Samples",
        description="In the finished set, those that are there already included",
        default=100,
        min=1,
        max=1_000_000,
    )
    size: bpy.props.IntProperty(
        name="Size",
        description="Longer side of the pictures",
        default=256,
        min=16,
        max=8192,
        subtype="PIXEL",
    )
    samples: bpy.props.IntProperty(
        name="Light Paths",
        description="Of a pixel, before denoising; the depth needs none",
        default=4,
        min=1,
        max=4096,
    )
    focal_shortest: bpy.props.FloatProperty(
        name="Shortest Lens",
        description="Millimetres, for a sensor whose longer side is 36 mm",
        default=16.0,
        min=1.0,
        max=1000.0,
    )
    focal_longest: bpy.props.FloatProperty(
        name="Longest Lens",
        description="Millimetres, for a sensor whose longer side is 36 mm",
        default=55.0,
        min=1.0,
        max=1000.0,
    )
    light_jitter: bpy.props.FloatProperty(
        name="Light Jitter",
        description="How much the lights' strength varies, in stops",
        default=0.5,
        min=0.0,
        max=4.0,
    )
    exposure_jitter: bpy.props.FloatProperty(
        name="Exposure Jitter",
        description="How much the exposure varies around the metered one, in stops",
        default=0.4,
        min=0.0,
        max=4.0,
    )
    random_frames: bpy.props.BoolProperty(
        name="Any Frame",
        description="Take a frame of the scene's range at random for each sample, instead of the"
        " current one",
        default=False,
    )
    seed: bpy.props.IntProperty(
        name="Seed", description="The same seed gives the same samples", default=0, min=0
    )
    processes: bpy.props.IntProperty(
        name="Processes",
        description="Samples rendered at once; each process holds the scene in memory",
        default=1,
        min=1,
        max=64,
    )


NAMES = tuple(DatasetSettings.__annotations__)


class MarigoldDataset(DatasetSettings, bpy.types.PropertyGroup):
    """The sidebar's, kept with the scene."""


@dataclass
class Rendering(FollowedTask):
    """The render that is going on, or how the last one ended. It needs nothing of the open file:
    another may be loaded meanwhile."""

    state: str = ""
    last: Task | None = None

    def start(self, task: Task) -> None:
        self.state, self.last = "", task
        self.begin(task, bpy.app.translations.pgettext_iface("Starting Blender"))

    def advance(self) -> float | None:
        wait = super().advance()
        if self.last is not None and self.last.finished:
            self.state = self.last.state
            if self.state == "cancelled":
                self.failed = False
                self.words = bpy.app.translations.pgettext_iface(
                    "Cancelled; the complete samples stay, and the button goes on with them"
                )
        return wait

    def in_words(self, task: Any) -> str:
        progress = parse_progress(task.detail)
        translated = bpy.app.translations.pgettext_iface
        if progress is None:
            return translated("Starting Blender")
        if not progress.seconds_each:
            words = translated("{done} of {count} samples")
        else:
            words = translated("{done} of {count} samples, {time} left")
        return words.format(done=progress.done, count=progress.count, time=progress.time_left)

    def ending(self, task: Any) -> str:
        return task.result

    def redraw(self) -> None:
        redraw(bpy.context)

    def leave(self) -> None:
        """Cancel, and wait until nothing of it writes any more."""
        self.cancel()
        self.advance()
        if self.last is not None and self.last.state == "cancelled":
            self.last.join(2 * GRACE_SECONDS)


rendering = Rendering()


class MARIGOLD_OT_render_dataset(DatasetSettings, bpy.types.Operator):
    """Render pictures of this scene with their true depth, from cameras all over its free space,
    to fine-tune a checkpoint with. A Blender in the background works on a copy of the scene"""

    bl_idname = "marigold.render_dataset"
    bl_label = "Render Training Set"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if rendering.running:
            return refuse(cls, "A training set is being rendered; wait for it or cancel it")
        if not any(thing.type in SHOWS for thing in context.scene.objects):
            return refuse(cls, "The scene has nothing in it that can be rendered")
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self.directory:
            return self.execute(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.leave()  # a cancelled one may not have ended yet
        try:
            folder = _folder(self.directory)
            blender = _blender()
            copy = _save_copy(folder)
            command = render_command(blender, folder, copy, self._options())
        except MarigoldError as error:
            rendering.words, rendering.failed = str(error), True
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        rendering.start(render(command, folder, copy))
        if rendering.running:  # in a window: a timer follows it
            return {"FINISHED"}
        level = {"done": "INFO", "cancelled": "WARNING"}.get(rendering.state, "ERROR")
        self.report({level}, rendering.words)
        return {"FINISHED"} if rendering.state == "done" else {"CANCELLED"}

    def _options(self) -> dict[str, object]:
        lenses = sorted((self.focal_shortest, self.focal_longest))
        direct = ("count", "size", "samples", "light_jitter", "exposure_jitter", "random_frames",
                  "seed", "processes")  # fmt: skip
        # A core stays free, so that this Blender stays usable.
        threads = max(1, ((os.cpu_count() or 1) - 1) // self.processes)
        values = {name: getattr(self, name) for name in direct}
        # Blender's floats have 32 bits: 0.4 would arrive as 0.4000000059604645.
        values = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        lenses = [round(lens, 4) for lens in lenses]
        return {**values, "focal_length": lenses, "threads": threads}


class MARIGOLD_OT_cancel_dataset(bpy.types.Operator):
    """Stop rendering at once; the samples that are complete stay"""

    bl_idname = "marigold.cancel_dataset"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not rendering.running:
            return refuse(cls, "No training set is being rendered")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.cancel()
        rendering.advance()
        return {"FINISHED"}


def copy_dataset_settings(source: Any, target: Any) -> None:
    for name in NAMES:
        setattr(target, name, getattr(source, name))


def _folder(directory: str) -> Path:
    if directory.startswith("//") and not bpy.data.filepath:
        raise MarigoldError(
            "The folder is relative to a file that is not saved yet; save it, or choose another."
        )
    folder = Path(bpy.path.abspath(directory))
    if not directory or not folder.is_absolute():
        raise MarigoldError("Choose the folder that the training set is to be rendered into.")
    return folder


def _blender() -> str:
    """The program; "" for the module, whose Python runs the renderer. Raises MarigoldError."""
    program = bpy.app.binary_path
    if program and not Path(program).is_file():
        raise MarigoldError(
            f"Blender's own program is no longer at {program}; start Blender anew, then press the"
            " button again."
        )
    if not PROGRAM.is_file():
        raise MarigoldError("The renderer is missing from the add-on; install its zip again.")
    return program


def _save_copy(folder: Path) -> Path:
    """The scene as it is now, unsaved changes included; the open file stays as it is."""
    name = Path(bpy.data.filepath).name or "untitled.blend"
    copy = copy_path(folder, name)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        bpy.ops.wm.save_as_mainfile(filepath=str(copy), copy=True, relative_remap=True)
    except OSError as error:
        why = error.strerror
    except RuntimeError as error:
        why = _reason(str(error), copy.parent)
    else:
        return copy
    discard(copy)
    raise MarigoldError(
        f"A copy of the scene cannot be written to {copy.parent} ({why}); make room there, or"
        " choose another folder."
    )


def _reason(report: str, folder: Path) -> str:
    """Of a full disk Blender says "No such file or directory": the file that it could not write."""
    if shutil.disk_usage(folder).free < FULL_BYTES:
        return "the disk is full"
    return " ".join(report.replace("Error:", "").split()).rstrip(".") or "it could not be saved"


CLASSES = (MarigoldDataset, MARIGOLD_OT_render_dataset, MARIGOLD_OT_cancel_dataset)
