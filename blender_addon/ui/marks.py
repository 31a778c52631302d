# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the active depth mesh, drawn in the 3D viewport, with the mesh's own numbers."""

from __future__ import annotations

from typing import Any

import blf
import bpy
import gpu
from bpy_extras import view3d_utils
from gpu_extras.batch import batch_for_shader
from mathutils import Vector

from ..mesh.picked_points import picture_point
from ..mesh.shape_inputs import shape_modifier
from .operators.shape import depth_mesh_of

DISTANCE_COLOUR = (1.0, 0.7, 0.1, 1.0)
LENGTH_COLOUR = (0.3, 0.9, 1.0, 1.0)
FLOOR_COLOUR = (0.4, 1.0, 0.4, 1.0)
WRONG_COLOUR = (1.0, 0.2, 0.2, 1.0)
_marks: object | None = None


def _draw_marks() -> None:
    obj = depth_mesh_of(bpy.context)
    if obj is None or shape_modifier(obj) is None:
        return
    known = obj.marigold_known
    camera = obj.matrix_world.translation
    for number, point in enumerate(known.points, 1):
        place = _place(obj, point.at)
        words = f"{number}: {in_units((place - camera).length, known.relative_error)}"
        _dot(place, WRONG_COLOUR if point.left_out else DISTANCE_COLOUR, words)
    for one in known.lengths:
        start, end = _place(obj, one.start), _place(obj, one.end)
        _line(start, end, LENGTH_COLOUR, in_units((start - end).length, known.relative_error))
    for point in known.floor:
        _dot(_place(obj, point.at), FLOOR_COLOUR, "")


def in_units(length: float, relative_error: float = 0.0) -> str:
    """A length in the scene's units, with its expected error where one is known."""
    settings = bpy.context.scene.unit_settings
    if settings.system == "NONE":
        words = f"{length:.3g}"
    else:
        metres = length * settings.scale_length
        words = bpy.utils.units.to_string(settings.system, "LENGTH", metres, precision=3)
    return f"{words} ± {max(100 * relative_error, 1):.0f} %" if relative_error else words


def _place(obj: bpy.types.Object, uv: Any) -> Vector:
    return obj.matrix_world @ picture_point(obj, uv).position


def _on_screen(place: Vector) -> Vector | None:
    context = bpy.context
    return view3d_utils.location_3d_to_region_2d(context.region, context.region_data, place)


def _dot(place: Vector, colour: tuple[float, ...], words: str) -> None:
    at = _on_screen(place)
    if at is None:
        return
    gpu.state.point_size_set(9.0)
    _shape("POINTS", [at], colour)
    _text(at + Vector((8, 8)), colour, words)


def _line(start: Vector, end: Vector, colour: tuple[float, ...], words: str) -> None:
    ends = [_on_screen(start), _on_screen(end)]
    if None in ends:
        return
    gpu.state.line_width_set(2.0)
    gpu.state.point_size_set(7.0)
    _shape("LINES", ends, colour)
    _shape("POINTS", ends, colour)
    _text((ends[0] + ends[1]) / 2 + Vector((8, -18)), colour, words)
    gpu.state.line_width_set(1.0)


def _shape(kind: str, places: list[Any], colour: tuple[float, ...]) -> None:
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    shader.uniform_float("color", colour)
    batch_for_shader(shader, kind, {"pos": [(p.x, p.y, 0.0) for p in places]}).draw(shader)


def _text(at: Vector, colour: tuple[float, ...], words: str) -> None:
    blf.size(0, 14 * bpy.context.preferences.system.ui_scale)
    blf.enable(0, blf.SHADOW)
    blf.shadow(0, 5, 0.0, 0.0, 0.0, 1.0)
    blf.color(0, *colour)
    blf.position(0, at.x, at.y, 0)
    blf.draw(0, words)
    blf.disable(0, blf.SHADOW)


def show_marks() -> None:
    global _marks
    if not bpy.app.background:
        _marks = bpy.types.SpaceView3D.draw_handler_add(_draw_marks, (), "WINDOW", "POST_PIXEL")


def hide_marks() -> None:
    global _marks
    if _marks is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_marks, "WINDOW")
        _marks = None
