# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in the background: what is in progress, and the operators that start it.

An operator writes its work once, as a generator that yields the tasks it has to wait for. In a
window a timer polls the task and resumes the generator when it is finished, so that Blender stays
usable; without a window the same generator runs to its end. Only the work of an engine run ends
with its file, as it builds an object there: it is a modal operator with ESC and one undo step.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import bpy

from ...backend.background_task import Task
from ...backend.engine_parts import MarigoldError
from ..poll_messages import refuse

Work = Generator[Task, None, Any]
TIMER_SECONDS = 0.05

STAGES = {
    "": "Waiting",
    "start": "Starting the engine",
    "load": "Loading the checkpoint",
    "encode": "Reading the picture",
    "denoise": "Estimating depth",
    "decode": "Decoding",
    "merge": "Merging the ensemble",
    "venv": "Making the environment",
    "pip": "Updating pip",
    "download": "Downloading",
    "install": "Installing",
    "test": "Testing",
    "blender": "Starting Blender",
    "render": "Rendering samples",
}


class Activity:
    """The work in progress, or how the last one ended.

    area: the kind of area that shows it. state: "", "running", "done", "failed" or "cancelled".
    message: what the last work returned, or its error message. lines: the log of the task.
    """

    def __init__(self, area: str) -> None:
        self.area = area
        self.state = self.message = ""
        self.task: Task | None = None
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.done, self.total = 0, 1
        self._work: Work | None = None

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def error(self) -> str:
        return self.message if self.state == "failed" else ""

    @property
    def fraction(self) -> float:
        of_task = (self.task.fraction if self.task is not None else None) or 0.0
        return min((self.done + of_task) / max(self.total, 1), 1.0)

    @property
    def words(self) -> str:
        """For a progress bar: the stage, its steps or its file, the time left."""
        task = self.task
        if task is None:
            return ""
        words = bpy.app.translations.pgettext_iface(STAGES.get(task.stage, task.stage))
        if task.detail:
            words += f" {task.detail}"
        elif task.total:
            words += f" {task.step:.0f}/{task.total:.0f}"
        if self.total > 1:
            words = f"{self.done + 1}/{self.total}  {words}"
        if task.seconds_left is not None:
            minutes, seconds = divmod(round(task.seconds_left), 60)
            words += f", {minutes}:{seconds:02d}"
        return words

    def begin(self, work: Work, total: int = 1) -> None:
        """Run the work to its first task. total: the number of tasks of the same length."""
        self.state, self.message, self.lines, self.warnings = "running", "", [], []
        self.done, self.total, self._work = 0, total, work
        self._resume()

    def advance(self) -> bool:
        """Poll the task, and resume the work when it is finished; True if something changed."""
        task = self.task
        if not self.running or task is None:
            return False
        changed = task.poll()
        self.lines = list(task.lines)
        if not task.finished:
            return changed
        self.warnings += task.warnings
        if task.state == "cancelled":
            self.cancel()
        else:
            self.done += 1
            self._resume(MarigoldError(task.error) if task.state == "failed" else None)
        return True

    def wait(self) -> None:
        """Advance to the end. Ctrl-C cancels."""
        try:
            while self.running:
                if not self.advance():
                    time.sleep(0.01)
        except KeyboardInterrupt:
            self.cancel()

    def cancel(self) -> None:
        if self.running and self.task is not None:
            self.task.cancel()
        if self._work is not None:
            self._work.close()
        if self.running:
            self._end("cancelled", "")

    def tick(self) -> float | None:
        """For `bpy.app.timers`: the seconds until the next call, None at the end."""
        if self.advance():
            redraw(self.area)
        return 4 * TIMER_SECONDS if self.running else None

    def _resume(self, error: MarigoldError | None = None) -> None:
        assert self._work is not None
        try:
            self.task = next(self._work) if error is None else self._work.throw(error)
        except StopIteration as end:
            self._end("done", end.value or "")
        except MarigoldError as failure:
            self._end("failed", str(failure))
        except BaseException:
            self._end("failed", "An unexpected error occurred; see the system console.")
            raise

    def _end(self, state: str, message: str) -> None:
        self.state, self.message, self.task, self._work = state, message, None, None


# One each, as they may run side by side: of the engine, of the preferences page, of the renderer.
run, setup, rendering = Activity("VIEW_3D"), Activity("PREFERENCES"), Activity("VIEW_3D")


class BackgroundOperator:
    """Mixed into operators, which have `work`."""

    activity = setup
    ends_with_file = False

    def work(self, context: bpy.types.Context) -> Work:
        """Yields tasks and continues when each is done; returns a message. Raises MarigoldError.

        A failed task raises at its `yield`. Where the work outlives its file it outlives the
        operator too, which it must not use after the first `yield`.
        """
        raise NotImplementedError  # Blender's own metaclass leaves no room for ABC

    def steps(self) -> int:
        """The number of tasks, for the progress bar."""
        return 1

    def execute(self, context: bpy.types.Context) -> set[str]:
        self.activity.begin(self.work(context), self.steps())
        # The file browser ends in `execute` as well; a script's call waits for the result.
        waits = self.ends_with_file and not (self.options.is_invoke and not self.options.is_repeat)
        return self._wait_or_return(context, waits)

    def start(self, context: bpy.types.Context) -> set[str]:
        """For `invoke`: returns before the work is finished, where there is a window."""
        self.activity.begin(self.work(context), self.steps())
        return self._wait_or_return(context, waits=False)

    def _wait_or_return(self, context: bpy.types.Context, waits: bool) -> set[str]:
        if self.activity.running and (waits or bpy.app.background or context.window is None):
            self.activity.wait()
        if not self.activity.running:
            return self._report()
        if not self.ends_with_file:
            bpy.app.timers.register(self.activity.tick, persistent=True)
            return {"FINISHED"}
        self._timer = context.window_manager.event_timer_add(TIMER_SECONDS, window=context.window)
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set(
            bpy.app.translations.pgettext_iface("Marigold is working    ESC: cancel")
        )
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC" and event.value == "PRESS":
            self.activity.cancel()
        if not self.activity.running:  # by ESC, the button, or the file or the add-on went away
            return self._leave(context)
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        try:
            if self.activity.advance():
                redraw(self.activity.area)
        except BaseException:
            self._leave(context)
            raise
        return {"PASS_THROUGH"} if self.activity.running else self._leave(context)

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender itself ends the operator: another file is loaded or the window closes."""
        self.activity.cancel()
        self._leave(context)

    def _report(self) -> set[str]:
        activity = self.activity
        for warning in activity.warnings:
            self.report({"WARNING"}, warning)
        if activity.state == "cancelled":
            self.report({"INFO"}, activity.message or "Cancelled")
        elif activity.message:
            self.report({"ERROR" if activity.state == "failed" else "INFO"}, activity.message)
        return {"FINISHED"} if activity.state == "done" else {"CANCELLED"}

    def _leave(self, context: bpy.types.Context) -> set[str]:
        if getattr(self, "_timer", None) is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
        if context.workspace is not None:
            context.workspace.status_text_set(None)
        redraw(self.activity.area)
        return self._report()


class EngineRun(BackgroundOperator):
    """An operator that makes objects from what the engine estimates."""

    activity = run
    ends_with_file = True

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if run.running:
            return refuse(cls, "Wait for the present run, or cancel it with ESC")
        if context.mode != "OBJECT":
            return refuse(cls, "Leave edit mode first")
        return True


class MARIGOLD_OT_cancel(bpy.types.Operator):
    """Stop it; Blender is free at once, and finished parts are kept for the next time"""

    bl_idname = "marigold.cancel"
    bl_label = "Cancel"

    activity: bpy.props.StringProperty(default="run", options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        activity = {"run": run, "setup": setup, "rendering": rendering}[self.activity]
        activity.cancel()
        redraw(activity.area)
        return {"FINISHED"}


def redraw(area_type: str) -> None:
    """The parts that show an activity; the 3D view itself may take seconds to draw."""
    part = "UI" if area_type == "VIEW_3D" else "WINDOW"
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            for region in area.regions if area.type == area_type else ():
                if region.type == part:
                    region.tag_redraw()


CLASSES = (MARIGOLD_OT_cancel,)
