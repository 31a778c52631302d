# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators that wait for the worker: with a timer in a window, plainly in a script.

Such an operator writes its work once, as a generator that yields the jobs it needs done. A timer
advances it when a job is finished, so that Blender stays usable; without a window the same
generator is run to its end.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bpy

from ...backend.engine_parts import MarigoldError
from ...backend.engine_process import Job
from ...backend.engine_session import activity, running_engine
from ..poll_messages import refuse

Work = Generator[Job, None, None]
TIMER_SECONDS = 0.05


class EngineRun:
    """Mixed into operators; they have `title` and `work`."""

    title = "Depth Mesh"
    one_may_fail = False  # a failed job ends the work, unless the work itself judges it

    def work(self, context: bpy.types.Context) -> Work:
        """Yields jobs and finds each finished; raises MarigoldError with the user's sentence."""
        raise NotImplementedError  # Blender's own metaclass leaves no room for ABC

    def steps(self) -> int:
        """How many jobs of the same length there are, for the progress bar."""
        return 1

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if activity.running:
            return refuse(cls, "Wait for the run that is going on, or cancel it with ESC")
        if context.mode != "OBJECT":
            return refuse(cls, "Leave edit mode first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        return self.run(context)

    def execute_after_browser(self, context: bpy.types.Context) -> set[str]:
        """The file browser ends in `execute`, where Blender is to stay usable just the same."""
        if self.options.is_invoke and not self.options.is_repeat:
            return self.start(context)
        return self.run(context)

    def run(self, context: bpy.types.Context) -> set[str]:
        activity.begin(self.title, self.steps())
        try:
            for job in self.work(context):
                activity.job = job
                engine = running_engine()
                if engine is not None:
                    engine.wait(job)
                self._after(job)
        except MarigoldError as error:
            return self._fail(str(error))
        finally:
            activity.end(activity.error)
        return {"FINISHED"}

    def start(self, context: bpy.types.Context) -> set[str]:
        """For `invoke`: the modal run, or the plain one where there is no window for a timer."""
        if bpy.app.background or context.window is None:
            return self.run(context)
        activity.begin(self.title, self.steps())
        self._generator = self.work(context)
        self._timer = context.window_manager.event_timer_add(TIMER_SECONDS, window=context.window)
        context.window_manager.modal_handler_add(self)
        context.workspace.status_text_set(
            bpy.app.translations.pgettext_iface("Marigold is working    ESC: cancel")
        )
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if not activity.running:  # the add-on or the file went away under the run
            return self._leave(context, {"CANCELLED"})
        if event.type == "ESC" and event.value == "PRESS":
            activity.cancel_asked = True
        if activity.cancel_asked:
            self._generator.close()
            engine = running_engine()
            if engine is not None:
                engine.cancel()
            self.report({"INFO"}, "Cancelled")
            return self._leave(context, {"CANCELLED"})
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        try:
            return self._advance(context)
        except StopIteration:
            return self._leave(context, {"FINISHED"})
        except MarigoldError as error:
            self._generator.close()
            return self._leave(context, self._fail(str(error)))

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender itself ends the operator: the file is loaded anew or the window closes."""
        engine = running_engine()
        if engine is not None:
            engine.cancel()
        self._leave(context, {"CANCELLED"})

    def _advance(self, context: bpy.types.Context) -> set[str]:
        if activity.job is None:
            activity.job = next(self._generator)
        engine = running_engine()
        changed = engine is not None and engine.poll()
        if activity.job.finished:
            self._after(activity.job)
            activity.job = next(self._generator)
        if changed:
            redraw(context)
        return {"PASS_THROUGH"}

    def _after(self, job: Job) -> None:
        for warning in job.warnings:
            self.report({"WARNING"}, warning)
        if job.state == "cancelled":
            raise MarigoldError("Cancelled.")
        if job.state == "failed" and not self.one_may_fail:
            raise MarigoldError(job.error)
        activity.done += 1

    def _fail(self, sentence: str) -> set[str]:
        activity.error = sentence
        self.report({"ERROR"}, sentence)
        return {"CANCELLED"}

    def _leave(self, context: bpy.types.Context, result: set[str]) -> set[str]:
        if getattr(self, "_timer", None) is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
        if context.workspace is not None:
            context.workspace.status_text_set(None)
        activity.end(activity.error)
        redraw(context)
        return result


class MARIGOLD_OT_cancel(bpy.types.Operator):
    """Stop the run and give Blender back at once; the engine ends its step by itself"""

    bl_idname = "marigold.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not activity.running:
            return refuse(cls, "Nothing is running")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        activity.cancel_asked = True
        return {"FINISHED"}


def redraw(context: bpy.types.Context) -> None:
    """The sidebars of all windows."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()


def collection_for(context: bpy.types.Context, name: str | None = None) -> Any:
    """The active collection, or a new one below it."""
    if name is None:
        return context.collection
    collection = bpy.data.collections.new(name)
    context.collection.children.link(collection)
    return collection


CLASSES = (MARIGOLD_OT_cancel,)
