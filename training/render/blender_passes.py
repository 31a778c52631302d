"""Intrinsic images of a render: what surfaces are made of, and the light that falls on them.

Cycles writes light by what sent it to the camera: the picture is the diffuse colour times the
diffuse light, and the rest (reflections, what shines through, what glows, the sky). So
albedo * shading + residual is the picture, pixel by pixel (Ke et al. 2025, arXiv 2505.09358).
Base colour, roughness and metallicity are no light: they are read from the materials' nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bpy
import numpy as np

# Names of a pass in the file, before and from Blender 5.
DIFFUSE_COLOUR = ("DiffCol", "Diffuse Color")
DIFFUSE_LIGHT = (("DiffDir", "Diffuse Direct"), ("DiffInd", "Diffuse Indirect"))
# Of our own passes: the base colour; and roughness, metallicity, and 1 where both are known.
BASE, SURFACE = "rgbd base", "rgbd surface"
# What a half float holds.
BRIGHTEST = 6e4
# Base colour, roughness and metallicity of a shader, by its kind and its sockets' names.
SHADERS: dict[str, tuple[str, str | float, str | float]] = {
    "BSDF_PRINCIPLED": ("Base Color", "Roughness", "Metallic"),
    "BSDF_DIFFUSE": ("Color", 1.0, 0.0),
    "BSDF_TRANSLUCENT": ("Color", 1.0, 0.0),
    "SUBSURFACE_SCATTERING": ("Color", 1.0, 0.0),
    "BSDF_GLOSSY": ("Color", "Roughness", 1.0),
    "BSDF_METALLIC": ("Base Color", "Roughness", 1.0),
    "BSDF_GLASS": ("Color", "Roughness", 0.0),
    "BSDF_REFRACTION": ("Color", "Roughness", 0.0),
}


class Planes:
    """Nodes of a material that compute (base colour, (roughness, metallicity, opacity)).

    Both are vectors multiplied by the opacity, so that mixed shaders are mixed vectors.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.made: list[Any] = []

    def node(self, kind: str, **settings: Any) -> Any:
        node = self.tree.nodes.new(kind)
        for name, value in settings.items():
            setattr(node, name, value)
        self.made.append(node)
        return node

    def math(self, operation: str, *inputs: Any) -> Any:
        return self.filled(self.node("ShaderNodeVectorMath", operation=operation), *inputs)

    def filled(self, node: Any, *inputs: Any) -> Any:
        """The first output of a node whose first inputs are these sockets or values."""
        for socket, value in zip(node.inputs, inputs, strict=False):
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, socket)
            elif hasattr(socket.default_value, "__len__") and not hasattr(value, "__len__"):
                socket.default_value = [value] * len(socket.default_value)
            elif hasattr(socket.default_value, "__len__"):
                socket.default_value = list(value)[: len(socket.default_value)]
            else:
                socket.default_value = value
        return node.outputs[0]

    def value(self, shader: Any, source: str | float) -> Any:
        """What an input of a shader is linked to, else its value."""
        if isinstance(source, float):
            return source
        socket = shader.inputs[source]
        return socket.links[0].from_socket if socket.is_linked else socket.default_value

    def of(self, socket: Any) -> tuple[Any, Any] | None:
        """The two vectors of the shader that is linked to an input; None where it is no surface,
        or one that is not known."""
        while socket.is_linked and socket.links[0].from_node.type == "REROUTE":
            socket = socket.links[0].from_node.inputs[0]
        if not socket.is_linked:
            return None
        shader = socket.links[0].from_node
        if shader.type == "MIX_SHADER":
            first, second = (self.of(s) or ((0, 0, 0), (0, 0, 0)) for s in shader.inputs[1:3])
            share = self.value(shader, shader.inputs[0].name)
            return tuple(  # type: ignore[return-value]
                self.math("MULTIPLY_ADD", self.math("SUBTRACT", b, a), share, a)
                for a, b in zip(first, second, strict=True)
            )
        if shader.type == "ADD_SHADER":
            known = [found for s in shader.inputs[:2] if (found := self.of(s))]
            if len(known) < 2:
                return known[0] if known else None
            return tuple(self.math("ADD", a, b) for a, b in zip(*known, strict=True))  # type: ignore[return-value]
        if shader.type not in SHADERS:
            return None
        colour, roughness, metallicity = (self.value(shader, s) for s in SHADERS[shader.type])
        opaque = self.value(shader, "Alpha") if "Alpha" in shader.inputs else 1.0
        facts = self.filled(self.node("ShaderNodeCombineXYZ"), roughness, metallicity, 1.0)
        return self.math("MULTIPLY", colour, opaque), self.math("MULTIPLY", facts, opaque)

    def write(self) -> None:
        """Send them to our passes, where the surface is more than half opaque."""
        output = self.tree.get_output_node("CYCLES")
        found = self.of(output.inputs["Surface"]) if output else None
        if found is None:
            return
        split = self.node("ShaderNodeSeparateXYZ")
        self.tree.links.new(found[1], split.inputs[0])
        opaque = split.outputs[2]
        solid = self.filled(self.node("ShaderNodeMath", operation="GREATER_THAN"), opaque, 0.5)
        for name, vector in zip((BASE, SURFACE), found, strict=True):
            whole = self.math("MULTIPLY", self.math("DIVIDE", vector, opaque), solid)
            self.tree.links.new(whole, self.node("ShaderNodeOutputAOV", aov_name=name).inputs[0])

    def remove(self) -> None:
        for node in self.made:
            self.tree.nodes.remove(node)


@contextmanager
def asked_for(scene: bpy.types.Scene, denoised: bool) -> Iterator[None]:
    """Inside the block a render writes what `intrinsic_images` reads; the materials are as they
    were afterwards. denoised: the diffuse light is, as the picture is, in the compositor."""
    layer = bpy.context.view_layer
    switches = ("use_pass_diffuse_color", "use_pass_diffuse_direct", "use_pass_diffuse_indirect")
    for name in (BASE, SURFACE):
        if name not in layer.aovs:
            layer.aovs.add().name = name
    slots = (slot for thing in scene.objects for slot in thing.material_slots)
    materials = dict.fromkeys(slot.material for slot in slots if slot.material)
    planes = [Planes(m.node_tree) for m in materials if m.use_nodes and m.library is None]
    try:
        for switch in switches:
            setattr(layer, switch, True)
        for plane in planes:
            plane.write()
        if denoised:
            denoise_light(scene)
        scene.render.use_compositing = denoised
        yield
    finally:
        scene.render.use_compositing = False
        for plane in planes:
            plane.remove()
        for switch in switches:
            setattr(layer, switch, False)
        for name in (BASE, SURFACE):
            layer.aovs.remove(layer.aovs[name])


def denoise_light(scene: bpy.types.Scene) -> None:
    """Make the compositor's picture the denoised diffuse light.

    The scene's own compositing goes: it could write files, and the scene is not saved.
    """
    if hasattr(scene, "compositing_node_group"):  # Blender 5
        tree = scene.compositing_node_group
        if tree is None:
            tree = bpy.data.node_groups.new("RGB-D", "CompositorNodeTree")
            scene.compositing_node_group = tree
        tree.nodes.clear()
        tree.interface.clear()
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        output = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        output = tree.nodes.new("CompositorNodeComposite")
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene, layers.layer = scene, bpy.context.view_layer.name

    def of_layer(names: tuple[str, ...]) -> Any:
        return next(socket for socket in layers.outputs if socket.name in names)

    light = tree.nodes.new("ShaderNodeMix" if hasattr(scene, "compositing_node_group")
                           else "CompositorNodeMixRGB")  # fmt: skip
    light.blend_type = "ADD"
    if hasattr(light, "data_type"):
        light.data_type = "RGBA"
    factors = [socket for socket in light.inputs if socket.name in ("Fac", "Factor")]
    colours = [socket for socket in light.inputs if socket.type == "RGBA"]
    factors[0].default_value = 1.0
    for socket, names in zip(colours, DIFFUSE_LIGHT, strict=True):
        tree.links.new(of_layer(names), socket)
    denoise = tree.nodes.new("CompositorNodeDenoise")
    for option, value in (("prefilter", "NONE"), ("quality", "FAST")):  # as the picture's
        if hasattr(denoise, option):
            setattr(denoise, option, value)
        elif option.title() in denoise.inputs:  # Blender 5; 4.2 has no quality
            denoise.inputs[option.title()].default_value = value.title()
    mixed = next(socket for socket in light.outputs if socket.type == "RGBA")
    for source, name in (
        (mixed, "Image"), (of_layer(("Normal",)), "Normal"), (denoise.outputs[0], ""),
    ):  # fmt: skip
        tree.links.new(source, denoise.inputs[name] if name else output.inputs[0])


def intrinsic_images(
    channels: dict[str, np.ndarray], radiance: np.ndarray
) -> dict[str, np.ndarray]:
    """The maps of a render inside `asked_for`, float16, (H, W, 3) or (H, W), in linear light.

    channels: of the file, see `blender_render.render_exr`. radiance: the picture (H, W, 3).

    albedo: diffuse reflectance; 0 for metal and glass. shading: diffuse light; 0 where albedo is.
    residual: what is left of the radiance, so that albedo * shading + residual is the picture to
    half a float16's last digit; where denoising did not agree, a little below 0. base_colour: of
    the material, which a metal has too. roughness, metallicity: in [0, 1]; 1 and 0 for materials
    whose shader is not known, which have the albedo as their base colour.
    """

    def plane(names: tuple[str, ...]) -> np.ndarray:
        name = next(name for name in names if f"{name}.R" in channels)
        return np.stack([channels[f"{name}.{axis}"] for axis in "RGB"], axis=2)

    def half(values: np.ndarray) -> np.ndarray:
        return np.nan_to_num(values).clip(-BRIGHTEST, BRIGHTEST).astype(np.float16)

    albedo = half(plane(DIFFUSE_COLOUR).clip(0))
    light = plane(("Composite",)) if "Composite.R" in channels else sum(map(plane, DIFFUSE_LIGHT))
    shading = half(np.asarray(light).clip(0) * (albedo.max(2, keepdims=True) > 0))
    left = radiance - albedo.astype(np.float32) * shading.astype(np.float32)
    surface, base = plane((SURFACE,)), plane((BASE,))
    share = surface[..., 2]
    known = share > 0.5
    share = np.where(known, share, 1)
    return {
        "albedo": albedo,
        "shading": shading,
        "residual": half(left),
        "base_colour": half(np.where(known[..., None], base / share[..., None], albedo)),
        "roughness": half(np.where(known, surface[..., 0] / share, 1).clip(0, 1)),
        "metallicity": half(np.where(known, surface[..., 1] / share, 0).clip(0, 1)),
    }
