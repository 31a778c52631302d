# SPDX-License-Identifier: GPL-3.0-or-later
"""Picked points: distances or a length give the scale, three points of the floor the way up."""

from __future__ import annotations

import blf
import bpy
import gpu
import numpy as np
from bpy_extras import view3d_utils
from gpu_extras.batch import batch_for_shader
from mathutils import Matrix

from ...backend.engine_parts import MarigoldError
from ...mesh.calibration import calibrated_range, upright
from ...mesh.picked_points import picture_point, uv_of
from ...mesh.shape_inputs import get_input, set_inputs, shape_modifier
from .shape import depth_mesh_of, has_shape

UNPICKED = (-1.0, -1.0)
MARK_COLOUR = (1.0, 0.7, 0.1, 1.0)
_marks: object | None = None


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

    length: bpy.props.FloatProperty(
        name="Length",
        description="Between points 1 and 2, as a tape measures it",
        default=1.0,
        min=1e-4,
        subtype="DISTANCE",
    )
    camera_height: bpy.props.FloatProperty(
        name="Camera Height",
        description="Of the camera above the floor; 0 keeps the scale as it is",
        default=0.0,
        min=0.0,
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
        obj = depth_mesh_of(context)
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
        obj = depth_mesh_of(context)
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


class MARIGOLD_OT_set_length(bpy.types.Operator):
    """Scale near and far so that points 1 and 2 are as far from each other as you measured"""

    bl_idname = "marigold.set_length"
    bl_label = "Set Scale"
    bl_options = {"REGISTER", "UNDO"}

    point_1: _point_property(1)
    point_2: _point_property(2)
    length: bpy.props.FloatProperty(
        name="Length", default=0.0, min=0.0, subtype="DISTANCE", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        picked = obj.marigold_points
        uvs = [_given(self, picked, f"point_{k}") for k in (1, 2)]
        try:
            if any(tuple(uv) == UNPICKED for uv in uvs):
                raise MarigoldError("Pick points 1 and 2 first.")
            first, second = (picture_point(obj, uv).position for uv in uvs)
            now = (second - first).length
            if not now > 1e-6:
                raise MarigoldError("Points 1 and 2 are the same; pick two places.")
        except MarigoldError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        _scale(obj, (self.length or picked.length) / now)
        return {"FINISHED"}


class MARIGOLD_OT_align_ground(bpy.types.Operator):
    """Turn the mesh and its camera so that three picked points of the floor lie on the ground"""

    bl_idname = "marigold.align_ground"
    bl_label = "Align to Ground"
    bl_options = {"REGISTER", "UNDO"}

    point_1: _point_property(1)
    point_2: _point_property(2)
    point_3: _point_property(3)
    camera_height: bpy.props.FloatProperty(
        name="Camera Height", default=0.0, min=0.0, subtype="DISTANCE", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        picked = obj.marigold_points
        uvs = [_given(self, picked, f"point_{k}") for k in (1, 2, 3)]
        try:
            if any(tuple(uv) == UNPICKED for uv in uvs):
                raise MarigoldError("Pick three points of the floor first.")
            transform = _to_ground(obj, uvs)
            height = self.camera_height or picked.camera_height
            if height:
                above = (Matrix(transform.tolist()) @ obj.matrix_world).translation.z
                _scale(obj, height / above)
                transform = _to_ground(obj, uvs)
        except MarigoldError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        obj.matrix_world = Matrix(transform.tolist()) @ obj.matrix_world
        return {"FINISHED"}


def _to_ground(obj: bpy.types.Object, uvs: list[tuple[float, float]]) -> np.ndarray:
    world = obj.matrix_world
    points = np.array([world @ picture_point(obj, uv).position for uv in uvs])
    return upright(points, np.array(world.translation))


def _scale(obj: bpy.types.Object, factor: float) -> None:
    near, far = get_input(obj, "Near") * factor, get_input(obj, "Far") * factor
    set_inputs(obj, near=near, far=far)


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


def _draw_marks() -> None:
    """The picked points and the length between the first two, in the 3D viewport."""
    obj = depth_mesh_of(bpy.context)
    if obj is None or shape_modifier(obj) is None:
        return
    picked = obj.marigold_points
    found = {}
    for k in (1, 2, 3):
        uv = tuple(getattr(picked, f"point_{k}"))
        if uv != UNPICKED:
            found[k] = obj.matrix_world @ picture_point(obj, uv).position
    if not found:
        return
    region, view = bpy.context.region, bpy.context.region_data
    places = {k: view3d_utils.location_3d_to_region_2d(region, view, p) for k, p in found.items()}
    places = {k: place for k, place in places.items() if place is not None}
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    shader.uniform_float("color", MARK_COLOUR)
    if 1 in places and 2 in places:
        batch_for_shader(shader, "LINES", {"pos": [places[1], places[2]]}).draw(shader)
    gpu.state.point_size_set(9.0)
    batch_for_shader(shader, "POINTS", {"pos": list(places.values())}).draw(shader)
    for k, place in places.items():
        blf.position(0, place.x + 8, place.y + 8, 0)
        blf.size(0, 14)
        blf.color(0, *MARK_COLOUR)
        blf.draw(0, str(k))
    if 1 in places and 2 in places:
        middle = (places[1] + places[2]) / 2
        blf.position(0, middle.x + 8, middle.y - 18, 0)
        blf.draw(0, f"{(found[1] - found[2]).length:.3g}")


def show_marks() -> None:
    global _marks
    if not bpy.app.background:
        _marks = bpy.types.SpaceView3D.draw_handler_add(_draw_marks, (), "WINDOW", "POST_PIXEL")


def hide_marks() -> None:
    global _marks
    if _marks is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_marks, "WINDOW")
        _marks = None


CLASSES = (
    PickedPoints,
    MARIGOLD_OT_pick_point,
    MARIGOLD_OT_calibrate,
    MARIGOLD_OT_set_length,
    MARIGOLD_OT_align_ground,
)
