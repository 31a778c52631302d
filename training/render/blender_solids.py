"""The stage of a rendered world, and the solids that everything on it is made of.

Metres, z up. Solids are closed, so that a ray that meets a back face starts inside one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import bpy
import numpy as np
from mathutils import Matrix, Vector

if TYPE_CHECKING:
    from .blender_models import Model

Point = Sequence[float]
Faces = list[tuple[int, ...]]


class World(NamedTuple):
    """`low`, `high`: the box, in metres, from which cameras look; `targets`: points worth looking
    at; `reach`: how near and how far from its target a camera may stand."""

    kind: str
    low: Point
    high: Point
    targets: list[tuple[float, float, float]]
    reach: tuple[float, float]


class Stage:
    """A scene being furnished. `targets` are points worth looking at; `taken` are the discs
    (x, y, radius) on the ground that things stand on; `models` may be stood on it."""

    def __init__(self, rng: np.random.Generator, models: Sequence[Model] = ()) -> None:
        self.rng, self.models = rng, models
        self.collection = bpy.context.scene.collection
        self.meshes: dict[str, bpy.types.Mesh] = {}
        self.targets: list[tuple[float, float, float]] = []
        self.taken: list[tuple[float, float, float]] = []

    def mesh(
        self, name: str, points: np.ndarray, faces: Faces, smooth: Sequence[bool] | bool
    ) -> bpy.types.Mesh:
        data = bpy.data.meshes.new(name)
        data.from_pydata(np.asarray(points, float).tolist(), [], faces)
        flags = [smooth] * len(faces) if isinstance(smooth, bool) else list(smooth)
        data.polygons.foreach_set("use_smooth", flags)
        data.materials.append(None)
        return data

    def put(
        self,
        mesh: bpy.types.Mesh,
        material: bpy.types.Material,
        centre: Point,
        size: Point = (1, 1, 1),
        rotation: Matrix | float = 0.0,
    ) -> bpy.types.Object:
        """An object of a shared mesh with its own material; `rotation` about z, or a matrix."""
        solid = bpy.data.objects.new(mesh.name, mesh)
        self.collection.objects.link(solid)
        if not isinstance(rotation, Matrix):
            rotation = Matrix.Rotation(rotation, 4, "Z")
        scale = Matrix.Diagonal((*size, 1.0))
        solid.matrix_world = Matrix.Translation(centre) @ rotation.to_4x4() @ scale
        slot = solid.material_slots[0]
        slot.link, slot.material = "OBJECT", material
        return solid

    def shared(self, name: str) -> bpy.types.Mesh:
        if name not in self.meshes:
            self.meshes[name] = self.mesh(name, *SHAPES[name]())
        return self.meshes[name]

    def box(self, material, centre: Point, size: Point, rotation: Matrix | float = 0.0):
        return self.put(self.shared("box"), material, centre, size, rotation)

    def ball(self, material, centre: Point, radius: float | Point, rotation: Matrix | float = 0.0):
        size = [2 * r for r in (radius if isinstance(radius, Sequence) else [radius] * 3)]
        return self.put(self.shared("ball"), material, centre, size, rotation)

    def pillar(self, material, foot: Point, radius: float, height: float, shape: str = "cylinder"):
        centre = (foot[0], foot[1], foot[2] + height / 2)
        return self.put(self.shared(shape), material, centre, (2 * radius, 2 * radius, height))

    def limb(self, material, start: Point, end: Point, radius: float, shape: str = "cylinder"):
        """A cylinder from point to point, with round ends."""
        a, b = Vector(start), Vector(end)
        along = b - a
        turn = Vector((0, 0, 1)).rotation_difference(along).to_matrix().to_4x4()
        size = (2 * radius, 2 * radius, along.length)
        self.put(self.shared(shape), material, (a + b) / 2, size, turn)
        for end_point in (a, b):
            self.ball(material, end_point, radius)

    def rock(self, material, centre: Point, size: Point, variant: int = 0):
        name = f"rock {variant}"
        if name not in self.meshes:
            points, faces, smooth = ball(12, 20)
            shaking = np.random.default_rng(variant)
            waves = shaking.normal(size=(6, 3)) * shaking.uniform(2, 7, (6, 1))
            phase = shaking.uniform(0, 6, 6)
            swell = np.sin(points @ waves.T + phase).mean(1, keepdims=True)
            self.meshes[name] = self.mesh(name, points * (1 + 0.6 * swell), faces, smooth)
        turn = self.rng.uniform(0, 2 * math.pi)
        return self.put(self.meshes[name], material, centre, size, turn)

    def lathe(self, material, foot: Point, height: float, radii: Sequence[float]):
        """A vessel: radii from foot to rim, turned about z; closed at both ends."""
        heights = np.linspace(0, height, len(radii))
        points, faces, smooth = turned(np.stack([np.asarray(radii), heights], 1), 20)
        return self.put(self.mesh("vessel", points, faces, smooth), material, foot)

    def foliage(self, material, centre: Point, size: Point, count: int = 250):
        """A crown of separate leaves: `count` small quads in a unit ball, then scaled."""
        name = f"foliage {count}"
        if name not in self.meshes:
            scatter = np.random.default_rng(count)
            out = scatter.normal(size=(count, 3))
            out *= (scatter.random((count, 1)) ** 0.25 * 0.5) / np.linalg.norm(
                out, axis=1, keepdims=True
            )
            u = scatter.normal(size=(count, 3))
            u *= 0.09 / np.linalg.norm(u, axis=1, keepdims=True)
            v = np.cross(u, scatter.normal(size=(count, 3)))
            v *= 0.05 / np.linalg.norm(v, axis=1, keepdims=True)
            points = np.stack([out - u, out + v, out + u, out - v], 1).reshape(-1, 3)
            faces = [tuple(range(4 * i, 4 * i + 4)) for i in range(count)]
            self.meshes[name] = self.mesh(name, points, faces, False)
        turn = self.rng.uniform(0, 2 * math.pi)
        return self.put(self.meshes[name], material, centre, size, turn)

    def spot(
        self, low: Point, high: Point, radius: float, tries: int = 20
    ) -> tuple[float, float] | None:
        """A free place for a disc on the ground, now taken; None where there is no room."""
        for _ in range(tries):
            x, y = (float(self.rng.uniform(low[k], high[k])) for k in range(2))
            if all(math.hypot(x - a, y - b) > radius + r for a, b, r in self.taken):
                self.taken.append((x, y, radius))
                return x, y
        return None


def box() -> tuple[np.ndarray, Faces, bool]:
    points = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    faces: Faces = [
        (0, 1, 3, 2),
        (4, 6, 7, 5),
        (0, 4, 5, 1),
        (2, 3, 7, 6),
        (0, 2, 6, 4),
        (1, 5, 7, 3),
    ]
    return points, faces, False


def ball(rings: int = 10, segments: int = 20) -> tuple[np.ndarray, Faces, list[bool]]:
    angles = np.linspace(-math.pi / 2, math.pi / 2, rings + 1)
    profile = np.stack([np.cos(angles) * 0.5, np.sin(angles) * 0.5], 1)
    profile[[0, -1], 0] = 1e-4
    points, faces, smooth = turned(profile, segments)
    return points, faces, smooth


def turned(profile: np.ndarray, segments: int) -> tuple[np.ndarray, Faces, list[bool]]:
    """A profile (N, 2) of radius and height, bottom first, turned about z and capped. The caps
    have corners of their own, so that the side's smooth shading does not bend over the rim."""
    turn = np.linspace(0, 2 * math.pi, segments, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    rings = [np.column_stack([circle * r, np.full(segments, z)]) for r, z in profile]
    faces: Faces = []
    for level in range(len(rings) - 1):
        a, b = level * segments, (level + 1) * segments
        for i in range(segments):
            j = (i + 1) % segments
            faces.append((a + i, a + j, b + j, b + i))
    smooth = [True] * len(faces)
    end = len(rings) * segments
    faces += [tuple(range(end + segments - 1, end - 1, -1))]
    faces += [tuple(range(end + segments, end + 2 * segments))]
    points = np.concatenate([*rings, rings[0], rings[-1]])
    return points, faces, [*smooth, False, False]


def cylinder() -> tuple[np.ndarray, Faces, list[bool]]:
    return turned(np.array([(0.5, -0.5), (0.5, 0.5)]), 24)


def cone() -> tuple[np.ndarray, Faces, list[bool]]:
    return turned(np.array([(0.5, -0.5), (0.002, 0.5)]), 20)


def taper() -> tuple[np.ndarray, Faces, list[bool]]:
    return turned(np.array([(0.5, -0.5), (0.3, 0.5)]), 20)


SHAPES: dict[str, Callable[[], tuple[np.ndarray, Faces, Sequence[bool] | bool]]] = {
    "box": box,
    "ball": ball,
    "cylinder": cylinder,
    "cone": cone,
    "taper": taper,
}
