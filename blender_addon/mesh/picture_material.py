# SPDX-License-Identifier: GPL-3.0-or-later
"""The material of a depth mesh, with an output for each way to look at it: the picture as it was
taken, in the scene's light or as a relightable surface, the depth, the uncertainty.

Unlit comes first: the picture has its light in it already, and a second one shows each unevenness
of the depth as a stain.

Which one is seen is Blender's own choice of the active output, so the switch works in a file
without the add-on as well; and the picture stays wired plainly into a Principled BSDF, which is
what the USD and FBX exporters look for, and the glTF one in the lit view.
"""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np

from ..backend.engine_parts import colorize
from .grid_mesh import DEPTH, UNCERTAINTY, UV_MAP

UNLIT_VIEW, LIT_VIEW, DEPTH_VIEW, UNCERTAINTY_VIEW = "Unlit", "Lit", "Depth", "Uncertainty"
RELIGHTABLE_VIEW = "Relightable"
# A custom property of the nodes that make one of the views.
OF_VIEW = "marigold_view"
VIEWS = (UNLIT_VIEW, LIT_VIEW, RELIGHTABLE_VIEW, DEPTH_VIEW, UNCERTAINTY_VIEW)
# The images of the relightable surface, as they are named in the material.
ALBEDO, ROUGHNESS, METALLIC, NORMALS, SHADING = (
    "Albedo", "Roughness", "Metallic", "Normals", "Shading",
)  # fmt: skip


def picture_material(
    name: str, image: bpy.types.Image | None, uncertainty_scale: float | None
) -> bpy.types.Material:
    """A new material; `uncertainty_scale` is the uncertainty that is shown as white, None = the
    mesh has none."""
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # before Blender 5.0
        material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()

    surface = nodes.new("ShaderNodeBsdfPrincipled")
    surface.inputs["Roughness"].default_value = 1.0
    surface.inputs["Specular IOR Level"].default_value = 0.0
    surface.location = (200, 0)
    if image is not None:
        texture = nodes.new("ShaderNodeTexImage")
        texture.image = image
        texture.extension = "EXTEND"
        texture.location = (-150, 0)
        uv_map = nodes.new("ShaderNodeUVMap")
        uv_map.uv_map = UV_MAP
        uv_map.location = (-400, 0)
        links.new(uv_map.outputs[0], texture.inputs[0])
        links.new(texture.outputs["Color"], surface.inputs["Base Color"])
        _output(material, UNLIT_VIEW, _unlit(material, texture, surface), 300)
        nodes.active = texture  # what the viewport's Texture colour shows
    _output(material, LIT_VIEW, surface.outputs[0], 0)

    _view(material, DEPTH_VIEW, DEPTH, "Spectral", None, -350)
    if uncertainty_scale is not None:
        _view(material, UNCERTAINTY_VIEW, UNCERTAINTY, "magma", uncertainty_scale, -700)
    show(material, views(material)[0])
    return material


def picture_of(obj: bpy.types.Object) -> bpy.types.Image | None:
    """The picture of a mesh: of its first material, as the second is the background's."""
    material = obj.material_slots[0].material if obj.material_slots else None
    node = picture_node(material)
    return None if node is None else node.image


def picture_node(material: bpy.types.Material | None) -> bpy.types.ShaderNode | None:
    if material is None or material.node_tree is None:
        return None
    for node in material.node_tree.nodes:
        if node.type == "TEX_IMAGE" and node.image is not None and OF_VIEW not in node:
            return node
    return None


def set_relightable(
    material: bpy.types.Material, images: Mapping[str, bpy.types.Image], roughness: float = 0.5
) -> None:
    """Give a material the view RELIGHTABLE_VIEW of these images, in place of the one it has, and
    show it.

    images: by ALBEDO, ROUGHNESS, METALLIC, NORMALS (a tangent-space map) and SHADING, none of which
    is needed. roughness: without an image of it. Without an albedo the picture is the base colour,
    without gloss: the highlights are in it already. The shading is kept in a node that nothing is
    linked to, for the user's own use.
    """
    remove_view(material, RELIGHTABLE_VIEW)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    before = {node.name for node in nodes}
    surface = nodes.new("ShaderNodeBsdfPrincipled")
    surface.location = (200, 1400)
    surface.inputs["Roughness"].default_value = roughness
    uv_map = nodes.new("ShaderNodeUVMap")
    uv_map.uv_map = UV_MAP
    uv_map.location = (-750, 1200)
    textures = {}
    for k, (name, image) in enumerate(images.items()):
        texture = textures[name] = nodes.new("ShaderNodeTexImage")
        texture.name = texture.label = name
        texture.image, texture.extension = image, "EXTEND"
        texture.location = (-450, 1800 - 280 * k)
        links.new(uv_map.outputs[0], texture.inputs[0])
    for name, socket in (
        (ALBEDO, "Base Color"), (ROUGHNESS, "Roughness"), (METALLIC, "Metallic"),
    ):  # fmt: skip
        if name in textures:
            links.new(textures[name].outputs["Color"], surface.inputs[socket])
    if ALBEDO not in textures:
        surface.inputs["Roughness"].default_value = 1.0
        surface.inputs["Specular IOR Level"].default_value = 0.0
        picture = picture_node(material)
        if picture is not None:
            links.new(picture.outputs["Color"], surface.inputs["Base Color"])
    if NORMALS in textures:
        bumps = nodes.new("ShaderNodeNormalMap")
        bumps.uv_map = UV_MAP
        bumps.location = (-100, 1100)
        links.new(textures[NORMALS].outputs["Color"], bumps.inputs["Color"])
        links.new(bumps.outputs["Normal"], surface.inputs["Normal"])
    _output(material, RELIGHTABLE_VIEW, surface.outputs[0], 1400)
    for node in nodes:
        if node.name not in before:
            node[OF_VIEW] = RELIGHTABLE_VIEW
    show(material, RELIGHTABLE_VIEW)


def remove_view(material: bpy.types.Material, view: str) -> None:
    """Remove the nodes that make a view, and the images that nothing else uses."""
    nodes = material.node_tree.nodes
    images = set()
    for node in [node for node in nodes if node.get(OF_VIEW) == view]:
        if node.type == "TEX_IMAGE" and node.image is not None:
            images.add(node.image)
        nodes.remove(node)
    for image in images:
        if not image.users:
            bpy.data.images.remove(image)


def take_over(
    material: bpy.types.Material, new: bpy.types.Material, uncertainty_scale: float | None
) -> None:
    """Make a material, which the user may have changed, fit a new mesh: with the picture of `new`
    (another filled background), and with the view of the uncertainty where the mesh has one."""
    if material.node_tree is None:
        return
    before, after = picture_node(material), picture_node(new)
    if before is not None and after is not None and before.image != after.image:
        old, before.image = before.image, after.image
        if old is not None and not old.users:
            bpy.data.images.remove(old)
    seen = shown(material)
    remove_view(material, UNCERTAINTY_VIEW)
    if uncertainty_scale is not None and UNCERTAINTY_VIEW not in material.node_tree.nodes:
        _view(material, UNCERTAINTY_VIEW, UNCERTAINTY, "magma", uncertainty_scale, -700)
    if views(material):
        show(material, seen if seen in views(material) else views(material)[0])


def views(material: bpy.types.Material | None) -> list[str]:
    """Which of VIEWS a material has."""
    if material is None or material.node_tree is None:
        return []
    return [view for view in VIEWS if view in material.node_tree.nodes]


def shown(material: bpy.types.Material) -> str:
    for view in views(material):
        if material.node_tree.nodes[view].is_active_output:
            return view
    return LIT_VIEW


def show(material: bpy.types.Material, view: str) -> None:
    for name in views(material):
        material.node_tree.nodes[name].is_active_output = name == view


def _unlit(
    material: bpy.types.Material, texture: bpy.types.ShaderNode, surface: bpy.types.ShaderNode
) -> bpy.types.NodeSocket:
    """The picture as it was taken to the camera, the surface to all other rays: as plain emission
    the mesh would be a lamp in Cycles. The glTF exporter knows this wiring as KHR_materials_unlit
    with the picture as its base colour."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    rays = nodes.new("ShaderNodeLightPath")
    rays.location = (-150, 650)
    emission = nodes.new("ShaderNodeEmission")
    emission.location = (50, 200)
    mix = nodes.new("ShaderNodeMixShader")
    mix.location = (250, 300)
    links.new(texture.outputs["Color"], emission.inputs["Color"])
    links.new(rays.outputs["Is Camera Ray"], mix.inputs[0])
    links.new(surface.outputs[0], mix.inputs[1])
    links.new(emission.outputs[0], mix.inputs[2])
    return mix.outputs[0]


def _output(material: bpy.types.Material, view: str, shader: bpy.types.NodeSocket, y: int) -> None:
    output = material.node_tree.nodes.new("ShaderNodeOutputMaterial")
    output.name = output.label = view
    output.location = (500, y)
    material.node_tree.links.new(shader, output.inputs["Surface"])


def _view(
    material: bpy.types.Material,
    view: str,
    attribute: str,
    colormap: str,
    scale: float | None,
    y: int,
) -> None:
    nodes, links = material.node_tree.nodes, material.node_tree.links
    before = {node.name for node in nodes}
    source = nodes.new("ShaderNodeAttribute")
    source.attribute_name = attribute
    source.location = (-600, y)
    value = source.outputs["Fac"]
    if scale is not None:
        scaled = nodes.new("ShaderNodeMath")
        scaled.operation = "DIVIDE"
        scaled.inputs[1].default_value = scale
        scaled.label = "Uncertainty that is white"
        scaled.location = (-400, y)
        links.new(value, scaled.inputs[0])
        value = scaled.outputs[0]
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.location = (-150, y)
    stops = np.linspace(0, 1, 17, dtype=np.float32)
    colours = _to_linear(colorize(stops[None], colormap)[0])
    for k, (place, colour) in enumerate(zip(stops, colours, strict=True)):
        element = ramp.color_ramp.elements[k] if k < 1 else None
        if element is None:
            element = (
                ramp.color_ramp.elements[-1]
                if k == len(stops) - 1
                else ramp.color_ramp.elements.new(float(place))
            )
        element.position = float(place)
        element.color = (*(float(c) for c in colour), 1.0)
    links.new(value, ramp.inputs[0])
    emission = nodes.new("ShaderNodeEmission")
    emission.location = (200, y)
    links.new(ramp.outputs[0], emission.inputs["Color"])
    _output(material, view, emission.outputs[0], y)
    for node in nodes:
        if node.name not in before:
            node[OF_VIEW] = view


def _to_linear(colours: np.ndarray) -> np.ndarray:
    """sRGB uint8 -> linear float, which nodes count in."""
    value = colours.astype(np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
