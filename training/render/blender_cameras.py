"""Where a camera can stand in a scene and what it should look at, found by ray casts.

Positions come from random walks through free space that stop short of every wall; of several
views the one that shows the most depth and the most things is taken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Euler, Matrix, Vector

from .blender_solids import World

SENSOR_MM = 36.0
# A view is judged by rays through so many columns and rows.
GRID = (11, 9)
DIRECTIONS = [
    Vector((x, y, z)).normalized()
    for x in (-1, 0, 1)
    for y in (-1, 0, 1)
    for z in (-1, 0, 1)
    if (x, y, z) != (0, 0, 0)
]


class View(NamedTuple):
    """`matrix` takes Blender's camera axes to the world; `lens` in mm across the longer side of a
    36 mm sensor; the picture is width x height pixels."""

    matrix: Matrix
    lens: float
    width: int
    height: int

    def intrinsics(self) -> list[float]:
        """fx, fy, cx, cy in pixels; the centre of the first pixel is at 0.5."""
        focal = self.lens / SENSOR_MM * max(self.width, self.height)
        return [focal, focal, self.width / 2, self.height / 2]

    def ray(self, x: float, y: float) -> Vector:
        """The world direction through pixel coordinates (x, y); its depth along the axis is 1."""
        fx, fy, cx, cy = self.intrinsics()
        return self.matrix.to_3x3() @ Vector(((x - cx) / fx, (cy - y) / fy, -1))


class Lenses(NamedTuple):
    """Focal lengths (shortest, longest) in mm, aspect ratios width / height, and the longer side
    in pixels."""

    focal: tuple[float, float]
    aspects: list[float]
    size: int

    def draw(self, rng: np.random.Generator) -> tuple[float, int, int]:
        lens = float(np.exp(rng.uniform(*np.log(self.focal))))
        aspect = self.aspects[rng.integers(len(self.aspects))]
        # Multiples of 8: what a VAE divides by.
        short = max(8, round(self.size * min(aspect, 1 / aspect) / 8) * 8)
        return (lens, self.size, short) if aspect >= 1 else (lens, short, self.size)


class FreeSpace:
    """Ray casts in a scene as it is now. `clearance`: what stays free around a camera."""

    def __init__(self, scene: bpy.types.Scene, clearance: float) -> None:
        self.scene, self.clearance = scene, clearance
        self.graph = bpy.context.evaluated_depsgraph_get()

    def cast(self, origin: Vector, direction: Vector) -> tuple[float, bool, str]:
        """Distance in lengths of `direction` (inf: nothing), whether the face's back was met, and
        the object's name."""
        length = direction.length
        hit, place, normal, _, thing, _ = self.scene.ray_cast(
            self.graph, origin, direction / length
        )
        if not hit:
            return math.inf, False, ""
        return (place - origin).length / length, normal.dot(direction) > 0, thing.name

    def fits(self, point: Vector) -> bool:
        """Nothing within the clearance, and not inside a solid (rays would meet its back)."""
        hits = [self.cast(point, direction) for direction in DIRECTIONS]
        if min(distance for distance, _, _ in hits) < self.clearance:
            return False
        met = [back for distance, back, _ in hits if distance < math.inf]
        return bool(met) and sum(met) <= 0.2 * len(met)

    def walk(self, start: Vector, world: World, rng: np.random.Generator, steps: int) -> Vector:
        """A random walk that keeps its distance from everything and stays in the world's box."""
        here, stride = start, (Vector(world.high) - Vector(world.low)).length / 4
        for _ in range(steps):
            heading, climb = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.2)
            direction = Vector((math.cos(heading), math.sin(heading), climb)).normalized()
            room = self.cast(here, direction)[0] - self.clearance
            there = here + direction * min(room, rng.uniform(0, stride))
            inside = all(a <= p <= b for a, p, b in zip(world.low, there, world.high, strict=True))
            if room > 0 and inside and self.fits(there):
                here = there
        return here

    def score(self, view: View) -> float:
        """How much a view shows: its range of depths, its things; a wall in front is worth little,
        as is empty sky."""
        origin, (columns, rows) = view.matrix.translation, GRID
        depths, names = [], set()
        for i in range(columns):
            for j in range(rows):
                x, y = (i + 0.5) / columns * view.width, (j + 0.5) / rows * view.height
                depth, back, name = self.cast(origin, view.ray(x, y))
                if depth < self.clearance / 2 or back and depth < 2 * self.clearance:
                    return -math.inf
                if depth < math.inf:
                    depths.append(depth)
                    names.add(name)
        share = len(depths) / (columns * rows)
        if share < 0.2:
            return -math.inf
        near, far = np.percentile(depths, (5, 95))
        close = np.mean(np.array(depths) < 3 * self.clearance)
        return (
            min(1.0, math.log(far / near) / 1.5)
            + 0.7 * min(1.0, len(names) / 12)
            + 0.4 * min(1.0, share / 0.7)
            - 1.5 * max(0.0, float(close) - 0.15)
        )


def scene_box(scene: bpy.types.Scene) -> World:
    """The box, targets and distances of an opened scene: of what is rendered, without the few
    things that dwarf the rest (domes, ground planes)."""
    boxes = []
    for instance in bpy.context.evaluated_depsgraph_get().object_instances:
        thing = instance.object
        if thing.type in {"MESH", "CURVE", "SURFACE", "FONT", "META"} and instance.show_self:
            corners = [instance.matrix_world @ Vector(c) for c in thing.bound_box]
            boxes.append(np.array(corners))
    if not boxes:
        raise ValueError("the scene has nothing in it that can be rendered")
    spans = np.array([np.linalg.norm(np.ptp(b, axis=0)) for b in boxes])
    kept = [b for b, s in zip(boxes, spans, strict=True) if s <= 10 * np.quantile(spans, 0.75)]
    points = np.concatenate(kept)
    low, high = points.min(0), points.max(0)
    # One thing alone is looked at from around it.
    margin = 0.0 if len(kept) > 3 else float(np.linalg.norm(high - low))
    low, high = low - margin, high + np.array([margin, margin, max(margin, 0.5)])
    size = float(np.linalg.norm(high - low))
    targets = [tuple(b.mean(0)) for b in kept[:: max(1, len(kept) // 300)]]
    return World("scene", low.tolist(), high.tolist(), targets, (0.03 * size, 0.7 * size))


def starts(scene: bpy.types.Scene, world: World) -> list[Vector]:
    """The scene's own cameras stand in free space; a procedural world has none."""
    cameras = [o.matrix_world.translation.copy() for o in scene.objects if o.type == "CAMERA"]
    return cameras if world.kind == "scene" else []


def look(origin: Vector, forward: Vector, roll: float) -> Matrix:
    turn = forward.to_track_quat("-Z", "Y").to_matrix() @ Euler((0, 0, roll)).to_matrix()
    return Matrix.Translation(origin) @ turn.to_4x4()


def draw_view(
    space: FreeSpace,
    world: World,
    hints: list[Vector],
    lenses: Lenses,
    rng: np.random.Generator,
    candidates: int = 6,
) -> View | None:
    """The best of some views, drawn from the generator; None where no camera fits."""
    lens, width, height = lenses.draw(rng)
    best, best_score = None, -math.inf
    for _ in range(40 * candidates):
        if candidates == 0:
            break
        if hints and rng.random() < 0.7:
            point = hints[rng.integers(len(hints))]
        else:
            point = Vector([rng.uniform(a, b) for a, b in zip(world.low, world.high, strict=True)])
        if not space.fits(point):
            continue
        point = space.walk(point, world, rng, 3)
        forward = heading(space, world, point, rng)
        if forward is None:
            continue
        candidates -= 1
        view = View(look(point, forward, rng.normal(0, 0.03)), lens, width, height)
        score = space.score(view) + rng.uniform(0, 0.4)
        if score > best_score:
            best, best_score = view, score
    return best


def heading(
    space: FreeSpace, world: World, point: Vector, rng: np.random.Generator
) -> Vector | None:
    """Towards a target that is in reach and in sight; sometimes just ahead."""
    if not world.targets or rng.random() < 0.15:
        turn = rng.uniform(0, 2 * math.pi)
        return Vector((math.cos(turn), math.sin(turn), math.tan(rng.normal(-0.08, 0.12))))
    for _ in range(6):
        forward = Vector(world.targets[rng.integers(len(world.targets))]) - point
        near, far = world.reach
        # Not straight up or down.
        if near <= forward.length <= far and abs(forward.z) < 0.85 * forward.length:
            if space.cast(point, forward)[0] > 0.6:
                return forward + Vector(rng.normal(0, 0.08, 3)) * forward.length
    return None
