"""What stands in front of the camera: five kinds of scene, made of two kinds of solid.

A world is a box seen from inside (a room; outdoors only its floor is near) with convex prisms and
ellipsoids in it. Axes here are the world's: x right, y up, z ahead, metres, the floor at y = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

HALF_SPACES = 8
HORIZON = 1e4

# A material is eleven numbers: two colours, pattern (0 noise, 1 checker, 2 stripes, 3 bricks,
# 4 rings, 5 speckle), its frequency a metre, its strength, its direction, and gloss.
Material = list[float]
MATERIAL_SIZE = 11


@dataclass
class World:
    """One scene before it is seen. `room` is (x0, x1, y0, y1, z0, z1); angles are in radians."""

    generator: torch.Generator
    prisms: list[list[list[float]]] = field(default_factory=list)
    prism_materials: list[Material] = field(default_factory=list)
    ellipsoids: list[list[float]] = field(default_factory=list)
    ellipsoid_materials: list[Material] = field(default_factory=list)
    walls: list[Material] = field(default_factory=list)
    room: list[float] = field(
        default_factory=lambda: [-HORIZON, HORIZON, 0, HORIZON, -HORIZON, HORIZON]
    )
    camera: list[float] = field(default_factory=lambda: [0.0, 1.5, 0.0])
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    fov: float = 1.0
    light: list[float] = field(default_factory=list)
    sun: bool = True
    sky: bool = True

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def material(self) -> Material:
        """Mostly greys and browns whose pattern is a shade of the same colour, as things are."""
        value = self.uniform(0.05, 0.9)
        tint = 0.15 if self.chance(0.65) else 0.9
        colour = [min(0.97, value * self.uniform(1 - tint, 1 + tint)) for _ in range(3)]
        if self.chance(0.75):
            shade = self.uniform(0.3, 1.7)
            second = [min(0.97, c * shade * self.uniform(0.85, 1.15)) for c in colour]
        else:
            second = [self.uniform(0.05, 0.9) for _ in range(3)]
        return [
            *colour,
            *second,
            float(self.integer(0, 5)),
            self.uniform(0, 1) ** 2 * 12 + 0.5,
            self.uniform(0, 0.8),
            self.uniform(0, 2 * math.pi),
            self.uniform(0, 0.5),
        ]

    def add_prism(
        self,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        yaw: float = 0.0,
        sides: int = 4,
        material: Material | None = None,
        taper: float = 0.0,
    ) -> None:
        """An upright prism as half-spaces n . p <= offset; taper > 0 narrows it upwards."""
        x, y, z = centre
        width, height, depth = size
        rows = []
        for k in range(sides):
            angle = 2 * math.pi * k / sides + yaw
            nx, nz = math.cos(angle), math.sin(angle)
            radius = (width if sides != 4 or k % 2 == 0 else depth) / 2
            length = math.sqrt(1 + taper * taper)
            normal = (nx / length, taper / length, nz / length)
            offset = normal[0] * (x + nx * radius) + normal[1] * y + normal[2] * (z + nz * radius)
            rows.append([*normal, offset])
        rows += [[0, 1, 0, y + height / 2], [0, -1, 0, height / 2 - y]]
        rows += [rows[-1]] * (HALF_SPACES - len(rows))
        self.prisms.append(rows)
        self.prism_materials.append(material or self.material())

    def add_ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        material: Material | None = None,
    ) -> None:
        self.ellipsoids.append([*centre, *radii])
        self.ellipsoid_materials.append(material or self.material())

    def tensors(self, device: str) -> dict[str, Tensor]:
        """prisms (K, 8, 4), ellipsoids (R, 6), materials (6 + K + R, 11), room (6,)."""

        def stack(rows: list[Any], *shape: int) -> Tensor:
            return torch.tensor(rows, device=device).reshape(-1, *shape)

        return {
            "prisms": stack(self.prisms, HALF_SPACES, 4),
            "ellipsoids": stack(self.ellipsoids, 6),
            "materials": stack(
                self.walls + self.prism_materials + self.ellipsoid_materials, MATERIAL_SIZE
            ),
            "room": torch.tensor(self.room, device=device),
        }


def random_world(generator: torch.Generator) -> World:
    world = World(generator)
    kind = world.uniform(0, 1)
    world.pitch, world.roll = world.uniform(-0.25, 0.12), world.uniform(-0.05, 0.05)
    if kind < 0.42:
        furnish_room(world)
    elif kind < 0.62:
        build_street(world)
    elif kind < 0.76:
        lay_open_ground(world)
    elif kind < 0.93:
        set_table_top(world)
    else:
        pose_portrait(world)
    world.fov = math.radians(world.uniform(38, 90))
    world.light = [world.uniform(-0.6, 0.6), world.uniform(0.5, 1), world.uniform(-0.8, 0.4)]
    if not world.sky and not world.sun:
        x0, x1, _, y1, z0, z1 = world.room
        world.light = [
            x0 + (x1 - x0) * world.uniform(0.1, 0.9),
            y1 * world.uniform(0.6, 0.95),
            z0 + (z1 - z0) * world.uniform(0.1, 0.9),
        ]
    world.walls = [world.material() for _ in range(6)]
    if world.sky:
        earth = (1, world.uniform(0.8, 1.15), world.uniform(0.5, 1))
        world.walls[2][:3] = [world.uniform(0.1, 0.6) * c for c in earth]
    return world


def furnish_room(world: World) -> None:
    u = world.uniform
    world.sky, world.sun = False, world.chance(0.3)
    width, depth, height = u(2, 7), u(3, 11), u(2.2, 3.6)
    x = u(-0.4, 0.4) * width
    z = u(0.3, 0.45 * depth * u(0.2, 1) + 0.31)
    world.room = [-width / 2, width / 2, 0, height, 0, depth]
    world.camera, world.yaw = [x, u(0.6, 1.9), z], u(-0.7, 0.7)
    for _ in range(world.integer(1, 4)):
        at = u(-width / 2, width / 2), u(z + 0.8, depth)
        if world.chance(0.5):
            size = u(0.6, 1.8), u(0.4, 0.95), u(0.5, 1)
            add_table(world, *at, size, u(-0.4, 0.4) + world.integer(0, 1) * 1.57)
        else:
            centre = at[0], u(0.2, 1), at[1]
            world.add_prism(centre, (u(0.4, 1.8), u(0.5, 2.2), u(0.4, 1)), u(-0.3, 0.3))
    for _ in range(world.integer(0, 4)):  # pictures and windows
        wall, y = world.integer(0, 2), u(0.8, height - 0.5)
        if wall == 0:
            world.add_prism((u(-width / 2, width / 2), y, depth), (u(0.3, 1.8), u(0.3, 1.6), 0.06))
        else:
            centre = (wall * 2 - 3) * width / 2, y, u(0, depth)
            world.add_prism(centre, (0.06, u(0.3, 1.6), u(0.3, 1.8)))
    scatter(world, world.integer(0, 4), (-width / 2, width / 2), (z + 0.7, depth), 0.4)
    if world.chance(0.25):
        add_person(world, u(-width / 3, width / 3), u(z + 1, depth))


def build_street(world: World) -> None:
    u = world.uniform
    width = u(7, 18)
    world.camera, world.yaw = [u(-0.25, 0.25) * width, u(1.1, 2.4), 0.0], u(-0.35, 0.35)
    for side in (-1, 1):
        z = u(-4, 6)
        world.add_prism((side * (width / 2 - 1), 0.06, 60), (2.2, 0.15, 130))  # pavement
        for _ in range(world.integer(2, 5)):
            depth = u(5, 16)
            if world.chance(0.8):
                centre = side * (width / 2 + u(2, 7)), 0.0, z + depth / 2
                world.add_prism(centre, (u(4, 7), u(8, 34), depth * 0.97))
            z += depth
    for _ in range(world.integer(1, 4)):
        add_car(world, width)
    for _ in range(world.integer(1, 4)):
        add_pole_or_tree(world, (world.integer(0, 1) * 2 - 1) * (width / 2 - 0.6), u(4, 30))
    for _ in range(world.integer(0, 2)):
        add_person(world, u(-width / 2, width / 2), u(4, 16))


def lay_open_ground(world: World) -> None:
    u = world.uniform
    world.camera = [0.0, u(0.8, 3), 0.0]
    for _ in range(world.integer(1, 4)):
        centre = u(-80, 80), u(-10, 0), u(50, 160)
        world.add_ellipsoid(centre, (u(20, 70), u(10, 30), u(20, 60)))
    scatter(world, world.integer(2, 7), (-9, 9), (4, 26), u(1, 3))
    for _ in range(world.integer(0, 2)):
        add_person(world, u(-3, 3), u(2, 9))


def set_table_top(world: World) -> None:
    u = world.uniform
    against_a_wall = world.chance(0.6)
    world.sky, world.sun = False, world.chance(0.5)
    world.room = [-3, 3, 0, 3, -3, u(0.9, 2.2) if against_a_wall else 4]
    elevation, distance = math.radians(u(10, 70)), u(0.45, 1.2)
    height = distance * math.sin(elevation) + 0.05
    world.camera = [u(-0.1, 0.1), height, 0.25 - distance * math.cos(elevation)]
    world.pitch = u(-0.08, 0.12) - elevation
    scatter(world, world.integer(2, 10), (-0.45, 0.45), (-0.1, 0.75), u(0.08, 0.25))


def pose_portrait(world: World) -> None:
    u = world.uniform
    world.pitch = u(-0.1, 0.1)
    z = u(0.6, 1.3)
    world.sky = world.chance(0.5)
    x = u(-0.15, 0.15)
    if not world.sky:
        world.room = [-3, 3, 0, 3, -1, u(2, 7)]
    skin = [u(0.3, 0.85), u(0.25, 0.6), u(0.2, 0.5), *world.material()[3:]]
    clothes = world.material()
    world.add_ellipsoid((x, 1.52, z), (0.1, 0.14, 0.12), skin)
    world.add_prism((x, 1.37, z), (0.11, 0.2, 0.11), 0, 6, skin)
    world.add_ellipsoid((x, 1.07, z), (0.27, 0.27, 0.15), clothes)
    world.add_ellipsoid((x, 1.6, z + 0.03), (0.11, 0.1, 0.13))
    scatter(world, world.integer(1, 5), (-3, 3), (2, 6), 0.8)


def scatter(
    world: World, count: int, xs: tuple[float, float], zs: tuple[float, float], size: float
) -> None:
    """Balls, boxes and prisms of about `size` standing on the floor."""
    u = world.uniform
    for _ in range(count):
        x, z, shape = u(*xs), u(*zs), world.integer(0, 3)
        width, height = size * u(0.4, 1.4), size * u(0.3, 2.2)
        if shape == 0:
            world.add_ellipsoid((x, width / 2, z), (width / 2, width / 2, width / 2))
        elif shape == 1:
            extent = width, height, width * u(0.3, 1.5)
            world.add_prism((x, height / 2, z), extent, u(0, 3.1))
        elif shape == 2:
            extent = width * 0.7, height, width * 0.7
            world.add_prism((x, height / 2, z), extent, u(0, 3.1), 6, taper=u(-0.05, 0.2))
        else:
            extent = width, height / 2, width * u(0.3, 1.5)
            world.add_prism((x, height / 4, z), extent, u(0, 3.1), 5)


def add_table(
    world: World, x: float, z: float, size: tuple[float, float, float], yaw: float
) -> None:
    width, height, depth = size
    material = world.material()
    world.add_prism((x, height, z), (width, 0.05, depth), yaw, 4, material)
    cos, sin = math.cos(yaw), math.sin(yaw)
    for across in (0.05 - width / 2, width / 2 - 0.05):
        for along in (0.05 - depth / 2, depth / 2 - 0.05):
            leg = x + cos * across - sin * along, height / 2, z + sin * across + cos * along
            world.add_prism(leg, (0.06, height, 0.06), yaw, 4, material)


def add_person(world: World, x: float, z: float) -> None:
    height = world.uniform(1.5, 1.9)
    top, trousers = world.material(), world.material()
    world.add_ellipsoid((x, height * 0.93, z), (0.1, 0.13, 0.11), [0.75, 0.55, 0.42, *top[3:]])
    world.add_ellipsoid((x, height * 0.65, z), (0.24, 0.33, 0.15), top)
    for side in (-0.1, 0.1):
        world.add_ellipsoid((x + side, height * 0.25, z), (0.1, height * 0.28, 0.11), trousers)


def add_car(world: World, street_width: float) -> None:
    u = world.uniform
    side, z, paint = world.integer(0, 1) * 2 - 1, u(5, 30), world.material()
    x = side * (street_width / 2 - u(2, 3.4))
    world.add_prism((x, 0.6, z), (1.8, 0.8, 4.2), 0, 4, paint)
    world.add_prism((x, 1.2, z + 0.2), (1.6, 0.6, 2.2), 0, 4, world.material(), 0.25)


def add_pole_or_tree(world: World, x: float, z: float) -> None:
    u = world.uniform
    world.add_prism((x, 2, z), (u(0.1, 0.3), u(3, 9), 0.15), 0, 6)
    if world.chance(0.6):
        radius = u(0.8, 2)
        centre = x, u(3, 4.5), z
        leaves = [u(0.1, 0.3), u(0.25, 0.5), u(0.05, 0.2), *world.material()[3:]]
        world.add_ellipsoid(centre, (radius, radius, radius), leaves)
