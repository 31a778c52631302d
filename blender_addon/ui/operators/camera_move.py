# SPDX-License-Identifier: GPL-3.0-or-later
"""A second camera that moves a little around the picture, for a clip of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import bpy
import numpy as np

from ...mesh.depth_grid import HOLE
from ...mesh.depth_object import SIZE, frame_scene
from ...mesh.grid_mesh import DEPTH
from ...mesh.matched_camera import matched_camera
from ...mesh.shape_inputs import get_input
from .shape import depth_mesh_of, has_view, look_through_camera

DOLLY, ORBIT, PARALLAX = "DOLLY", "ORBIT", "PARALLAX"
# At a strength of 1: the angle to either side, for which the background layer is made; how much of
# the way to the nearest thing the camera goes.
SWING, TRAVEL = math.radians(15), 0.7
# Custom properties of the empty that the camera turns around.
MOVE, FRAMES = "marigold_move", "marigold_frames"

Angles = Callable[[float], tuple[float, float]]
# The turn about the camera's x and y at the time 0 to 1, in parts of the swing; and at how many
# times it is keyed.
TURNS: dict[str, tuple[Angles, int]] = {
    DOLLY: (lambda t: (0.0, 0.0), 2),
    ORBIT: (lambda t: (0.0, 2 * t - 1), 2),
    # Begins and ends in the matched view, so that the clip can be looped.
    PARALLAX: (
        lambda t: (0.25 * math.sin(4 * math.pi * t), 0.5 * math.sin(2 * math.pi * t)),
        9,
    ),
}


class Move(NamedTuple):
    """A camera move of a depth mesh, and how many frames it has from the first on."""

    camera: bpy.types.Object
    kind: str
    frames: int


def move_of(obj: bpy.types.Object) -> Move | None:
    for pivot in obj.children:
        for camera in pivot.children if FRAMES in pivot else ():
            if camera.type == "CAMERA":
                return Move(camera, str(pivot[MOVE]), pivot[FRAMES])
    return None


class MARIGOLD_OT_camera_move(bpy.types.Operator):
    """Add a camera that moves around the picture, and set the scene up to render its clip. Pressed
    again, it replaces the move"""

    bl_idname = "marigold.camera_move"
    bl_label = "Camera Move"
    bl_options = {"REGISTER", "UNDO"}

    kind: bpy.props.EnumProperty(
        name="Move",
        items=[
            (PARALLAX, "Parallax", "A small loop that begins and ends in the picture's own view"),
            (ORBIT, "Orbit", "From one side of the picture's middle to the other"),
            (DOLLY, "Dolly", "Into the picture"),
        ],
    )
    strength: bpy.props.FloatProperty(
        name="Strength",
        description="1 is as far as the background layer is made for",
        default=0.5,
        min=0.01,
        max=3.0,
        soft_max=1.0,
        subtype="FACTOR",
    )
    frames: bpy.props.IntProperty(
        name="Frames", description="Length of the clip", default=120, min=2, soft_max=1000
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_view(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj, scene = depth_mesh_of(context), context.scene
        _remove_move(obj)
        pivot, camera, distance = _camera_on_pivot(obj)
        pivot[MOVE], pivot[FRAMES] = self.kind.lower(), self.frames
        turn, keys = TURNS[self.kind]
        for k in range(keys):
            frame = 1 + (self.frames - 1) * k / (keys - 1)
            x, y = turn(k / (keys - 1))
            pivot.rotation_euler = (SWING * self.strength * x, SWING * self.strength * y, 0.0)
            pivot.keyframe_insert("rotation_euler", frame=frame)
            if self.kind == DOLLY:
                way = min(TRAVEL * self.strength, 0.95) * get_input(obj, "Near")
                camera.location.z = distance - way * k
                camera.keyframe_insert("location", frame=frame)
        scene.frame_start, scene.frame_end = 1, self.frames
        scene.frame_set(1)
        frame_scene(scene, camera, tuple(obj[SIZE]))
        look_through_camera(context, obj, camera)
        return {"FINISHED"}


def _camera_on_pivot(
    obj: bpy.types.Object,
) -> tuple[bpy.types.Object, bpy.types.Object, float]:
    """An empty in the middle of the scene's depth, as a child of the mesh; on it a camera that
    stands where the matched one does; how far they are apart."""
    d = np.empty(len(obj.data.vertices), dtype=np.float32)
    obj.data.attributes[DEPTH].data.foreach_get("value", d)
    near, far = get_input(obj, "Near"), get_input(obj, "Far")
    middle = float(np.median(d[d < HOLE / 2]))
    distance = near + get_input(obj, "Relief") * middle * (far - near)
    collection = obj.users_collection[0]
    pivot = bpy.data.objects.new(f"{obj.name} Move", None)
    pivot.empty_display_size = 0.1 * distance
    collection.objects.link(pivot)
    pivot.parent, pivot.location = obj, (0.0, 0.0, -distance)
    camera = matched_camera(obj, collection)
    camera.name = camera.data.name = f"{obj.name} Move Camera"
    camera.parent, camera.location = pivot, (0.0, 0.0, distance)
    return pivot, camera, distance


def _remove_move(obj: bpy.types.Object) -> None:
    for pivot in [child for child in obj.children if MOVE in child]:
        for camera in [child for child in pivot.children if child.type == "CAMERA"]:
            bpy.data.cameras.remove(camera.data)
        bpy.data.objects.remove(pivot)


CLASSES = (MARIGOLD_OT_camera_move,)
