# SPDX-License-Identifier: GPL-3.0-or-later
"""Insert CG: the scene as the photograph, with objects that stand in it and cast shadows."""

from __future__ import annotations

import math

import bpy

from ...mesh.depth_object import SIZE, frame_scene
from ...mesh.matched_camera import camera_of, matched_camera
from ...mesh.picture_material import LIT_VIEW, picture_of, show, views
from .shape import depth_mesh_of, has_shape, look_through_camera

SUN_STRENGTH = 3.0
# From the upper left and behind the camera, as a photographer likes the sun to stand; soft.
SUN_ANGLES = (math.radians(50), 0.0, math.radians(-35))
SUN_SOFTNESS = math.radians(4)


class MARIGOLD_OT_insert_cg(bpy.types.Operator):
    """Set the scene up for objects that stand in the photograph: it becomes the background of the
    camera and of the render, and the mesh catches shadows and light. Uses Cycles"""

    bl_idname = "marigold.insert_cg"
    bl_label = "Insert CG"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return has_shape(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        obj, scene = depth_mesh_of(context), context.scene
        collection = obj.users_collection[0]
        camera = camera_of(obj) or matched_camera(obj, collection)
        frame_scene(scene, camera, tuple(obj[SIZE]))
        scene.view_settings.view_transform = "Standard"
        scene.render.engine = "CYCLES"
        scene.render.film_transparent = True
        obj.is_shadow_catcher = True
        for slot in obj.material_slots:
            if LIT_VIEW in views(slot.material):
                show(slot.material, LIT_VIEW)
        image = picture_of(obj)
        if image is not None:
            _behind_camera(camera, image)
            _behind_render(scene, image)
        if not any(one.type == "LIGHT" and one.data.type == "SUN" for one in scene.objects):
            _add_sun(obj, collection)
        look_through_camera(context, obj, camera)
        return {"FINISHED"}


def _behind_camera(camera: bpy.types.Object, image: bpy.types.Image) -> None:
    data = camera.data
    data.show_background_images = True
    if not any(one.image == image for one in data.background_images):
        background = data.background_images.new()
        background.image = image
        background.alpha = 1.0
        background.display_depth = "BACK"
        background.frame_method = "FIT"


def _behind_render(scene: bpy.types.Scene, image: bpy.types.Image) -> None:
    """The render over the picture, in the compositor; one that the user made is left alone."""
    if hasattr(scene, "compositing_node_group"):  # from Blender 5.0 on
        if scene.compositing_node_group is not None:
            return
        tree = bpy.data.node_groups.new("Insert CG", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
        output = tree.nodes.new("NodeGroupOutput")
    else:
        if scene.use_nodes and scene.node_tree.nodes:
            return
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        output = tree.nodes.new("CompositorNodeComposite")
    scene.render.use_compositing = True
    layers = tree.nodes.new("CompositorNodeRLayers")
    picture = tree.nodes.new("CompositorNodeImage")
    picture.image = image
    scale = tree.nodes.new("CompositorNodeScale")
    if hasattr(scale, "space"):
        scale.space = "RENDER_SIZE"
    else:
        scale.inputs["Type"].default_value = "Render Size"
    over = tree.nodes.new("CompositorNodeAlphaOver")
    # Their names differ between versions: the pictures are the two colours, the lower one first.
    lower, upper = (s for s in over.inputs if s.type == "RGBA")
    tree.links.new(picture.outputs["Image"], scale.inputs["Image"])
    tree.links.new(scale.outputs["Image"], lower)
    tree.links.new(layers.outputs["Image"], upper)
    tree.links.new(over.outputs["Image"], output.inputs[0])
    for k, node in enumerate((picture, scale, layers, over, output)):
        node.location = (220 * k, -300 * (node is layers))


def _add_sun(obj: bpy.types.Object, collection: bpy.types.Collection) -> None:
    data = bpy.data.lights.new("Sun of the Picture", "SUN")
    data.energy, data.angle = SUN_STRENGTH, SUN_SOFTNESS
    sun = bpy.data.objects.new(data.name, data)
    sun.rotation_euler = SUN_ANGLES
    sun.location = obj.matrix_world.translation
    sun.location.z += 2
    collection.objects.link(sun)


CLASSES = (MARIGOLD_OT_insert_cg,)
