# SPDX-License-Identifier: GPL-3.0-or-later
"""A training set of pictures with true depth, rendered from the open scene in the background.

It works on a copy of the scene: another file may be opened meanwhile.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import bpy

from ...backend.background_task import ThreadTask
from ...backend.dataset_render import (
    GRACE_SECONDS,
    PROGRAM,
    copy_path,
    discard,
    render,
    render_command,
)
from ...backend.engine_parts import MarigoldError
from ..poll_messages import refuse
from .background import BackgroundOperator, Work, rendering

SHOWS = {"MESH", "CURVE", "SURFACE", "FONT", "META", "VOLUME"}
FULL_BYTES = 1_000_000


class DatasetSettings:
    """Mixed into the operator and into the scene's settings; named as the renderer's options."""

    directory: bpy.props.StringProperty(
        name="Folder",
        description="Of the training set: an empty one, or one whose set is to be continued",
        subtype="DIR_PATH",
    )
    count: bpy.props.IntProperty(
        name="Samples",
        description="In the finished set, including those that are there already",
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
        description="Per pixel, before denoising; the depth needs none",
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
    passes: bpy.props.BoolProperty(
        name="Intrinsic Images",
        description="Write the albedo, roughness, metallicity, shading and residual of each sample"
        " too, to train a checkpoint for intrinsic images",
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


_task: ThreadTask | None = None


def leave() -> None:
    """Cancel the rendering, and wait until it has stopped writing."""
    rendering.cancel()
    _wait_for_cancelled()


def _wait_for_cancelled() -> None:
    if _task is not None and _task.state == "cancelled":
        _task.join(2 * GRACE_SECONDS)


class MARIGOLD_OT_render_dataset(BackgroundOperator, DatasetSettings, bpy.types.Operator):
    """Render pictures of this scene with their true depth, from cameras all over its free space,
    to fine-tune a checkpoint with. A Blender in the background works on a copy of the scene"""

    bl_idname = "marigold.render_dataset"
    bl_label = "Render Training Set"
    activity = rendering

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

    def work(self, context: bpy.types.Context) -> Work:
        global _task
        _wait_for_cancelled()  # it may still be writing
        folder = _folder(self.directory)
        blender = _blender()
        copy = _save_copy(folder)
        _task = render(render_command(blender, folder, copy, self._options()), folder, copy)
        yield _task
        return _task.result

    def _options(self) -> dict[str, object]:
        lenses = sorted((self.focal_shortest, self.focal_longest))
        direct = ("count", "size", "samples", "light_jitter", "exposure_jitter", "random_frames",
                  "passes", "seed", "processes")  # fmt: skip
        # One core is left free, so that this Blender stays usable.
        threads = max(1, ((os.cpu_count() or 1) - 1) // self.processes)
        values = {name: getattr(self, name) for name in direct}
        # Blender's floats have 32 bits: 0.4 would arrive as 0.4000000059604645.
        values = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        lenses = [round(lens, 4) for lens in lenses]
        return {**values, "focal_length": lenses, "threads": threads}


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
        raise MarigoldError("Choose the folder for the training set.")
    return folder


def _blender() -> str:
    """The program; "" where bpy is a module, whose Python runs the renderer. Raises
    MarigoldError."""
    program = bpy.app.binary_path
    if program and not Path(program).is_file():
        raise MarigoldError(
            f"Blender's own program is no longer at {program}; start Blender again, then press the"
            " button again."
        )
    if not PROGRAM.is_file():
        raise MarigoldError("The renderer is missing from the add-on; install its zip again.")
    return program


def _save_copy(folder: Path) -> Path:
    """The scene as it is now, including unsaved changes; the open file is not changed."""
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
    """The reason in Blender's report, which for a full disk is "No such file or directory"."""
    if shutil.disk_usage(folder).free < FULL_BYTES:
        return "the disk is full"
    return " ".join(report.replace("Error:", "").split()).rstrip(".") or "it could not be saved"


CLASSES = (MarigoldDataset, MARIGOLD_OT_render_dataset)
