# SPDX-License-Identifier: GPL-3.0-or-later
"""The preferences' buttons: test, make, remove, download, unload. Each only on a click."""

from __future__ import annotations

from typing import Any

import bpy

from ...backend.background_task import EnvironmentProblem
from ...backend.engine_parts import MarigoldError
from ...backend.engine_session import (
    activity,
    chosen_python,
    environment_folder,
    model,
    preferences,
    running_engine,
    stop_engine,
    submit,
)
from ...backend.environment import environment_state, make_environment, remove_environment
from ...backend.python_check import test_python
from ..poll_messages import refuse
from .followed_task import FollowedTask

STAGES = {
    "venv": "Making the environment",
    "pip": "Renewing pip",
    "download": "Downloading",
    "install": "Installing",
    "test": "Testing",
}


class Setup(FollowedTask):
    """A task of the preferences page."""

    def in_words(self, task: Any) -> str:
        stage = bpy.app.translations.pgettext_iface(STAGES.get(task.stage, task.stage))
        return f"{stage} {getattr(task, 'detail', '')}".rstrip()

    def ending(self, task: Any) -> str:
        return task.sentence

    def redraw(self) -> None:
        for window in bpy.context.window_manager.windows:
            for area in window.screen.areas:
                if area.type == "PREFERENCES":
                    area.tag_redraw()


setup = Setup()


class _Report:
    """A Task of `environment`, with the sentence that its report ends in."""

    def __init__(self, task: Any):
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    @property
    def state(self) -> str:
        report = self._task.result
        if self._task.state == "done" and report is not None and not report.ok:
            return "failed"
        return self._task.state

    @property
    def error(self) -> str:
        report = self._task.result
        return self._task.error or (report.sentence if report is not None else "")

    @property
    def sentence(self) -> str:
        return self._task.result.sentence if self._task.result is not None else ""


class _Download:
    """A job of the worker, seen as a task."""

    def __init__(self, job: Any):
        self._job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    @property
    def sentence(self) -> str:
        return f"The checkpoint is in {self._job.result.get('folder', '')}"

    def poll(self) -> None:
        engine = running_engine()
        if engine is not None:
            engine.poll()

    def cancel(self) -> None:
        engine = running_engine()
        if engine is not None:
            engine.cancel(self._job)


class SetupOperator:
    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if setup.running or activity.running:
            return refuse(cls, "Wait for what is going on, or cancel it")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            self.begin()
        except (MarigoldError, EnvironmentProblem) as error:
            setup.words, setup.failed = str(error), True
        if setup.failed:
            self.report({"ERROR"}, setup.words)
            return {"CANCELLED"}
        if not setup.running:
            self.report({"INFO"}, setup.words)
        return {"FINISHED"}

    def begin(self) -> None:
        raise NotImplementedError  # Blender's own metaclass leaves no room for ABC


def _may_download(cls: Any) -> bool:
    if bpy.app.online_access:
        return True
    return refuse(cls, "Blender is offline: allow online access in Preferences, System")


class MARIGOLD_OT_test_python(SetupOperator, bpy.types.Operator):
    """Start this Python once, and say which versions and which device it has"""

    bl_idname = "marigold.test_python"
    bl_label = "Test"

    def begin(self) -> None:
        setup.begin(_Report(test_python(chosen_python())), "Testing")


class MARIGOLD_OT_make_environment(SetupOperator, bpy.types.Operator):
    """Make an environment for the engine in Blender's folder for this add-on. Downloads torch and
    diffusers, up to some gigabytes; a broken download goes on where it stopped"""

    bl_idname = "marigold.make_environment"
    bl_label = "Make"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if environment_state(environment_folder()) == "ready":
            return refuse(cls, "It is made already; remove it to make it anew")
        return bool(preferences().wheel_folder) or _may_download(cls)

    def begin(self) -> None:
        chosen = preferences()
        stop_engine()
        task = make_environment(
            environment_folder(),
            build=None if chosen.build == "AUTO" else chosen.build.lower(),
            proxy=chosen.proxy,
            wheel_folder=bpy.path.abspath(chosen.wheel_folder) if chosen.wheel_folder else "",
        )
        setup.begin(_Report(task), "Making the environment")


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

    def begin(self) -> None:
        stop_engine()
        remove_environment(environment_folder())
        setup.words, setup.failed, setup.log = "The environment is removed.", False, []


class MARIGOLD_OT_download_checkpoint(SetupOperator, bpy.types.Operator):
    """Fetch the checkpoint named above from Hugging Face: 2.6 to 5.2 GB for the published ones"""

    bl_idname = "marigold.download_checkpoint"
    bl_label = "Download Checkpoint"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if preferences().checkpoint.strip() in ("", "nano"):
            return refuse(cls, "The checkpoint nano is in the add-on already")
        return _may_download(cls)

    def begin(self) -> None:
        chosen = model()
        names = ("checkpoint", "variant", "cache_dir")
        params = {name: chosen[name] for name in names if name in chosen}
        setup.begin(_Download(submit("download", params)), "Downloading the checkpoint")


class MARIGOLD_OT_unload(bpy.types.Operator):
    """End the engine's process: all its memory, the GPU's too, is free at once"""

    bl_idname = "marigold.unload"
    bl_label = "Unload"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        engine = running_engine()
        if engine is None or engine.state == "stopped":
            return refuse(cls, "The engine is not running")
        if activity.running:
            return refuse(cls, "Wait for the run that is going on, or cancel it with ESC")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        stop_engine()
        return {"FINISHED"}


class MARIGOLD_OT_cancel_setup(bpy.types.Operator):
    """Stop it; what is downloaded already is kept for the next time"""

    bl_idname = "marigold.cancel_setup"
    bl_label = "Cancel"

    def execute(self, context: bpy.types.Context) -> set[str]:
        setup.cancel()
        return {"FINISHED"}


CLASSES = (
    MARIGOLD_OT_test_python,
    MARIGOLD_OT_make_environment,
    MARIGOLD_OT_remove_environment,
    MARIGOLD_OT_download_checkpoint,
    MARIGOLD_OT_unload,
    MARIGOLD_OT_cancel_setup,
)
