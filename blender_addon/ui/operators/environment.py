# SPDX-License-Identifier: GPL-3.0-or-later
"""The preferences' buttons: test, make, remove, download, unload. Each only on a click."""

from __future__ import annotations

from typing import Any

import bpy

from ...backend.engine_parts import BUNDLED, MarigoldError
from ...backend.engine_session import (
    chosen_python,
    environment_folder,
    model,
    preferences,
    running_engine,
    stop_engine,
    submit,
)
from ...backend.environment import environment_state, make_environment, remove_environment
from ...backend.python_check import PythonReport, test_python
from ..poll_messages import refuse
from .background import BackgroundOperator, Work, run, setup


class SetupOperator(BackgroundOperator):
    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if setup.running or run.running:
            return refuse(cls, "Wait until the present work is finished, or cancel it")
        return True


def _to_download() -> list[str]:
    """The checkpoints of the preferences that are not in the add-on."""
    chosen = preferences()
    fields = ("checkpoint", "normals_checkpoint", "appearance_checkpoint", "lighting_checkpoint")
    names = (getattr(chosen, field).strip() for field in fields)
    return [name for name in names if name not in ("", *BUNDLED)]


def _may_download(cls: Any) -> bool:
    if bpy.app.online_access:
        return True
    return refuse(cls, "Blender is offline: allow online access in Preferences, System")


class MARIGOLD_OT_test_python(SetupOperator, bpy.types.Operator):
    """Start this Python once, and show its versions and its device"""

    bl_idname = "marigold.test_python"
    bl_label = "Test"

    def work(self, context: bpy.types.Context) -> Work:
        task = test_python(chosen_python())
        yield task
        return _summary(task.result)


class MARIGOLD_OT_make_environment(SetupOperator, bpy.types.Operator):
    """Make an environment for the engine in Blender's folder for this add-on. Downloads torch and
    diffusers, up to some gigabytes; an interrupted download continues where it stopped"""

    bl_idname = "marigold.make_environment"
    bl_label = "Make"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if environment_state(environment_folder()) == "ready":
            return refuse(cls, "It is made already; remove it to make it again")
        return bool(preferences().wheel_folder) or _may_download(cls)

    def work(self, context: bpy.types.Context) -> Work:
        chosen = preferences()
        stop_engine()
        task = make_environment(
            environment_folder(),
            build=None if chosen.build == "AUTO" else chosen.build.lower(),
            proxy=chosen.proxy,
            wheel_folder=bpy.path.abspath(chosen.wheel_folder) if chosen.wheel_folder else "",
        )
        yield task
        return _summary(task.result)


class MARIGOLD_OT_remove_environment(SetupOperator, bpy.types.Operator):
    """Delete the environment that the add-on made"""

    bl_idname = "marigold.remove_environment"
    bl_label = "Remove"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if environment_state(environment_folder()) in ("absent", "foreign"):
            return refuse(cls, "There is no environment to remove")
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    def work(self, context: bpy.types.Context) -> Work:
        stop_engine()
        remove_environment(environment_folder())
        return "The environment is removed."
        yield  # a generator, as the others: there is nothing to wait for


class MARIGOLD_OT_download_checkpoint(SetupOperator, bpy.types.Operator):
    """Download the checkpoints named above from Hugging Face"""

    bl_idname = "marigold.download_checkpoint"
    bl_label = "Download Checkpoint"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if not _to_download():
            return refuse(cls, "This checkpoint is in the add-on already")
        return _may_download(cls)

    def steps(self) -> int:
        return len(_to_download())

    def work(self, context: bpy.types.Context) -> Work:
        folders = []
        for checkpoint in _to_download():
            chosen = model(checkpoint)
            names = ("checkpoint", "variant", "cache_dir")
            job = submit("download", {name: chosen[name] for name in names if name in chosen})
            yield job
            folders.append(job.result.get("folder", ""))
        return f"The checkpoint is in {', '.join(folders)}"


class MARIGOLD_OT_unload(bpy.types.Operator):
    """End the engine's process, which frees all its memory, the GPU's too"""

    bl_idname = "marigold.unload"
    bl_label = "Unload"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        engine = running_engine()
        if engine is None or engine.state == "stopped":
            return refuse(cls, "The engine is not running")
        if run.running:
            return refuse(cls, "Wait for the present run, or cancel it with ESC")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        stop_engine()
        return {"FINISHED"}


def _summary(report: PythonReport) -> str:
    if not report.ok:
        raise MarigoldError(report.summary)
    return report.summary


CLASSES = (
    MARIGOLD_OT_test_python,
    MARIGOLD_OT_make_environment,
    MARIGOLD_OT_remove_environment,
    MARIGOLD_OT_download_checkpoint,
    MARIGOLD_OT_unload,
)
