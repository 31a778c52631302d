"""Skies, suns and lamps for rendered worlds, and how the lights of any scene are varied."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import bpy
import numpy as np
from mathutils import Euler

from .blender_solids import Point


def add_light(kind: str, place: Point, rotation: Point, energy: float, tint: Point) -> Any:
    data = bpy.data.lights.new(kind.lower(), kind)
    data.energy = energy
    data.color = tint
    light = bpy.data.objects.new(kind.lower(), data)
    light.location = place
    light.rotation_euler = Euler(rotation)
    bpy.context.scene.collection.objects.link(light)
    return data


def tint_of(rng: np.random.Generator, warm: float = 0.5) -> tuple[float, float, float]:
    """From candle to overcast."""
    hue = rng.uniform(0.06, 0.12) if rng.random() < warm else rng.uniform(0.55, 0.62)
    return colorsys.hsv_to_rgb(hue, rng.uniform(0, 0.3), 1.0)


def sky(rng: np.random.Generator, indoors: bool = False) -> None:
    """A gradient with clouds, and a sun that may be hidden. It has no depth."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    background = next(n for n in tree.nodes if n.type == "BACKGROUND")
    geometry = tree.nodes.new("ShaderNodeTexCoord")
    split = tree.nodes.new("ShaderNodeSeparateXYZ")
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    tree.links.new(geometry.outputs["Generated"], split.inputs[0])
    tree.links.new(split.outputs["Z"], ramp.inputs[0])
    overcast = rng.random() < 0.4
    saturation = rng.uniform(0.0, 0.15) if overcast else rng.uniform(0.25, 0.75)
    hue = rng.uniform(0.55, 0.64)
    low = colorsys.hsv_to_rgb(float(rng.choice([hue, 0.08])), saturation * 0.4, 1.0)
    high = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(0.4, 0.9))
    ramp.color_ramp.elements[0].color = (*low, 1)
    ramp.color_ramp.elements[1].color = (*high, 1)
    ramp.color_ramp.elements[1].position = rng.uniform(0.3, 0.9)
    source = ramp.outputs[0]
    if rng.random() < 0.7:
        source = clouds(rng, tree, geometry.outputs["Generated"], source)
    tree.links.new(source, background.inputs["Color"])
    background.inputs["Strength"].default_value = rng.uniform(0.4, 1.2)
    # The sun is a lamp: the rest is smooth, and needs no map of where it is bright.
    world.cycles.sampling_method = "NONE"
    if not overcast:
        elevation, azimuth = rng.uniform(0.15, 1.3), rng.uniform(0, 2 * math.pi)
        warmth = 1 - min(1.0, elevation / 0.8)
        tint = (1.0, 1 - 0.35 * warmth, 1 - 0.65 * warmth)
        strength = rng.uniform(1.5, 5) * (2 if indoors else 1)
        sun = add_light("SUN", (0, 0, 50), (math.pi / 2 - elevation, 0, azimuth), strength, tint)
        sun.angle = math.radians(rng.uniform(0.3, 6))


def clouds(rng: np.random.Generator, tree: Any, direction: Any, clear: Any) -> Any:
    mapping = tree.nodes.new("ShaderNodeMapping")
    mapping.inputs["Location"].default_value = rng.uniform(0, 20, 3)
    mapping.inputs["Scale"].default_value = (1, 1, rng.uniform(2, 4))
    noise = tree.nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = rng.uniform(1, 4)
    noise.inputs["Detail"].default_value = 5
    edge = tree.nodes.new("ShaderNodeMapRange")
    edge.inputs["From Min"].default_value = rng.uniform(0.45, 0.6)
    edge.inputs["From Max"].default_value = rng.uniform(0.62, 0.8)
    mix = tree.nodes.new("ShaderNodeMix")
    mix.data_type = "RGBA"
    grey = rng.uniform(0.6, 1.0)
    tree.links.new(direction, mapping.inputs[0])
    tree.links.new(mapping.outputs[0], noise.inputs["Vector"])
    tree.links.new(noise.outputs[0], edge.inputs["Value"])
    tree.links.new(edge.outputs[0], mix.inputs["Factor"])
    colours = [socket for socket in mix.inputs if socket.type == "RGBA"]
    tree.links.new(clear, colours[0])
    colours[1].default_value = (grey, grey, grey, 1)
    return next(socket for socket in mix.outputs if socket.type == "RGBA")


def ceiling_light(
    rng: np.random.Generator, place: Point, size: float, energy: float, warm: float = 0.5
) -> None:
    """A square area light that shines down."""
    lamp = add_light("AREA", place, (0, 0, 0), energy, tint_of(rng, warm))
    lamp.size = size


class LightJitter:
    """Scales every light, and the world, of an opened scene; always from its original values."""

    def __init__(self, scene: bpy.types.Scene) -> None:
        lights = {o.data.name: o.data for o in scene.objects if o.type == "LIGHT"}
        self.lights = [(data, data.energy) for data in lights.values()]
        tree = scene.world.node_tree if scene.world and scene.world.use_nodes else None
        nodes = tree.nodes if tree else ()
        self.strengths = [
            (n.inputs["Strength"], n.inputs["Strength"].default_value)
            for n in nodes
            if n.type == "BACKGROUND"
        ]

    def apply(self, rng: np.random.Generator, stops: float) -> None:
        """Each by a factor of 2^N(0, stops)."""
        for data, energy in self.lights:
            data.energy = energy * 2.0 ** rng.normal(0, stops)
        for socket, strength in self.strengths:
            socket.default_value = strength * 2.0 ** rng.normal(0, stops)
