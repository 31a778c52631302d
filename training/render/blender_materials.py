"""Surfaces for rendered worlds, from Blender's procedural textures alone.

Patterns are looked up by position in the world, so that they have one size in metres everywhere.
Their scale, contrast and colours vary on their own: none of them tells how far a surface is.
"""

from __future__ import annotations

import colorsys
from typing import Any

import bpy
import numpy as np

PATTERNS = ("noise", "voronoi", "wood", "marble", "speckle", "checker", "bricks", "plain")


def colour(
    rng: np.random.Generator,
    hue: tuple[float, float] = (0, 1),
    saturation: tuple[float, float] | None = None,
    value: tuple[float, float] = (0.12, 0.85),
) -> tuple[float, float, float, float]:
    """Linear RGBA; two in three are pale, and most of any hue are browns, as things are."""
    if hue == (0, 1) and rng.random() < 0.6:
        hue = (0.0, 0.15)
    if saturation is None:
        saturation = (0.0, 0.3) if rng.random() < 0.65 else (0.3, 0.85)
    hsv = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    red, green, blue = (c**2.2 for c in colorsys.hsv_to_rgb(*hsv))
    return red, green, blue, 1.0


def new_material(name: str) -> tuple[bpy.types.Material, Any]:
    """A material and its Principled shader."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    shader = tree.nodes.new("ShaderNodeBsdfPrincipled")
    tree.links.new(shader.outputs[0], output.inputs[0])
    return material, shader


def position(tree: Any, rng: np.random.Generator, wall: bool) -> Any:
    """The socket of the position in metres; on walls the flat patterns run along and up."""
    source = tree.nodes.new("ShaderNodeNewGeometry").outputs["Position"]
    if wall:
        split = tree.nodes.new("ShaderNodeSeparateXYZ")
        along = tree.nodes.new("ShaderNodeMath")
        join = tree.nodes.new("ShaderNodeCombineXYZ")
        tree.links.new(source, split.inputs[0])
        tree.links.new(split.outputs[0], along.inputs[0])
        tree.links.new(split.outputs[1], along.inputs[1])
        tree.links.new(along.outputs[0], join.inputs[0])
        tree.links.new(split.outputs[2], join.inputs[1])
        source = join.outputs[0]
    mapping = tree.nodes.new("ShaderNodeMapping")
    mapping.inputs["Location"].default_value = rng.uniform(0, 50, 3)
    if not wall:
        mapping.inputs["Rotation"].default_value = (
            0,
            0,
            rng.choice([0, 1.5708, rng.uniform(0, 3)]),
        )
    tree.links.new(source, mapping.inputs[0])
    return mapping.outputs[0]


def texture(tree: Any, rng: np.random.Generator, pattern: str, size: float, wall: bool) -> Any:
    """The socket of a factor in [0, 1] whose features are about `size` metres."""
    nodes = tree.nodes
    if pattern == "voronoi":
        node, out = nodes.new("ShaderNodeTexVoronoi"), "Distance"
        node.feature = str(rng.choice(["F1", "SMOOTH_F1", "DISTANCE_TO_EDGE"]))
        node.inputs["Scale"].default_value = 1 / size
    elif pattern in ("wood", "marble"):
        node, out = nodes.new("ShaderNodeTexWave"), "Fac"
        node.inputs["Scale"].default_value = 0.3 / size
        node.inputs["Distortion"].default_value = rng.uniform(1, 12 if pattern == "marble" else 4)
        node.inputs["Detail"].default_value = 3
        node.wave_type = "BANDS"
        node.bands_direction = str(rng.choice(["X", "Y", "Z", "DIAGONAL"]))
    elif pattern == "checker":
        node, out = nodes.new("ShaderNodeTexChecker"), "Fac"
        node.inputs["Scale"].default_value = 1 / size
    elif pattern == "bricks":
        node, out = nodes.new("ShaderNodeTexBrick"), "Fac"
        node.inputs["Scale"].default_value = 0.5 / size
        node.inputs["Mortar Size"].default_value = rng.uniform(0.005, 0.03)
    else:
        node, out = nodes.new("ShaderNodeTexNoise"), "Fac"
        node.inputs["Scale"].default_value = (8 if pattern == "speckle" else 1) / size
        node.inputs["Detail"].default_value = rng.uniform(1, 5)
    tree.links.new(position(tree, rng, wall), node.inputs["Vector"])
    return node.outputs[out]


def patterned(
    rng: np.random.Generator,
    pattern: str,
    first: tuple[float, ...],
    second: tuple[float, ...],
    size: float,
    roughness: float = 0.6,
    wall: bool = False,
    bump: float = 0.0,
) -> bpy.types.Material:
    """Two colours mixed by a texture; `bump` shapes the surface's shading with it."""
    material, shader = new_material(pattern)
    shader.inputs["Roughness"].default_value = roughness
    if pattern == "plain":
        shader.inputs["Base Color"].default_value = first
        return material
    tree = material.node_tree
    factor = texture(tree, rng, pattern, size, wall)
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    hard = pattern in ("checker", "bricks")
    low = 0.0 if hard else rng.uniform(0.15, 0.45)
    ramp.color_ramp.elements[0].position = low
    ramp.color_ramp.elements[1].position = 1.0 if hard else rng.uniform(low + 0.05, 0.85)
    ramp.color_ramp.elements[0].color = first
    ramp.color_ramp.elements[1].color = second
    tree.links.new(factor, ramp.inputs[0])
    tree.links.new(ramp.outputs[0], shader.inputs["Base Color"])
    if bump:
        node = tree.nodes.new("ShaderNodeBump")
        node.inputs["Strength"].default_value = bump
        node.inputs["Distance"].default_value = 0.03
        tree.links.new(factor, node.inputs["Height"])
        tree.links.new(node.outputs[0], shader.inputs["Normal"])
    return material


def surface(
    rng: np.random.Generator,
    size: tuple[float, float] = (0.03, 0.4),
    patterns: tuple[str, ...] = PATTERNS,
    wall: bool = False,
    value: tuple[float, float] = (0.12, 0.85),
    saturation: tuple[float, float] | None = None,
) -> bpy.types.Material:
    """Any everyday surface: a pattern of two related colours, or bare metal."""
    first = colour(rng, saturation=saturation, value=value)
    if rng.random() < 0.7:  # a shade of the same colour
        second = (*(np.array(first[:3]) * rng.uniform(0.45, 0.9)), 1.0)
    else:
        second = colour(rng, saturation=saturation, value=value)
    roughness = float(rng.choice([0.15, 0.35, 0.6, 0.9]))
    scale = float(np.exp(rng.uniform(*np.log(size))))
    bump = rng.uniform(0.1, 0.8) if rng.random() < 0.4 else 0.0
    pattern = str(rng.choice(patterns))
    material = patterned(rng, pattern, first, second, scale, roughness, wall, bump)
    if not wall and rng.random() < 0.08:
        shader = next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
        shader.inputs["Metallic"].default_value = 1.0
    return material


def ground(rng: np.random.Generator, kind: str) -> bpy.types.Material:
    """Grass, earth, sand, snow or asphalt."""
    hue, saturation, value = {
        "grass": ((0.18, 0.32), (0.35, 0.75), (0.2, 0.5)),
        "earth": ((0.05, 0.1), (0.25, 0.55), (0.2, 0.5)),
        "sand": ((0.08, 0.13), (0.2, 0.45), (0.5, 0.85)),
        "snow": ((0.5, 0.65), (0.0, 0.08), (0.8, 0.95)),
        "asphalt": ((0.5, 0.7), (0.0, 0.08), (0.15, 0.4)),
    }[kind]
    first, second = (colour(rng, hue, saturation, value) for _ in range(2))
    scale = float(np.exp(rng.uniform(np.log(0.1), np.log(2.5))))
    return patterned(rng, "noise", first, second, scale, 0.9, bump=rng.uniform(0.2, 0.9))


def leaves(rng: np.random.Generator) -> bpy.types.Material:
    autumn = rng.random() < 0.2
    hue = (0.02, 0.14) if autumn else (0.2, 0.36)
    first, second = (colour(rng, hue, (0.4, 0.8), (0.15, 0.55)) for _ in range(2))
    return patterned(rng, "noise", first, second, rng.uniform(0.05, 0.4), 0.7)


def glass(rng: np.random.Generator) -> bpy.types.Material:
    """Refracting: Cycles' depth is that of its first surface, not of what shows through."""
    material, shader = new_material("glass")
    shader.inputs["Base Color"].default_value = colour(rng, saturation=(0, 0.15), value=(0.9, 1))
    shader.inputs["Roughness"].default_value = float(rng.choice([0.0, 0.0, 0.15]))
    shader.inputs["Transmission Weight"].default_value = 1.0
    shader.inputs["IOR"].default_value = 1.45
    return material


def mirror(rng: np.random.Generator) -> bpy.types.Material:
    material, shader = new_material("mirror")
    shader.inputs["Base Color"].default_value = colour(rng, saturation=(0, 0.05), value=(0.9, 1))
    shader.inputs["Metallic"].default_value = 1.0
    shader.inputs["Roughness"].default_value = float(rng.choice([0.0, 0.02, 0.1]))
    return material


def glowing(tint: tuple[float, ...], strength: float) -> bpy.types.Material:
    material, shader = new_material("glow")
    shader.inputs["Emission Color"].default_value = tint
    shader.inputs["Emission Strength"].default_value = strength
    return material
