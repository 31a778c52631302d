# SPDX-License-Identifier: GPL-3.0-or-later
"""Picked points: two known distances give near and far, three points of the floor what is up."""

from __future__ import annotations

import bpy
import numpy as np
from bpy_extras import view3d_utils
from mathutils import Matrix

from ...backend.engine_parts import MarigoldError
from ...mesh.calibration import calibrated_range, upright
from ...mesh.picked_points import picture_point, uv_of
from ...mesh.shape_inputs import set_inputs
from .shape import has_shape

UNPICKED = (-1.0, -1.0)


class PickedPoints(bpy.types.PropertyGroup):
    """The points that the user clicked on one depth mesh, as (u, v) in the picture."""

    point_1: bpy.props.FloatVectorProperty(name="Point 1", size=2, default=UNPICKED)
    point_2: bpy.props.FloatVectorProperty(name="Point 2", size=2, default=UNPICKED)
    point_3: bpy.props.FloatVectorProperty(name="Point 3", size=2, default=UNPICKED)
    distance_1: bpy.props.FloatProperty(
        name="Distance 1",
        description="From the camera to point 1, as a tape measures it",
        default=1.0,
        min=1e-4,
        subtype="DISTANCE",
    )
    distance_2: bpy.props.FloatProperty(
        name="Distance 2",
        description="From the camera to point 2, as a tape measures it",
        default=5.0,
        min=1e-4,
        subtype="DISTANCE",
    )


def _point_property(number: int) -> object:
    return bpy.props.FloatVectorProperty(
        name=f"Point {number}",
        description="Across and up the picture, 0 to 1",
        size=2,
        default=UNPICKED,
        options={"SKIP_SAVE"},
    )


class MARIGOLD_OT_pick_point(bpy.types.Operator):
    """Click a point on the depth mesh; ESC leaves it as it was"""

    bl_idname = "marigold.pick_point"
    bl_label = "Pick Point"
    bl_options = {"UNDO"}

    number: bpy.props.IntProperty(default=1, min=1, max=3, options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.modal_handler_add(self)
        context.window.cursor_modal_set("EYEDROPPER")
        context.workspace.status_text_set(
            bpy.app.translations.pgettext_iface("Click a point on the depth mesh    ESC: cancel")
        )
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type in {"ESC", "RIGHTMOUSE"}:
            return self._end(context, {"CANCELLED"})
        if event.type != "LEFTMOUSE" or event.value != "PRESS":
            return {"PASS_THROUGH"}  # the view can be turned while picking
        obj = context.active_object
        hit = _under_cursor(context, event, obj) if obj is not None else None
        if hit is None:
            self.report({"WARNING"}, "There is no depth mesh under the pointer; click on it")
            return {"RUNNING_MODAL"}
        setattr(obj.marigold_points, f"point_{self.number}", uv_of(obj, hit))
        return self._end(context, {"FINISHED"})

    def _end(self, context: bpy.types.Context, result: set[str]) -> set[str]:
        context.window.cursor_modal_restore()
        context.workspace.status_text_set(None)
        for area in context.screen.areas:
            area.tag_redraw()
        return result


class MARIGOLD_OT_calibrate(bpy.types.Operator):
    """Set near and far so that the two picked points have their known distances"""

    bl_idname = "marigold.calibrate"
    bl_label = "Set Near and Far"
    bl_options = {"REGISTER", "UNDO"}

    point_1: _point_property(1)
    distance_1: bpy.props.FloatProperty(
        name="Distance 1", default=0.0, min=0.0, subtype="DISTANCE", options={"SKIP_SAVE"}
    )
    point_2: _point_property(2)
    distance_2: bpy.props.FloatProperty(
        name="Distance 2", default=0.0, min=0.0, subtype="DISTANCE", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = context.active_object
        picked = obj.marigold_points
        uvs = [_given(self, picked, f"point_{k}") for k in (1, 2)]
        distances = [self.distance_1 or picked.distance_1, self.distance_2 or picked.distance_2]
        try:
            if any(tuple(uv) == UNPICKED for uv in uvs):
                raise MarigoldError("Pick both points first.")
            points = [picture_point(obj, uv) for uv in uvs]
            near, far = calibrated_range([p.d for p in points], [p.ray for p in points], distances)
        except MarigoldError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        set_inputs(obj, near=near, far=far, relief=1.0)
        self.report({"INFO"}, f"Near {near:.3f}, far {far:.3f}")
        return {"FINISHED"}


class MARIGOLD_OT_align_ground(bpy.types.Operator):
    """Turn the mesh and its camera so that three picked points of the floor lie on the ground"""

    bl_idname = "marigold.align_ground"
    bl_label = "Align to Ground"
    bl_options = {"REGISTER", "UNDO"}

    point_1: _point_property(1)
    point_2: _point_property(2)
    point_3: _point_property(3)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = context.active_object
        picked = obj.marigold_points
        uvs = [_given(self, picked, f"point_{k}") for k in (1, 2, 3)]
        try:
            if any(tuple(uv) == UNPICKED for uv in uvs):
                raise MarigoldError("Pick three points of the floor first.")
            world = obj.matrix_world
            points = np.array([world @ picture_point(obj, uv).position for uv in uvs])
            transform = upright(points, np.array(world.translation))
        except MarigoldError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        obj.matrix_world = Matrix(transform.tolist()) @ world
        return {"FINISHED"}


def _given(operator: bpy.types.Operator, picked: PickedPoints, name: str) -> tuple[float, float]:
    """A script's point, else the one that was clicked."""
    own = tuple(getattr(operator, name))
    return own if own != UNPICKED else tuple(getattr(picked, name))


def _under_cursor(
    context: bpy.types.Context, event: bpy.types.Event, obj: bpy.types.Object
) -> object | None:
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
    PickedPoints,
    MARIGOLD_OT_pick_point,
    MARIGOLD_OT_calibrate,
    MARIGOLD_OT_align_ground,
)
