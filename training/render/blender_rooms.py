"""Indoors: rooms and corridors with what stands along their walls and hangs on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import blender_props as props
from .blender_lights import ceiling_light, sky
from .blender_materials import glass, mirror, surface
from .blender_solids import Point, Stage, World


def wall(stage: Stage, a: Point, b: Point, height: float, material, window: bool) -> None:
    """A wall 0.12 m thick from a to b (x, y), perhaps with a window and its pane."""
    rng, (ax, ay), (bx, by) = stage.rng, a, b
    length, angle = math.hypot(bx - ax, by - ay), math.atan2(by - ay, bx - ax)
    c, s = math.cos(angle), math.sin(angle)

    def slab(x0: float, x1: float, z0: float, z1: float, skin, thick: float = 0.12) -> None:
        middle = (x0 + x1) / 2
        centre = (ax + c * middle, ay + s * middle, (z0 + z1) / 2)
        stage.box(skin, centre, (x1 - x0, thick, z1 - z0), angle)

    if not window or length < 1.6:
        slab(-0.06, length + 0.06, 0, height, material)
        return
    wide, sill = rng.uniform(0.8, min(2.6, length - 0.6)), rng.uniform(0.3, 1.1)
    top = rng.uniform(sill + 0.8, height - 0.1)
    left = rng.uniform(0.2, length - wide - 0.2)
    slab(-0.06, left, 0, height, material)
    slab(left + wide, length + 0.06, 0, height, material)
    slab(left, left + wide, 0, sill, material)
    slab(left, left + wide, top, height, material)
    frame = surface(rng, value=(0.3, 0.9))
    for x in (left, left + wide / 2, left + wide):
        slab(x - 0.03, x + 0.03, sill, top, frame, 0.08)
    for z in (sill, top):
        slab(left, left + wide, z - 0.03, z + 0.03, frame, 0.16)
    if rng.random() < 0.4:
        slab(left, left + wide, sill, top, glass(rng), 0.01)


def shell(stage: Stage, width: float, depth: float, height: float, windows: float) -> None:
    """Floor, ceiling and four walls around (0, 0) .. (width, depth), with skirting boards."""
    rng = stage.rng
    floor = surface(rng, (0.05, 0.5), ("wood", "checker", "bricks", "noise", "marble", "speckle"))
    plaster = ("plain", "plain", "noise", "bricks", "speckle")
    calm = (0.0, 0.3) if rng.random() < 0.85 else None
    paint = surface(rng, (0.05, 0.8), plaster, True, (0.35, 0.95), calm)
    other = paint
    if rng.random() < 0.5:
        other = surface(rng, (0.05, 0.6), wall=True, value=(0.25, 0.9), saturation=calm)
    ceiling = surface(rng, (0.3, 1.5), ("plain", "plain", "noise"), False, (0.6, 0.95), (0, 0.2))
    stage.box(floor, (width / 2, depth / 2, -0.1), (width + 1, depth + 1, 0.2))
    stage.box(ceiling, (width / 2, depth / 2, height + 0.1), (width + 1, depth + 1, 0.2))
    corners = [(0, 0), (width, 0), (width, depth), (0, depth)]
    skirting = surface(rng)
    for i, a in enumerate(corners):
        b = corners[(i + 1) % 4]
        wall(stage, a, b, height, other if i == 2 else paint, rng.random() < windows)
        middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, 0.05)
        span = (abs(a[0] - b[0]) or 0.15, abs(a[1] - b[1]) or 0.15, 0.1)
        stage.box(skirting, middle, span)


def sides(width: float, depth: float) -> list[tuple[float, float, float, float, float]]:
    """For each wall: a corner, the direction along it, its angle (things face the room)."""
    return [
        (0, 0, 0, width, 0.0),
        (width, 0, math.pi / 2, depth, math.pi / 2),
        (width, depth, math.pi, width, math.pi),
        (0, depth, -math.pi / 2, depth, -math.pi / 2),
    ]


def line_walls(stage: Stage, width: float, depth: float, height: float, density: float) -> None:
    """Furniture with its back to the walls; pictures, mirrors and doors on them."""
    rng = stage.rng
    for x0, y0, along, length, angle in sides(width, depth):
        at = props.turned((x0, y0, 0), along)
        x = 0.15 + rng.uniform(0, 0.8)
        while x < length - 1.2:
            kind, wide = rng.random(), rng.uniform(0.7, min(2.0, length - x - 0.2))
            if rng.random() > density:
                hang(stage, at, x, wide, height, angle)
                x += wide + 0.2
                continue
            deep = rng.uniform(0.25, 0.55)
            foot = at(x + wide / 2, deep / 2 + 0.09, 0)
            if kind < 0.3:
                props.shelf(stage, foot, angle, (wide, min(deep, 0.35), rng.uniform(0.9, 2.1)))
            elif kind < 0.6:
                h = rng.uniform(0.4, 2.0)
                props.cabinet(stage, foot, angle, (wide, deep, h))
                for _ in range(rng.integers(0, 4)):
                    props.clutter(stage, at(x + rng.uniform(0.1, wide - 0.1), deep / 2, h), 0.15)
                if h < 1.1:
                    hang(stage, at, x, wide, height, angle, low=h + 0.3)
            elif kind < 0.8:
                wide, deep = rng.uniform(1.5, 2.2), 0.85
                props.sofa(stage, at(x + wide / 2, 0.52, 0), angle, wide)
                hang(stage, at, x, wide, height, angle)
            else:
                props.plant(stage, foot, rng.uniform(0.6, 1.8))
                wide = 0.6
            centre = at(x + wide / 2, deep / 2, 0)
            stage.taken.append((centre[0], centre[1], max(wide, deep) / 2))
            stage.targets.append((centre[0], centre[1], rng.uniform(0.4, 1.3)))
            x += wide + rng.uniform(0.05, 0.9)


def hang(stage: Stage, at, x: float, wide: float, height: float, angle: float, low=1.1) -> None:
    """A picture, a mirror or a door on a wall."""
    rng, kind = stage.rng, stage.rng.random()
    if kind < 0.25 and low <= 1.1:
        panel = surface(rng, (0.05, 0.3))
        stage.box(panel, at(x + 0.45, 0.07, 1.0), (0.9, 0.08, 2.0), angle)
        stage.box(surface(rng), at(x + 0.45, 0.06, 1.02), (1.05, 0.06, 2.1), angle)
        stage.ball(mirror(rng), at(x + 0.8, 0.14, 1.0), 0.035)
    elif kind < 0.8:
        w, h = rng.uniform(0.3, wide), rng.uniform(0.3, 0.9)
        z = min(low + h / 2 + 0.1, height - h / 2 - 0.05)
        picture = mirror(rng) if rng.random() < 0.3 else surface(rng, (0.05, 0.5), wall=True)
        stage.box(surface(rng), at(x + wide / 2, 0.07, z), (w + 0.06, 0.04, h + 0.06), angle)
        stage.box(picture, at(x + wide / 2, 0.09, z), (w, 0.02, h), angle)


def room(stage: Stage) -> World:
    rng = stage.rng
    width, depth, height = rng.uniform(2.8, 8), rng.uniform(2.8, 8), rng.uniform(2.3, 3.4)
    shell(stage, width, depth, height, 0.35)
    line_walls(stage, width, depth, height, 0.75)
    low, high = (0.7, 0.7), (width - 0.7, depth - 0.7)
    if rng.random() < 0.35 and width * depth > 14:
        place = stage.spot(low, high, 1.15)
        if place:
            props.bed(stage, (*place, 0), float(rng.choice([0, math.pi / 2, math.pi])))
            stage.targets.append((*place, 0.5))
    for _ in range(rng.integers(1, 4)):
        size = rng.uniform(0.6, 1.8), rng.uniform(0.5, 1.0), rng.uniform(0.38, 0.78)
        place = stage.spot(low, high, size[0] / 2 + 0.2)
        if place:
            dine(stage, place, size)
    for thing in rng.choice(["chair", "lamp", "plant", "person", "clutter"], rng.integers(2, 7)):
        place = stage.spot(low, high, 0.3)
        if place:
            foot, angle = (*place, 0.0), rng.uniform(0, 2 * math.pi)
            if thing == "chair":
                props.chair(stage, foot, angle)
            elif thing == "lamp":
                props.floor_lamp(stage, foot, rng.random() < 0.6)
            elif thing == "plant":
                props.plant(stage, foot, rng.uniform(0.5, 1.6))
            elif thing == "person":
                props.person(stage, foot, angle)
            else:
                props.clutter(stage, foot, rng.uniform(0.15, 0.4))
    if rng.random() < 0.5:
        rug = rng.uniform(1, min(width, depth) * 0.8, 2)
        stage.box(surface(rng), (width / 2, depth / 2, 0.006), (*rug, 0.012))
    sky(rng, indoors=True)
    lights(stage, width, depth, height)
    return World(
        "room", (0.35, 0.35, 0.5), (width - 0.35, depth - 0.35, 2.0), stage.targets, (1, 9)
    )


def dine(stage: Stage, place: Sequence[float], size: tuple[float, float, float]) -> None:
    """A table with things on it and chairs at it."""
    rng, angle = stage.rng, stage.rng.uniform(0, math.pi)
    at = props.turned((*place, 0), angle)
    props.table(stage, (*place, 0), angle, size)
    for _ in range(rng.integers(1, 7)):
        x, y = rng.uniform(-0.3, 0.3) * size[0], rng.uniform(-0.3, 0.3) * size[1]
        props.clutter(stage, at(x, y, size[2]), rng.uniform(0.06, 0.18))
    if size[2] > 0.6:
        for side in (-1, 1):
            if rng.random() < 0.6:
                turn = angle + (0 if side < 0 else math.pi) + rng.uniform(-0.4, 0.4)
                props.chair(stage, at(0, side * (size[1] / 2 + 0.25), 0), turn)
    stage.targets.append((place[0], place[1], size[2]))


def lights(stage: Stage, width: float, depth: float, height: float) -> None:
    """One to three lamps under the ceiling, never out: a picture needs light."""
    rng, area = stage.rng, width * depth
    count = int(rng.integers(1, 4))
    warm = rng.random()
    for _ in range(count):
        place = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * depth, height - 0.06
        energy = area * rng.uniform(6, 16) / count
        ceiling_light(rng, place, rng.uniform(0.15, 1.2), energy, warm)


def corridor(stage: Stage) -> World:
    rng = stage.rng
    width, depth, height = rng.uniform(1.5, 3), rng.uniform(7, 22), rng.uniform(2.3, 3.2)
    shell(stage, width, depth, height, 0.3)
    line_walls(stage, width, depth, height, rng.uniform(0.05, 0.3))
    for _ in range(rng.integers(1, 5)):
        place = stage.spot((0.4, 0.5), (width - 0.4, depth - 0.5), 0.3)
        if place and rng.random() < 0.5:
            props.person(stage, (*place, 0), rng.uniform(0, 2 * math.pi))
        elif place:
            props.clutter(stage, (*place, 0), rng.uniform(0.2, 0.4))
    sky(rng, indoors=True)
    warm, energy = rng.random(), rng.uniform(15, 50)
    for y in np.arange(rng.uniform(0.5, 2), depth, rng.uniform(2, 4)):
        ceiling_light(rng, (width / 2, y, height - 0.05), rng.uniform(0.2, 0.8), energy, warm)
    for _ in range(6):
        stage.targets.append((width / 2, rng.uniform(0, depth), rng.uniform(0.7, 1.6)))
    return World(
        "corridor", (0.3, 0.4, 0.6), (width - 0.3, depth - 0.4, 2), stage.targets, (2.5, 20)
    )
