"""Environment maps and photographed textures from folders, put into any scene.

Both replace what a scene has, so that they serve procedural worlds and opened files alike. Files
are read by Blender itself; a folder is listed by name, so that a sample depends on its files alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import bpy
import numpy as np

MAPS = (".exr", ".hdr")
SAMPLING_RESOLUTION = 256
WORLD = "RGB-D environment"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")


def files_in(folder: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of those kinds in a folder and below it, by name; none for "".

    Raises ValueError where the folder has none.
    """
    if not folder:
        return []
    found = sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in suffixes)
    if not found:
        raise ValueError(f"{folder} has no file of {', '.join(suffixes)}")
    return found


def pick(files: list[Path], rng: np.random.Generator) -> str:
    return str(files[rng.integers(len(files))])


def load_image(file: str) -> bpy.types.Image:
    return bpy.data.images.load(file, check_existing=True)


class EnvironmentLight:
    """Lights a scene by an equirectangular map in place of its world, and takes the suns of
    procedural worlds away, as the map has its own."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def apply(self, scene: bpy.types.Scene, rng: np.random.Generator, stops: float) -> None:
        """A map of the folder, turned anywhere, its strength off by N(0, stops)."""
        before = bpy.data.worlds.get(WORLD)
        if before is not None:
            bpy.data.worlds.remove(before)
        world = bpy.data.worlds.new(WORLD)
        scene.world = world
        world.use_nodes = True
        tree = world.node_tree
        background = next(n for n in tree.nodes if n.type == "BACKGROUND")
        image = tree.nodes.new("ShaderNodeTexEnvironment")
        image.image = load_image(pick(self.files, rng))
        mapping = tree.nodes.new("ShaderNodeMapping")
        mapping.inputs["Rotation"].default_value = (0, 0, rng.uniform(0, 2 * math.pi))
        coordinates = tree.nodes.new("ShaderNodeTexCoord")
        tree.links.new(coordinates.outputs["Generated"], mapping.inputs[0])
        tree.links.new(mapping.outputs[0], image.inputs[0])
        tree.links.new(image.outputs[0], background.inputs["Color"])
        background.inputs["Strength"].default_value = 2.0 ** rng.normal(0, stops)
        # Where the map is bright is found on a small one: on its own, that takes longer than both
        # renders together.
        world.cycles.sampling_method = "MANUAL"
        world.cycles.sample_map_resolution = SAMPLING_RESOLUTION


def remove_suns(scene: bpy.types.Scene) -> None:
    for sun in [o for o in scene.objects if o.type == "LIGHT" and o.data.type == "SUN"]:
        bpy.data.objects.remove(sun)


class Textures:
    """Covers surfaces with pictures, projected from six sides at one size in metres. `restore`
    gives every material the colour that it had."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.changed: list[tuple[Any, list[Any], Any]] = []

    def apply(self, scene: bpy.types.Scene, rng: np.random.Generator, share: float) -> None:
        """About `share` of the scene's opaque, matt materials."""
        metre = 1 / scene.unit_settings.scale_length
        for material in materials_of(scene):
            shader = matt_shader(material)
            if shader is None or rng.random() >= share:
                continue
            tree, socket = material.node_tree, shader.inputs["Base Color"]
            source = socket.links[0].from_socket if socket.is_linked else None
            size = math.exp(rng.uniform(math.log(0.25), math.log(2.5))) * metre
            nodes = [tree.nodes.new(f"ShaderNode{kind}") for kind in
                     ("NewGeometry", "Mapping", "TexImage", "HueSaturation")]  # fmt: skip
            geometry, mapping, image, tint = nodes
            mapping.inputs["Scale"].default_value = (1 / size,) * 3
            mapping.inputs["Location"].default_value = rng.uniform(0, 1, 3)
            mapping.inputs["Rotation"].default_value = (0, 0, math.pi / 2 * rng.integers(4))
            image.image = load_image(pick(self.files, rng))
            image.projection, image.projection_blend = "BOX", 0.1
            tint.inputs["Hue"].default_value = rng.normal(0.5, 0.03)
            tint.inputs["Saturation"].default_value = rng.uniform(0.4, 1.2)
            tint.inputs["Value"].default_value = rng.uniform(0.6, 1.2)
            tree.links.new(geometry.outputs["Position"], mapping.inputs[0])
            tree.links.new(mapping.outputs[0], image.inputs[0])
            tree.links.new(image.outputs["Color"], tint.inputs["Color"])
            tree.links.new(tint.outputs[0], socket)
            self.changed.append((material, nodes, source))

    def restore(self) -> None:
        for material, nodes, source in self.changed:
            for node in nodes:
                material.node_tree.nodes.remove(node)
            if source is not None:
                shader = matt_shader(material)
                assert shader is not None
                material.node_tree.links.new(source, shader.inputs["Base Color"])
        self.changed = []


def materials_of(scene: bpy.types.Scene) -> list[Any]:
    """Each material that the scene's objects show, once, in the order of the objects."""
    slots = (slot for thing in scene.objects for slot in thing.material_slots)
    return list(dict.fromkeys(s.material for s in slots if s.material))


def matt_shader(material: bpy.types.Material) -> Any:
    """The Principled shader of a material that a picture can cover; None for glass, metal, light
    and other shaders."""
    if not material.use_nodes or material.library is not None:
        return None
    shader = next((n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"), None)
    if shader is None:
        return None
    value = {name: socket.default_value for name, socket in shader.inputs.items()}
    glow = value["Emission Strength"] * max(value["Emission Color"][:3])
    return None if max(value["Transmission Weight"], value["Metallic"], glow) > 0.5 else shader
