# SPDX-License-Identifier: GPL-3.0-or-later
"""Real scale: places picked on a depth mesh, and the mesh in metres and upright by them."""

from __future__ import annotations

import bpy
import numpy as np
from bpy_extras import view3d_utils
from mathutils import Matrix, Vector

from ...backend.engine_parts import MarigoldError
from ...mesh.calibration import upright
from ...mesh.metres import describe, fit_to_metres
from ...mesh.picked_points import picture_point, uv_of
from ..known import clear_fit
from ..poll_messages import refuse
from .shape import depth_mesh_of, has_view

DISTANCE, LENGTH, FLOOR = "DISTANCE", "LENGTH", "FLOOR"
KINDS = [
    (DISTANCE, "Distance", "Of one point from the camera"),
    (LENGTH, "Length", "Between two points, such as the edge of a door"),
    (FLOOR, "Floor", "Points that lie on the floor"),
]
HINTS = {
    DISTANCE: "Click a point whose distance you know    ESC: cancel",
    LENGTH: "Click the two ends of a length that you know    ESC: cancel",
    FLOOR: "Click points of the floor, three or more    Enter: done",
}


class MARIGOLD_OT_pick_point(bpy.types.Operator):
    """Click on the depth mesh; then type what you measured there"""

    bl_idname = "marigold.pick_point"
    bl_label = "Pick"
    bl_options = {"UNDO"}

    kind: bpy.props.EnumProperty(items=KINDS, options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_view(cls, context)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self._ends: list[tuple[float, float]] = []
        self._picked = False
        context.window_manager.modal_handler_add(self)
        context.window.cursor_modal_set("EYEDROPPER")
        hint = bpy.app.translations.pgettext_iface(HINTS[self.kind])
        context.workspace.status_text_set(hint)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type in {"ESC", "RIGHTMOUSE", "RET", "NUMPAD_ENTER"}:
            return self._end(context)
        if event.type != "LEFTMOUSE" or event.value != "PRESS":
            return {"PASS_THROUGH"}  # the view can be turned while picking
        obj = depth_mesh_of(context)
        hit = _under_cursor(context, event, obj) if obj is not None else None
        if hit is None:
            self.report({"WARNING"}, "There is no depth mesh under the pointer; click on it")
            return {"RUNNING_MODAL"}
        done = self._take(obj, uv_of(obj, hit))
        for area in context.screen.areas:
            area.tag_redraw()
        return self._end(context) if done else {"RUNNING_MODAL"}

    def _take(self, obj: bpy.types.Object, uv: tuple[float, float]) -> bool:
        """Add what was clicked, with the mesh's present number; True where that was the last."""
        known = obj.marigold_known
        if self.kind == FLOOR:
            known.floor.add().at = uv
            self._picked = True
            return False
        if self.kind == LENGTH:
            self._ends.append(uv)
            if len(self._ends) < 2:
                return False
            start, end = (picture_point(obj, one).position for one in self._ends)
            one = known.lengths.add()
            one.start, one.end = self._ends
            one.length = (start - end).length
        else:
            point = known.points.add()
            point.at, point.distance = uv, picture_point(obj, uv).position.length
        self._picked = True
        return True

    def _end(self, context: bpy.types.Context) -> set[str]:
        context.window.cursor_modal_restore()
        context.workspace.status_text_set(None)
        for area in context.screen.areas:
            area.tag_redraw()
        return {"FINISHED"} if self._picked else {"CANCELLED"}


class MARIGOLD_OT_remove_point(bpy.types.Operator):
    """Forget this measurement"""

    bl_idname = "marigold.remove_point"
    bl_label = "Remove"
    bl_options = {"UNDO"}

    kind: bpy.props.EnumProperty(items=KINDS, options={"SKIP_SAVE"})
    index: bpy.props.IntProperty(default=0, min=0, options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_view(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        known = depth_mesh_of(context).marigold_known
        if self.kind == FLOOR:
            known.floor.clear()
        else:
            (known.points if self.kind == DISTANCE else known.lengths).remove(self.index)
        return {"FINISHED"}


class MARIGOLD_OT_fit_metres(bpy.types.Operator):
    """Give the whole mesh the distances that fit all of these best; what contradicts the others is
    left out"""

    bl_idname = "marigold.fit_metres"
    bl_label = "Fit to Metres"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not has_view(cls, context):
            return False
        known = depth_mesh_of(context).marigold_known
        if not (known.points or known.lengths or known.camera_height):
            return refuse(cls, "Give a distance, a length or the camera's height first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        try:
            message = fit_and_report(obj)
        except MarigoldError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, message)
        return {"FINISHED"}


class MARIGOLD_OT_align_ground(bpy.types.Operator):
    """Turn the mesh and its camera so that the picked floor lies on the ground"""

    bl_idname = "marigold.align_ground"
    bl_label = "Align to Ground"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not has_view(cls, context):
            return False
        if len(depth_mesh_of(context).marigold_known.floor) < 3:
            return refuse(cls, "Pick three points of the floor first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        world = obj.matrix_world
        try:
            floor = [picture_point(obj, one.at).position for one in obj.marigold_known.floor]
            points = np.array([world @ point for point in floor])
            transform = upright(points, np.array(world.translation))
        except MarigoldError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        obj.matrix_world = Matrix(transform.tolist()) @ world
        return {"FINISHED"}


def fit_and_report(obj: bpy.types.Object) -> str:
    """Fit the mesh, and keep with it how good that is. Raises MarigoldError."""
    known = obj.marigold_known
    fit = fit_to_metres(obj)
    clear_fit(known)
    known.fitted, known.relative_error = True, fit.relative_error or 0.0
    for index in fit.outliers:
        known.points[int(index)].left_out = True
    known.report = describe(fit)
    return known.report


def _under_cursor(
    context: bpy.types.Context, event: bpy.types.Event, obj: bpy.types.Object
) -> Vector | None:
    """Where the pointer's ray meets the live mesh, in the object's space.

    The pointer may be over another region than the panel that the operator was called from.
    """
    for area in context.screen.areas:
        if area.type != "VIEW_3D":
            continue
        for region in area.regions:
            at = (event.mouse_x - region.x, event.mouse_y - region.y)
            inside = 0 <= at[0] < region.width and 0 <= at[1] < region.height
            if region.type != "WINDOW" or not inside:
                continue
            view = area.spaces.active.region_3d
            origin = view3d_utils.region_2d_to_origin_3d(region, view, at)
            direction = view3d_utils.region_2d_to_vector_3d(region, view, at)
            inverse = obj.matrix_world.inverted()
            start = inverse @ origin
            hit, position, _, _ = obj.evaluated_get(context.evaluated_depsgraph_get()).ray_cast(
                start, (inverse @ (origin + direction)) - start
            )
            return position if hit else None
    return None


CLASSES = (
    MARIGOLD_OT_pick_point,
    MARIGOLD_OT_remove_point,
    MARIGOLD_OT_fit_metres,
    MARIGOLD_OT_align_ground,
)
