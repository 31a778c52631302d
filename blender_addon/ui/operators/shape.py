# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators on a finished depth mesh: view, camera, bake, asset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from ...backend.engine_parts import atomic_path
from ...mesh.depth_grid import HOLE
from ...mesh.depth_object import COLUMNS, ROWS, SIZE, depth_mesh_above, frame_scene
from ...mesh.exr_file import exr_bytes
from ...mesh.grid_mesh import DEPTH
from ...mesh.matched_camera import camera_of, matched_camera
from ...mesh.picture_material import (
    DEPTH_VIEW,
    LIT_VIEW,
    RELIGHTABLE_VIEW,
    UNCERTAINTY_VIEW,
    UNLIT_VIEW,
    picture_of,
    show,
    views,
)
from ...mesh.shape_inputs import get_input, has_input, is_panorama, shape_modifier
from ...mesh.thinning import thinned
from ..poll_messages import refuse

PREVIEW_PIXELS = 256


def depth_mesh_of(context: bpy.types.Context) -> bpy.types.Object | None:
    """The active object, or that whose camera is active, if it is a depth mesh."""
    obj = context.active_object
    if obj is not None and obj.type in ("CAMERA", "EMPTY"):
        return depth_mesh_above(obj)
    return obj if obj is not None and SIZE in obj else None


def has_shape(cls: Any, context: bpy.types.Context) -> bool:
    """For `poll`: there is an active depth mesh with its sliders."""
    obj = depth_mesh_of(context)
    if obj is None:
        return refuse(cls, "Select a depth mesh first")
    if shape_modifier(obj) is None:
        return refuse(cls, "This mesh is baked: it no longer has a live shape")
    if context.mode != "OBJECT":
        return refuse(cls, "Leave edit mode first")
    return True


def has_view(cls: Any, context: bpy.types.Context) -> bool:
    """For `poll`: as `has_shape`, of a picture that a camera took in one direction."""
    if not has_shape(cls, context):
        return False
    if is_panorama(depth_mesh_of(context)):
        return refuse(cls, "A panorama has no single view; use a picture of one direction")
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
            (RELIGHTABLE_VIEW, "Relightable", "Albedo, roughness and normals, lit by the scene"),
            (DEPTH_VIEW, "Depth", "Depth as it was estimated; red is near"),
            (UNCERTAINTY_VIEW, "Uncertainty", "Where the members of the ensemble disagree"),
        ],
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = depth_mesh_of(context)
        if obj is None or not views(obj.active_material):
            return refuse(cls, "Select a depth mesh first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        if self.view not in views(obj.active_material):
            missing = "This mesh has no uncertainty; run an ensemble of two or more"
            if self.view == RELIGHTABLE_VIEW:
                missing = "This mesh is not relightable; choose that surface and estimate again"
            self.report({"WARNING"}, missing)
            return {"CANCELLED"}
        for slot in obj.material_slots:
            if self.view in views(slot.material):
                show(slot.material, self.view)
        space = context.space_data
        in_viewport = space is not None and space.type == "VIEW_3D"
        if in_viewport and space.shading.type == "SOLID" and self.view != UNLIT_VIEW:
            space.shading.type = "MATERIAL"  # Solid shows the picture, whatever the material does
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
        obj = depth_mesh_of(context)
        camera = camera_of(obj) or matched_camera(obj, obj.users_collection[0])
        height, width = obj[SIZE]
        frame_scene(context.scene, camera, (height, width))
        look_through_camera(context, obj, camera)
        return {"FINISHED"}


class MARIGOLD_OT_bake(bpy.types.Operator):
    """Turn the live mesh into plain geometry, as it is now, without its sliders. Lower Faces in
    the panel of the last operation (F9) for a lighter mesh"""

    bl_idname = "marigold.bake"
    bl_label = "Bake"
    bl_options = {"REGISTER", "UNDO"}

    faces: bpy.props.FloatProperty(
        name="Faces",
        description="Share of the faces to keep. Outlines, tears and steep edges stay as they are,"
        " so that a mesh with many of them keeps more",
        default=100.0,
        min=1.0,
        max=100.0,
        subtype="PERCENTAGE",
        precision=0,
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        modifier = shape_modifier(obj)
        if has_input(modifier, "Points") and get_input(obj, "Points"):
            self.report({"ERROR"}, "Turn Points off first: what is baked is the surface")
            return {"CANCELLED"}
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
        if self.faces < 100:
            whole, baked = baked, thinned(obj, baked, self.faces / 100)
            bpy.data.meshes.remove(whole)
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
        obj = depth_mesh_of(context)
        if obj is None:
            return refuse(cls, "Select a depth mesh first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        obj.asset_mark()
        obj.asset_data.description = "Depth mesh made with Marigold Kit"
        obj.asset_data.tags.new("depth mesh", skip_if_exists=True)
        image = picture_of(obj)
        if image is not None:
            _draw_preview(obj.preview_ensure(), image)
        return {"FINISHED"}


class MARIGOLD_OT_save_depth(bpy.types.Operator):
    """Save the depth of the mesh as an OpenEXR file with 32-bit floats: distances in metres"""

    bl_idname = "marigold.save_depth"
    bl_label = "Save Depth"

    filepath: bpy.props.StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: bpy.props.StringProperty(default="*.exr", options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self.filepath = self.filepath or f"{depth_mesh_of(context).name}_depth.exr"
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = depth_mesh_of(context)
        shape = obj[ROWS], obj[COLUMNS]
        values = np.empty(len(obj.data.vertices), dtype=np.float32)
        obj.data.attributes[DEPTH].data.foreach_get("value", values)
        d = values[: shape[0] * shape[1]].reshape(shape)
        near, far = get_input(obj, "Near"), get_input(obj, "Far")
        metres = np.where(d < HOLE / 2, near + d * (far - near), np.float32(0))
        if is_panorama(obj):
            metres = metres[:, :-1]  # the first one again
        path = Path(bpy.path.abspath(self.filepath)).with_suffix(".exr")
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(exr_bytes(metres.astype(np.float32)))
        except OSError as error:
            self.report({"ERROR"}, f"{path.name} cannot be written: {error.strerror}.")
            return {"CANCELLED"}
        self.report({"INFO"}, f"{path.name}: {metres.shape[1]}x{metres.shape[0]}")
        return {"FINISHED"}


def look_through_camera(
    context: bpy.types.Context, obj: bpy.types.Object, camera: bpy.types.Object
) -> None:
    """Turn the 3D viewport to `camera`, and to a shading that shows the picture at once, without
    compiling shaders; an orbit from there goes around the mesh."""
    for area in context.screen.areas if context.screen else ():
        if area.type != "VIEW_3D":
            continue
        space = area.spaces.active
        seen = obj.evaluated_get(context.evaluated_depsgraph_get())
        middle = sum((Vector(corner) for corner in seen.bound_box), Vector()) / 8
        space.region_3d.view_location = seen.matrix_world @ middle
        space.region_3d.view_perspective = "CAMERA"
        space.use_local_camera = context.scene.camera != camera
        if space.use_local_camera:
            space.camera = camera
        if space.shading.type == "SOLID":
            space.shading.color_type, space.shading.light = "TEXTURE", "FLAT"
        return


def _freeze(data: bpy.types.Camera, evaluated: bpy.types.Camera) -> None:
    values = {name: getattr(evaluated, name) for name in ("type", "lens", "ortho_scale")}
    for name, value in values.items():
        data.driver_remove(name)
        setattr(data, name, value)


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


CLASSES = (
    MARIGOLD_OT_show,
    MARIGOLD_OT_camera,
    MARIGOLD_OT_bake,
    MARIGOLD_OT_mark_asset,
    MARIGOLD_OT_save_depth,
)
