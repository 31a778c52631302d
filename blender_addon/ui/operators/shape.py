# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on a finished depth mesh: view, camera, bake, asset."""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from ...mesh.depth_object import SIZE, frame_scene
from ...mesh.matched_camera import camera_of, matched_camera
from ...mesh.picture_material import DEPTH_VIEW, LIT_VIEW, UNCERTAINTY_VIEW, UNLIT_VIEW, show, views
from ...mesh.shape_inputs import shape_modifier
from ..poll_messages import refuse

PREVIEW_PIXELS = 256


def has_shape(cls: Any, context: bpy.types.Context) -> bool:
    """For `poll`: the active object is a depth mesh with its sliders."""
    obj = context.active_object
    if obj is None or SIZE not in obj:
        return refuse(cls, "Select a depth mesh first")
    if shape_modifier(obj) is None:
        return refuse(cls, "This mesh is baked: it no longer has a live shape")
    if context.mode != "OBJECT":
        return refuse(cls, "Leave edit mode first")
    return True


class MARIGOLD_OT_show(bpy.types.Operator):
    """Show the picture, the depth (red is near) or the uncertainty (bright is uncertain)"""

    bl_idname = "marigold.show"
    bl_label = "Show"
    bl_options = {"REGISTER", "UNDO"}

    view: bpy.props.EnumProperty(
        name="View",
        items=[
            (UNLIT_VIEW, "Unlit", "The picture as it was taken, without the scene's light"),
            (LIT_VIEW, "Lit", "The picture, lit by the scene"),
            (DEPTH_VIEW, "Depth", "Depth as it was estimated; red is near"),
            (UNCERTAINTY_VIEW, "Uncertainty", "Where the members of the ensemble disagree"),
        ],
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = context.active_object
        if obj is None or not views(obj.active_material):
            return refuse(cls, "Select a depth mesh first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = context.active_object
        if self.view not in views(obj.active_material):
            self.report({"WARNING"}, "This mesh has no uncertainty; run an ensemble of two or more")
            return {"CANCELLED"}
        for slot in obj.material_slots:
            if self.view in views(slot.material):
                show(slot.material, self.view)
        return {"FINISHED"}


class MARIGOLD_OT_camera(bpy.types.Operator):
    """Look through the camera that matches the picture; it is made again if it was deleted"""

    bl_idname = "marigold.camera"
    bl_label = "Matched Camera"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = context.active_object
        camera = camera_of(obj) or matched_camera(obj, obj.users_collection[0])
        height, width = obj[SIZE]
        frame_scene(context.scene, camera, (height, width))
        look_through_camera(context, obj)
        return {"FINISHED"}


class MARIGOLD_OT_bake(bpy.types.Operator):
    """Turn the live mesh into plain geometry, as it is now, without its sliders"""

    bl_idname = "marigold.bake"
    bl_label = "Bake"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = context.active_object
        modifier = shape_modifier(obj)
        graph = context.evaluated_depsgraph_get()
        camera = camera_of(obj)
        if camera is not None:
            _freeze(camera.data, camera.evaluated_get(graph).data)
        # Only the stack up to the shape: modifiers that the user added after it stay modifiers.
        behind = [m for m in obj.modifiers if m != modifier and m.show_viewport]
        for other in behind:
            other.show_viewport = False
        graph.update()
        baked = bpy.data.meshes.new_from_object(
            obj.evaluated_get(graph), preserve_all_data_layers=True, depsgraph=graph
        )
        for other in behind:
            other.show_viewport = True
        live, name = obj.data, obj.data.name
        obj.modifiers.remove(modifier)
        obj.data = baked
        if not live.users:
            bpy.data.meshes.remove(live)
        baked.name = name
        return {"FINISHED"}


class MARIGOLD_OT_mark_asset(bpy.types.Operator):
    """Add the depth mesh to the asset browser, with its picture as the preview"""

    bl_idname = "marigold.mark_asset"
    bl_label = "Mark as Asset"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = context.active_object
        if obj is None or SIZE not in obj:
            return refuse(cls, "Select a depth mesh first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = context.active_object
        obj.asset_mark()
        obj.asset_data.description = "Depth mesh made with Marigold Kit"
        obj.asset_data.tags.new("depth mesh", skip_if_exists=True)
        image = _picture_of(obj)
        if image is not None:
            _draw_preview(obj.preview_ensure(), image)
        return {"FINISHED"}


def look_through_camera(context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Turn the 3D viewport to the scene's camera, and to a shading that shows the picture; an orbit
    from there goes around the mesh."""
    for area in context.screen.areas if context.screen else ():
        if area.type != "VIEW_3D":
            continue
        space = area.spaces.active
        seen = obj.evaluated_get(context.evaluated_depsgraph_get())
        middle = sum((Vector(corner) for corner in seen.bound_box), Vector()) / 8
        space.region_3d.view_location = seen.matrix_world @ middle
        space.region_3d.view_perspective = "CAMERA"
        if space.shading.type == "SOLID":
            space.shading.type = "MATERIAL"
        return


def _freeze(data: bpy.types.Camera, evaluated: bpy.types.Camera) -> None:
    values = {name: getattr(evaluated, name) for name in ("type", "lens", "ortho_scale")}
    for name, value in values.items():
        data.driver_remove(name)
        setattr(data, name, value)


def _picture_of(obj: bpy.types.Object) -> bpy.types.Image | None:
    material = obj.active_material
    if material is None or material.node_tree is None:
        return None
    for node in material.node_tree.nodes:
        if node.type == "TEX_IMAGE" and node.image is not None:
            return node.image
    return None


def _draw_preview(preview: bpy.types.ImagePreview, image: bpy.types.Image) -> None:
    width, height = image.size
    if not (width and height):
        return
    pixels = np.empty(width * height * image.channels, dtype=np.float32)
    image.pixels.foreach_get(pixels)
    step = max(width, height) / PREVIEW_PIXELS
    rows = np.arange(0, height, step).astype(int)
    columns = np.arange(0, width, step).astype(int)
    small = pixels.reshape(height, width, -1)[np.ix_(rows, columns)]
    rgba = np.zeros((PREVIEW_PIXELS, PREVIEW_PIXELS, 4), dtype=np.float32)
    top = (PREVIEW_PIXELS - len(rows)) // 2
    left = (PREVIEW_PIXELS - len(columns)) // 2
    window = rgba[max(top, 0) :, max(left, 0) :][: len(rows), : len(columns)]
    window[..., :3] = small[: len(window), : window.shape[1], :3]
    window[..., 3] = 1
    preview.image_size = (PREVIEW_PIXELS, PREVIEW_PIXELS)
    preview.image_pixels_float.foreach_set(rgba.ravel())


CLASSES = (MARIGOLD_OT_show, MARIGOLD_OT_camera, MARIGOLD_OT_bake, MARIGOLD_OT_mark_asset)
