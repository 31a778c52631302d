"""What stands in a rendered world: furniture, vessels, people, trees and cars, from primitives.

Each function puts one thing on the stage at a place on the ground (x, y, z), turned about z.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .blender_materials import colour, glass, glowing, leaves, mirror, patterned, surface
from .blender_solids import Point, Stage


def turned(
    foot: Point, angle: float
) -> Callable[[float, float, float], tuple[float, float, float]]:
    """From a thing's own coordinates (x to its right, y ahead, z up) to the world's."""
    c, s = math.cos(angle), math.sin(angle)
    return lambda x, y, z: (foot[0] + c * x - s * y, foot[1] + s * x + c * y, foot[2] + z)


def table(stage: Stage, foot: Point, angle: float, size: Point) -> None:
    """size: width, depth, height; round tops are as wide as the shorter side."""
    w, d, h = size
    at, wood = turned(foot, angle), surface(stage.rng)
    if stage.rng.random() < 0.3:
        stage.pillar(wood, at(0, 0, h - 0.04), min(w, d) / 2, 0.04)
        stage.pillar(wood, at(0, 0, 0), 0.06, h - 0.04)
        stage.pillar(wood, at(0, 0, 0), min(w, d) / 4, 0.03)
        return
    stage.box(wood, at(0, 0, h - 0.02), (w, d, 0.04), angle)
    thick = stage.rng.uniform(0.03, 0.08)
    for x in (-1, 1):
        for y in (-1, 1):
            leg = at(x * (w - thick) / 2, y * (d - thick) / 2, (h - 0.04) / 2)
            stage.box(wood, leg, (thick, thick, h - 0.04), angle)


def chair(stage: Stage, foot: Point, angle: float) -> None:
    at, wood, seat = turned(foot, angle), surface(stage.rng), surface(stage.rng)
    w, h = stage.rng.uniform(0.4, 0.5), stage.rng.uniform(0.42, 0.5)
    back = stage.rng.uniform(0.35, 0.6)
    stage.box(seat, at(0, 0, h), (w, w, 0.05), angle)
    stage.box(seat, at(0, -w / 2 + 0.02, h + back * 0.65), (w, 0.035, back * 0.7), angle)
    for x in (-1, 1):
        for y in (-1, 1):
            top = h + back if y < 0 else h
            leg = at(x * (w / 2 - 0.02), y * (w / 2 - 0.02), top / 2)
            stage.box(wood, leg, (0.035, 0.035, top), angle)


def sofa(stage: Stage, foot: Point, angle: float, width: float) -> None:
    at, cloth = turned(foot, angle), surface(stage.rng, (0.01, 0.2))
    stage.box(cloth, at(0, 0, 0.21), (width, 0.85, 0.42), angle)
    stage.box(cloth, at(0, -0.34, 0.6), (width, 0.2, 0.45), angle)
    for side in (-1, 1):
        stage.box(cloth, at(side * (width / 2 - 0.1), 0, 0.5), (0.2, 0.85, 0.3), angle)
    for x in np.arange(-width / 2 + 0.45, width / 2 - 0.3, 0.6):
        if stage.rng.random() < 0.6:
            stage.ball(surface(stage.rng), at(x, -0.15, 0.58), (0.2, 0.1, 0.18))


def bed(stage: Stage, foot: Point, angle: float) -> None:
    at, width = turned(foot, angle), stage.rng.uniform(0.95, 1.8)
    stage.box(surface(stage.rng), at(0, 0, 0.15), (width, 2.05, 0.3), angle)
    stage.box(surface(stage.rng), at(0, 0.02, 0.42), (width - 0.06, 1.95, 0.24), angle)
    stage.box(surface(stage.rng), at(0, -1.0, 0.55), (width + 0.1, 0.08, 1.1), angle)
    stage.box(surface(stage.rng), at(0, 0.4, 0.55), (width, 1.2, 0.05), angle)
    for x in np.arange(-width / 2 + 0.35, width / 2 - 0.2, 0.6):
        stage.ball(surface(stage.rng), at(x, -0.7, 0.6), (0.3, 0.2, 0.09))


def shelf(stage: Stage, foot: Point, angle: float, size: Point) -> None:
    """size: width, depth, height. Books and vessels stand on most boards."""
    w, d, h = size
    at, wood = turned(foot, angle), surface(stage.rng)
    stage.box(wood, at(0, -d / 2 + 0.01, h / 2), (w, 0.02, h), angle)
    for side in (-1, 1):
        stage.box(wood, at(side * (w / 2 - 0.012), 0, h / 2), (0.024, d, h), angle)
    levels = max(2, round(h / 0.38))
    shades = [surface(stage.rng) for _ in range(5)]
    for level in range(levels + 1):
        z = level * (h - 0.02) / levels
        stage.box(wood, at(0, 0, z + 0.01), (w, d, 0.02), angle)
        x = -w / 2 + 0.05
        while level < levels and x < w / 2 - 0.1:
            if stage.rng.random() < 0.75:
                thick, tall = stage.rng.uniform(0.015, 0.05), stage.rng.uniform(0.17, 0.3)
                shade = shades[stage.rng.integers(len(shades))]
                middle = at(x + thick / 2, 0, z + 0.02 + tall / 2)
                stage.box(shade, middle, (thick, d * 0.7, tall), angle)
                x += thick + 0.002
            else:
                if stage.rng.random() < 0.4:
                    vessel(stage, at(x + 0.07, 0, z + 0.02), stage.rng.uniform(0.1, 0.25), 0.06)
                x += stage.rng.uniform(0.1, 0.3)


def cabinet(stage: Stage, foot: Point, angle: float, size: Point) -> None:
    w, d, h = size
    at, wood, knob = turned(foot, angle), surface(stage.rng), surface(stage.rng)
    stage.box(wood, at(0, 0, h / 2), size, angle)
    columns, rows = max(1, round(w / 0.5)), max(1, round(h / stage.rng.uniform(0.3, 0.9)))
    for i in range(columns):
        for j in range(rows):
            x, z = (i + 0.5) * w / columns - w / 2, (j + 0.5) * h / rows
            front = (w / columns - 0.02, 0.02, h / rows - 0.02)
            stage.box(wood, at(x, d / 2 + 0.01, z), front, angle)
            stage.ball(knob, at(x + 0.3 * w / columns, d / 2 + 0.035, z), 0.015)


def floor_lamp(stage: Stage, foot: Point, lit: bool = True) -> None:
    metal, h = surface(stage.rng), stage.rng.uniform(1.2, 1.8)
    warm = (1.0, stage.rng.uniform(0.7, 0.9), stage.rng.uniform(0.4, 0.7), 1.0)
    stage.pillar(metal, foot, 0.15, 0.03)
    stage.pillar(metal, foot, 0.015, h)
    shade = glowing(warm, stage.rng.uniform(3, 12)) if lit else surface(stage.rng)
    stage.pillar(shade, (foot[0], foot[1], foot[2] + h), 0.18, 0.28, "taper")


def vessel(stage: Stage, foot: Point, height: float, radius: float) -> None:
    """A vase, cup, bottle or bowl; one in five of glass."""
    rng = stage.rng
    swell = np.convolve(rng.uniform(0.25, 1, 9), np.ones(3) / 3, "valid")
    radii = np.interp(np.linspace(0, 6, 16), np.arange(7), swell) * radius
    clear = rng.random() < 0.2
    stage.lathe(glass(rng) if clear else surface(rng, (0.01, 0.1)), foot, height, radii.tolist())


def plant(stage: Stage, foot: Point, height: float) -> None:
    rng = stage.rng
    pot = height * rng.uniform(0.2, 0.35)
    stage.pillar(surface(rng), foot, pot * 0.45, pot, "taper")
    x, y, z = foot
    wide = height * rng.uniform(0.5, 0.9)
    stage.limb(leaves(rng), (x, y, z + pot), (x, y, z + height * 0.6), 0.012)
    crown = (x, y, z + pot + (height - pot) * 0.55)
    stage.foliage(leaves(rng), crown, (wide, wide, height - pot), int(rng.choice([120, 250])))


def person(stage: Stage, foot: Point, angle: float, height: float | None = None) -> None:
    """Somebody standing or walking, arms anywhere below the shoulders."""
    rng = stage.rng
    h = rng.uniform(1.5, 1.95) if height is None else height
    at, u = turned(foot, angle), h / 1.75
    top, below = surface(rng, (0.02, 0.3)), surface(rng, (0.02, 0.3))
    tone = rng.uniform(0.25, 0.9)
    skin = patterned(
        rng, "plain", colour(rng, (0.04, 0.08), (0.3, 0.6), (tone, tone)), (), 1.0, 0.5
    )
    hair = surface(rng, (0.01, 0.05), ("noise", "plain"), value=(0.05, 0.5))
    stride = rng.uniform(0, 0.35) * u
    for side in (-1, 1):
        knee = at(side * 0.1 * u, side * stride * 0.6 + 0.04, 0.48 * u)
        ankle = at(side * 0.1 * u, side * stride, 0.08 * u)
        stage.limb(below, at(side * 0.09 * u, 0, 0.92 * u), knee, 0.075 * u)
        stage.limb(below, knee, ankle, 0.05 * u)
        toe = at(side * 0.1 * u, side * stride + 0.07 * u, 0.04 * u)
        stage.ball(hair, toe, (0.05 * u, 0.11 * u, 0.045 * u))
        lift, swing = rng.uniform(0.05, 1.2), rng.uniform(-0.5, 0.9)
        shoulder = (side * 0.2 * u, 0.0, 1.42 * u)
        out, down = math.sin(lift) * 0.28 * u, math.cos(lift) * 0.28 * u
        elbow = (shoulder[0] + side * out, swing * 0.15 * u, shoulder[2] - down)
        hand = (elbow[0] - side * 0.02 * u, elbow[1] + swing * 0.2 * u + 0.05, elbow[2] - 0.22 * u)
        stage.limb(top, at(*shoulder), at(*elbow), 0.052 * u)
        stage.limb(skin, at(*elbow), at(*hand), 0.038 * u)
    stage.limb(top, at(0, 0, 0.98 * u), at(0, 0, 1.32 * u), 0.15 * u)
    stage.limb(top, at(-0.13 * u, 0, 1.4 * u), at(0.13 * u, 0, 1.4 * u), 0.075 * u)
    stage.limb(skin, at(0, 0, 1.42 * u), at(0, 0.01, 1.56 * u), 0.055 * u)
    stage.ball(skin, at(0, 0.02 * u, 1.64 * u), (0.078 * u, 0.095 * u, 0.115 * u))
    stage.ball(hair, at(0, -0.015 * u, 1.68 * u), (0.086 * u, 0.095 * u, 0.1 * u))
    stage.ball(skin, at(0, 0.115 * u, 1.63 * u), (0.014 * u, 0.022 * u, 0.02 * u))
    for side in (-1, 1):
        stage.ball(hair, at(side * 0.03 * u, 0.1 * u, 1.66 * u), 0.01 * u)
    stage.targets.append(at(0, 0, rng.uniform(0.9, 1.6) * u))


def tree(stage: Stage, foot: Point, height: float) -> None:
    """Leafy crowns, crowns of lumps, or a conifer."""
    rng, (x, y, z) = stage.rng, foot
    bark = surface(rng, (0.02, 0.2), ("noise", "wood"), value=(0.1, 0.4))
    green, kind = leaves(rng), rng.random()
    trunk = height * rng.uniform(0.25, 0.5)
    stage.pillar(bark, foot, height * rng.uniform(0.02, 0.045), trunk * 1.3, "taper")
    if kind < 0.25:
        for level in range(4):
            low = trunk * 0.5 + level * (height - trunk * 0.5) * 0.21
            wide = height * 0.24 * (1 - level * 0.2)
            stage.pillar(green, (x, y, z + low), wide, (height - trunk * 0.5) * 0.36, "cone")
        return
    for _ in range(rng.integers(3, 7)):
        spread = height * 0.16
        dx, dy, dz = rng.normal(size=3) * spread
        size = height * rng.uniform(0.3, 0.5) * np.array([1, 1, 0.8])
        centre = (x + dx, y + dy, z + trunk + (height - trunk) * 0.5 + dz * 0.7)
        stage.limb(bark, (x, y, z + trunk), centre, height * 0.008)
        if kind < 0.75:
            stage.foliage(green, centre, size.tolist(), 400)
        else:
            stage.rock(green, centre, size.tolist(), int(rng.integers(4)))


def car(stage: Stage, foot: Point, angle: float) -> None:
    rng, at = stage.rng, turned(foot, angle)
    length, width, tall = rng.uniform(3.6, 4.9), rng.uniform(1.65, 1.9), rng.uniform(1.4, 1.9)
    paint = patterned(rng, "plain", colour(rng, value=(0.05, 0.9)), (), 1.0, 0.2)
    dark, pane = patterned(rng, "plain", (0.02, 0.02, 0.02, 1), (), 1.0, 0.5), mirror(rng)
    stage.box(paint, at(0, 0, 0.55), (width, length, 0.55), angle)
    stage.box(paint, at(0, 0, 0.62), (width * 0.96, length * 1.02, 0.3), angle)
    cabin = length * rng.uniform(0.4, 0.6)
    stage.box(
        pane, at(0, -0.2, 0.82 + (tall - 0.85) / 2), (width * 0.86, cabin, tall - 0.85), angle
    )
    stage.box(paint, at(0, -0.2, tall), (width * 0.84, cabin * 0.9, 0.06), angle)
    for side in (-1, 1):
        for end in (-1, 1):
            a = at(side * (width / 2 - 0.2), end * length * 0.31, 0.33)
            b = at(side * (width / 2 + 0.01), end * length * 0.31, 0.33)
            stage.limb(dark, a, b, 0.32)


def clutter(stage: Stage, foot: Point, size: float) -> None:
    """Any small thing of about that size."""
    rng, (x, y, z) = stage.rng, foot
    kind, angle = rng.random(), rng.uniform(0, math.pi)
    if kind < 0.35:
        vessel(stage, foot, size * rng.uniform(0.6, 1.8), size * 0.5)
    elif kind < 0.6:
        w, d, h = size * rng.uniform(0.3, 1.3, 3)
        stage.box(surface(rng, (0.01, 0.1)), (x, y, z + h / 2), (w, d, h), angle)
    elif kind < 0.72:
        stage.ball(surface(rng, (0.01, 0.1)), (x, y, z + size * 0.45), size * 0.45)
    elif kind < 0.82:
        for level in range(rng.integers(2, 6)):  # a pile of books
            turn = angle + rng.uniform(-0.2, 0.2)
            low = z + (level + 0.5) * size * 0.2
            stage.box(surface(rng), (x, y, low), (size, size * 1.4, size * 0.2), turn)
    elif kind < 0.9:
        plant(stage, foot, size * rng.uniform(1.2, 2.5))
    else:
        lumps = [size * rng.uniform(0.5, 1.1) for _ in range(3)]
        centre = (x, y, z + lumps[2] * 0.4)
        stage.rock(surface(rng, (0.01, 0.1)), centre, lumps, int(rng.integers(4)))
