"""Procedural worlds to render: rooms, corridors, streets, terrain, table tops and people, and
rooms and desks furnished with models.

    world = build_world("room", numpy.random.default_rng([seed, index]))

replaces what Blender has open. Everything is drawn from the generator, so that a world is a
function of its state alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import bpy
import numpy as np

from . import blender_props as props
from .blender_furnished import KINDS as FURNISHED
from .blender_lights import sky
from .blender_materials import colour, ground, mirror, patterned, surface
from .blender_models import Model
from .blender_rooms import corridor, lights, line_walls, room, shell
from .blender_solids import Faces, Point, Stage, World


def build_world(kind: str, rng: np.random.Generator, models: Sequence[Model] = ()) -> World:
    """An empty file with one world of that kind in it; some kinds are furnished with the models."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    return KINDS[kind](Stage(rng, models))


def table_top(stage: Stage) -> World:
    """Things on a table, from near; behind them a room or the open."""
    rng = stage.rng
    inside = rng.random() < 0.75
    width, depth, height = rng.uniform(2.8, 5), rng.uniform(2.8, 5), rng.uniform(2.4, 3)
    if inside:
        shell(stage, width, depth, height, 0.3)
        line_walls(stage, width, depth, height, 0.5)
        lights(stage, width, depth, height)
    else:
        soil = ground(rng, str(rng.choice(["grass", "sand", "asphalt"])))
        stage.box(soil, (0, 0, -0.5), (400, 400, 1))
        scatter(stage, (-25, -25), (25, 25), 14, flat, clear=4.0)
    size = rng.uniform(0.8, 1.6), rng.uniform(0.7, 1.2), rng.uniform(0.6, 0.95)
    x, y = width / 2, depth / 2
    props.table(stage, (x, y, 0), 0.0, size)
    stage.taken.clear()
    half = (size[0] / 2 - 0.08, size[1] / 2 - 0.08)
    for _ in range(rng.integers(5, 18)):
        thing = rng.uniform(0.05, 0.2)
        place = stage.spot((x - half[0], y - half[1]), (x + half[0], y + half[1]), thing * 0.6)
        if place:
            props.clutter(stage, (*place, size[2]), thing)
    stage.targets = [(x + rng.uniform(-0.25, 0.25), y + rng.uniform(-0.2, 0.2), size[2] + 0.06)]
    sky(rng, indoors=inside)
    low = (x - 1.3, y - 1.3, size[2] + 0.1)
    return World("table_top", low, (x + 1.3, y + 1.3, size[2] + 0.9), stage.targets, (0.45, 1.6))


def scatter(
    stage: Stage, low: Point, high: Point, count: int, height_at, clear: float = 0.0
) -> None:
    """Trees, bushes and rocks on the ground, none within `clear` of the origin."""
    rng = stage.rng
    for _ in range(count):
        kind = rng.random()
        place = stage.spot(low, high, 0.5 if kind > 0.5 else 1.2)
        if not place or math.hypot(*place) < clear:
            continue
        x, y = place
        foot = (x, y, height_at(x, y) - 0.05)
        if kind < 0.5:
            props.tree(stage, foot, float(np.exp(rng.uniform(np.log(2), np.log(14)))))
        elif kind < 0.75:
            s = rng.uniform(0.4, 1.8)
            stage.foliage(props.leaves(rng), (x, y, foot[2] + s * 0.35), (s, s, s * 0.9), 250)
        else:
            s = np.exp(rng.uniform(np.log(0.2), np.log(2.2))) * rng.uniform(0.6, 1.2, 3)
            stone = surface(rng, (0.05, 0.6), ("noise", "voronoi"))
            middle = (x, y, foot[2] + s[2] * 0.2)
            stage.rock(stone, middle, s.tolist(), int(rng.integers(4)))
            stage.targets.append((x, y, foot[2] + 0.5))


def flat(x: float, y: float) -> float:
    return 0.0


def street(stage: Stage) -> World:
    """Houses on both sides along y, pavements, cars, lamps, trees and people."""
    rng = stage.rng
    road, walk, length = rng.uniform(5, 9), rng.uniform(1.5, 4), rng.uniform(40, 120)
    stage.box(ground(rng, "asphalt"), (0, length / 2, -0.5), (600, 600, 1))
    paving = surface(rng, (0.1, 0.8), ("bricks", "checker", "noise", "speckle"))
    line = patterned(rng, "plain", (0.8, 0.8, 0.75, 1), (), 1.0)
    for y in np.arange(0, length, 5):
        stage.box(line, (0, y, 0.004), (0.15, 2.5, 0.008))
    for side in (-1, 1):
        stage.box(paving, (side * (road + walk) / 2, length / 2, 0.06), (walk, length + 20, 0.12))
        y = -8.0
        while y < length:
            wide = rng.uniform(6, 16)
            if rng.random() < 0.88:
                house(stage, side, road / 2 + walk, y, wide)
            y += wide + (rng.uniform(1, 6) if rng.random() < 0.3 else 0.0)
        edge = side * (road / 2 + 0.4)
        for y in np.arange(rng.uniform(0, 8), length, rng.uniform(7, 16)):
            if rng.random() < 0.5:
                props.tree(stage, (edge, y, 0.1), rng.uniform(3, 7))
            else:
                lamp = surface(rng, patterns=("plain",))
                stage.limb(lamp, (edge, y, 0), (edge, y, 5), 0.06)
                stage.limb(lamp, (edge, y, 5), (edge - side * 1.2, y, 5.2), 0.04)
        for y in np.arange(rng.uniform(0, 6), length, 6):
            if rng.random() < 0.45:
                props.car(stage, (side * (road / 2 - 1.2), y, 0), math.pi * (rng.random() < 0.5))
                stage.targets.append((side * (road / 2 - 1.2), y, 0.8))
    for _ in range(rng.integers(2, 10)):
        side, y = rng.choice([-1, 1]), rng.uniform(2, length * 0.6)
        foot = (side * (road / 2 + rng.uniform(0.6, walk - 0.3)), y, 0.12)
        props.person(stage, foot, rng.uniform(0, 2 * math.pi))
    for _ in range(8):
        stage.targets.append((rng.uniform(-5, 5), rng.uniform(4, length), rng.uniform(0.5, 4)))
    sky(rng)
    low = (-road / 2 - walk + 0.5, -4, 0.7)
    return World("street", low, (road / 2 + walk - 0.5, length * 0.6, 3.5), stage.targets, (3, 45))


def house(stage: Stage, side: int, inner: float, y: float, wide: float) -> None:
    """A front with windows and a door; a flat roof, or a pitched one of two slabs."""
    rng, deep, storey = stage.rng, stage.rng.uniform(6, 12), stage.rng.uniform(2.8, 3.6)
    floors = int(rng.integers(1, 7))
    height = floors * storey + 0.5
    x = side * (inner + deep / 2)
    walls = ("bricks", "noise", "plain", "checker", "speckle")
    stage.box(surface(rng, (0.08, 0.6), walls, True), (x, y + wide / 2, height / 2),
              (deep, wide, height))  # fmt: skip
    frame, pane = surface(rng, patterns=("plain",)), mirror(rng) if rng.random() < 0.5 else None
    pane = pane or patterned(rng, "plain", (0.02, 0.025, 0.03, 1), (), 1.0, 0.1)
    columns = max(2, round(wide / rng.uniform(1.8, 3.2)))
    w, h, face = wide / columns * rng.uniform(0.4, 0.75), rng.uniform(1.1, 2.0), side * inner
    door = int(rng.integers(columns))
    for i in range(columns):
        for floor in range(floors):
            cy, cz = y + (i + 0.5) * wide / columns, 0.4 + floor * storey + storey / 2
            if floor == 0 and i == door:
                stage.box(surface(rng), (face - side * 0.02, cy, 1.1), (0.1, 1.1, 2.2))
                continue
            stage.box(frame, (face, cy, cz), (0.16, w + 0.16, h + 0.16))
            stage.box(pane, (face - side * 0.06, cy, cz), (0.08, w, h))
            if floor and rng.random() < 0.08:
                stage.box(frame, (face - side * 0.6, cy, cz - h / 2), (1.2, w + 0.8, 0.15))
                stage.box(frame, (face - side * 1.17, cy, cz - h / 2 + 0.5), (0.06, w + 0.8, 0.9))
    roof = surface(rng, (0.1, 0.5), ("bricks", "wood", "noise"))
    stage.box(roof, (x - side * 0.1, y + wide / 2, height + 0.15), (deep + 0.5, wide, 0.35))
    if floors < 4 and rng.random() < 0.6:
        rise = deep * rng.uniform(0.25, 0.5)
        points = [(a, b, 0) for a in (-0.5, 0.5) for b in (-0.5, 0.5)]
        ridge = [(0, -0.5, 1), (0, 0.5, 1)]
        faces = [(0, 1, 3, 2), (0, 4, 5, 1), (2, 3, 5, 4), (0, 2, 4), (1, 5, 3)]
        prism = stage.mesh("roof", np.array(points + ridge), faces, False)
        stage.put(prism, roof, (x, y + wide / 2, height + 0.3), (deep + 0.6, wide, rise))


def hills(rng: np.random.Generator, relief: float) -> Callable[[float, float], float]:
    """A height field z(x, y), metres: a sum of waves, the longer the higher."""
    waves = np.exp(rng.uniform(np.log(4), np.log(120), 14))
    angles, phases = rng.uniform(0, 2 * math.pi, (2, 14))
    kx, ky = 2 * math.pi * np.cos(angles) / waves, 2 * math.pi * np.sin(angles) / waves

    def height(x: float, y: float) -> float:
        return float(np.sum(relief * waves * np.sin(kx * x + ky * y + phases)))

    return height


def terrain(stage: Stage) -> World:
    """Hills under trees, bushes and rocks; now and then water, a hut, a fence and people."""
    rng = stage.rng
    height = hills(rng, float(np.exp(rng.uniform(np.log(0.002), np.log(0.016)))))
    # Finer near the middle, where the camera is.
    line = np.linspace(-1, 1, 141)
    line = 250 * np.sign(line) * np.abs(line) ** 2.5
    points = np.array([(x, y, height(x, y)) for y in line for x in line])
    count = len(line)
    faces: Faces = [
        (j * count + i, j * count + i + 1, (j + 1) * count + i + 1, (j + 1) * count + i)
        for j in range(count - 1)
        for i in range(count - 1)
    ]
    kind = str(rng.choice(["grass", "grass", "earth", "sand", "snow"]))
    stage.put(stage.mesh("terrain", points, faces, True), ground(rng, kind), (0, 0, 0))
    if rng.random() < 0.2:
        level = float(np.quantile(points[:, 2], rng.uniform(0.1, 0.35)))
        water = patterned(
            rng, "plain", colour(rng, (0.5, 0.6), (0.3, 0.7), (0.1, 0.4)), (), 1, 0.08
        )
        stage.box(water, (0, 0, level - 5), (500, 500, 10))
    scatter(stage, (-12, -12), (12, 12), int(rng.integers(5, 30)), height, clear=1.5)
    scatter(stage, (-70, -70), (70, 70), int(rng.integers(15, 110)), height, clear=6)
    tuft = props.leaves(rng)
    for _ in range(rng.integers(0, 80)):
        x, y = rng.normal(0, 7, 2)
        stage.foliage(tuft, (x, y, height(x, y) + 0.1), rng.uniform(0.3, 0.7, 3).tolist(), 40)
    if rng.random() < 0.4:
        y = rng.uniform(5, 12)
        wood = surface(rng, (0.02, 0.2), ("wood", "noise"))
        for x in np.arange(-15, 15, 2.0):
            a, b = (x, y, height(x, y)), (x + 2, y, height(x + 2, y))
            stage.limb(wood, (*a[:2], a[2] - 0.2), (*a[:2], a[2] + 1.1), 0.06)
            for rail in (0.5, 0.95):
                stage.limb(wood, (*a[:2], a[2] + rail), (*b[:2], b[2] + rail), 0.035)
    for _ in range(rng.integers(0, 4)):
        place = stage.spot((-10, -10), (10, 10), 0.4)
        if place:
            props.person(stage, (*place, height(*place)), rng.uniform(0, 2 * math.pi))
    for _ in range(8):
        x, y = rng.uniform(-40, 40, 2)
        stage.targets.append((x, y, height(x, y) + rng.uniform(0.5, 2)))
    sky(rng)
    middle = height(0, 0)
    low = (-10, -10, middle - 3)
    return World("terrain", low, (10, 10, middle + 6), stage.targets, (3, 60))


def people(stage: Stage) -> World:
    """One to six persons from near, in a room or in the open."""
    rng = stage.rng
    inside = rng.random() < 0.5
    width, depth = rng.uniform(4, 8), rng.uniform(4, 8)
    if inside:
        height = rng.uniform(2.4, 3.2)
        shell(stage, width, depth, height, 0.4)
        line_walls(stage, width, depth, height, 0.6)
        lights(stage, width, depth, height)
    else:
        kind = str(rng.choice(["grass", "earth", "sand", "asphalt"]))
        stage.box(ground(rng, kind), (0, 0, -0.5), (600, 600, 1))
    stage.targets.clear()
    for _ in range(rng.integers(1, 7)):
        place = stage.spot((1, 1), (width - 1, depth - 1), 0.4)
        if place:
            props.person(stage, (*place, 0), rng.uniform(0, 2 * math.pi))
    if not inside:
        stage.taken.append((width / 2, depth / 2, max(width, depth) / 2 + 1.5))
        scatter(stage, (-35, -35), (40, 40), int(rng.integers(8, 40)), flat)
    sky(rng, indoors=inside)
    edge = 0.4 if inside else -3
    low, high = (edge, edge, 0.5), (width - edge, depth - edge, 2.0)
    return World("people", low, high, stage.targets, (0.9, 5))


KINDS: dict[str, Callable[[Stage], World]] = {
    "room": room,
    "corridor": corridor,
    "street": street,
    "terrain": terrain,
    "table_top": table_top,
    "people": people,
    **FURNISHED,
}
