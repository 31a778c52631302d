"""Rooms and table tops furnished with models from files, at their real sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

from .blender_lights import sky
from .blender_models import Model, stand
from .blender_props import turned
from .blender_rooms import hang, lights, shell, sides
from .blender_solids import Point, Stage, World

# What stands in a room of each kind, by the models' categories; the first is the room's own.
ROOMS = (
    ("Living room", "Miscellaneous"),
    ("Bedroom", "Living room"),
    ("Kitchen", "Living room"),
    ("Bathroom",),
    ("Office", "Living room", "Miscellaneous"),
)
NOT_INDOORS = ("Exterior", "Doors and windows", "Vehicles", "Staircases", "Characters")


def furnished(stage: Stage) -> World:
    """A room seen from eye level: furniture along its walls and in its middle."""
    rng = stage.rng
    width, depth, height = rng.uniform(2.6, 6.5), rng.uniform(2.6, 6.5), rng.uniform(2.3, 3.0)
    shell(stage, width, depth, height, 0.45)
    categories = ROOMS[rng.integers(len(ROOMS))]
    indoors = [m for m in stage.models if m.category not in NOT_INDOORS]
    own = [m for m in indoors if m.category in categories] or indoors
    furniture = [m for m in own if m.elevation == 0 and max(m.size) > 0.5 and m.size[2] > 0.3]
    small = small_things(indoors)
    wall_things = [m for m in indoors if m.elevation > 0.5 and m.size[1] < 0.5]
    for x0, y0, along, length, _ in sides(width, depth):
        at = turned((x0, y0, 0), along)
        line_wall(stage, at, along, length, height, (furniture, small, wall_things))
    middle = [m for m in furniture if m.size[2] < 1.3 and max(m.size[:2]) < 2.3]
    for _ in range(rng.integers(1, 5)):
        put_in_middle(stage, middle, small, width, depth)
    people = [m for m in stage.models if m.category == "Characters"]
    if people and rng.random() < 0.3:
        put_in_middle(stage, people, [], width, depth)
    sky(rng, indoors=True)
    lights(stage, width, depth, height)
    low, high = (0.3, 0.3, 1.0), (width - 0.3, depth - 0.3, 1.8)
    return World("furnished", low, high, stage.targets, (0.8, 7))


def small_things(models: list[Model]) -> list[Model]:
    """What stands on tables and shelves."""
    return [
        m for m in models
        if m.elevation == 0 and 0.03 < max(m.size) < 0.5 and m.size[2] > 0.02
    ]  # fmt: skip


def line_wall(
    stage: Stage,
    at: Callable[[float, float, float], tuple[float, float, float]],
    along: float,
    length: float,
    height: float,
    pools: tuple[list[Model], list[Model], list[Model]],
) -> None:
    """Furniture with its back to a wall, and what hangs above it."""
    rng, (furniture, small, wall_things) = stage.rng, pools
    x = 0.1 + rng.uniform(0, 0.7)
    while x < length - 0.5:
        fitting = [m for m in furniture if m.size[0] < length - x - 0.05 and m.size[1] < 1.2]
        if not fitting or rng.random() < 0.3:
            wide = rng.uniform(0.5, 1.2)
            if x + wide < length:
                hang(stage, at, x, wide, height, along)
            x += wide
            continue
        model = fitting[rng.integers(len(fitting))]
        wide, deep, tall = model.size
        foot = at(x + wide / 2, deep / 2 + 0.09, 0)
        stand(model, foot, along)
        set_on_top(stage, model, foot, along, small)
        stage.taken.append((foot[0], foot[1], max(wide, deep) / 2))
        stage.targets.append((foot[0], foot[1], min(tall, 1.5) * 0.7))
        above = [m for m in wall_things if m.size[0] < wide and m.elevation > tall + 0.1]
        if above and rng.random() < 0.4:
            thing = above[rng.integers(len(above))]
            stand(thing, at(x + wide / 2, thing.size[1] / 2 + 0.07, thing.elevation), along)
        elif tall < 1.1 and rng.random() < 0.6:
            hang(stage, at, x, max(0.5, wide), height, along, low=max(1.0, tall + 0.2))
        x += wide + rng.uniform(0.02, 0.7)


def put_in_middle(
    stage: Stage, models: list[Model], small: list[Model], width: float, depth: float
) -> None:
    """One of the models where there is room for it, turned anywhere, mostly along the walls."""
    rng = stage.rng
    if not models:
        return
    model = models[rng.integers(len(models))]
    radius = math.hypot(*model.size[:2]) / 2
    edge = radius + 0.15
    place = stage.spot((edge, edge), (width - edge, depth - edge), radius)
    if place is None or 2 * edge > min(width, depth):
        return
    angle = math.pi / 2 * rng.integers(4) + rng.normal(0, 0.2)
    stand(model, (*place, 0), angle)
    set_on_top(stage, model, (*place, 0), angle, small)
    stage.targets.append((*place, model.size[2] * 0.7))


def set_on_top(stage: Stage, model: Model, foot: Point, angle: float, small: list[Model]) -> None:
    """Up to five small things on the model, in its inner part."""
    rng, (wide, deep, _) = stage.rng, model.size
    if not small or not 0.25 < model.on_top < 1.4 or min(wide, deep) < 0.25:
        return
    at = turned(foot, angle)
    for _ in range(rng.integers(0, 6)):
        thing = small[rng.integers(len(small))]
        x, y = rng.uniform(-0.35, 0.35) * wide, rng.uniform(-0.3, 0.3) * deep
        stand(thing, at(x, y, model.on_top), angle + rng.normal(0, 0.6))


def desk(stage: Stage) -> World:
    """A table with many small things on it, from near, in a room with some furniture."""
    rng = stage.rng
    width, depth, height = rng.uniform(2.6, 4.5), rng.uniform(2.6, 4.5), rng.uniform(2.3, 2.8)
    shell(stage, width, depth, height, 0.4)
    indoors = [m for m in stage.models if m.category not in NOT_INDOORS]
    small = small_things(indoors)
    tables = [
        m for m in indoors
        if 0.4 < m.on_top < 1.05 and m.on_top > 0.9 * m.size[2] and min(m.size[:2]) > 0.4
        and m.elevation == 0
    ]  # fmt: skip
    if not tables or not small:
        raise ValueError("among the models there is no table, or nothing to stand on it")
    against_wall = rng.random() < 0.6
    table = tables[rng.integers(len(tables))]
    y = table.size[1] / 2 + 0.1 if against_wall else depth / 2
    foot = (width / 2 + rng.uniform(-0.4, 0.4), y, 0.0)
    stand(table, foot, 0.0)
    stage.taken.append((foot[0], foot[1], math.hypot(*table.size[:2]) / 2))
    half = (table.size[0] / 2 - 0.1, table.size[1] / 2 - 0.1)
    taken: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(4, 15)):
        thing = small[rng.integers(len(small))]
        radius = math.hypot(*thing.size[:2]) / 2
        x, y = rng.uniform(-half[0], half[0]), rng.uniform(-half[1], half[1])
        if all(math.hypot(x - a, y - b) > radius + r for a, b, r in taken):
            taken.append((x, y, radius))
            at = (foot[0] + x, foot[1] + y, table.on_top)
            stand(thing, at, rng.uniform(0, 2 * math.pi))
            stage.targets.append((at[0], at[1], table.on_top + thing.size[2] / 2))
    targets = stage.targets[:] or [(foot[0], foot[1], table.on_top)]
    furniture = [m for m in indoors if m.elevation == 0 and 0.5 < max(m.size) < 2]
    for _ in range(rng.integers(0, 4)):
        put_in_middle(stage, furniture, [], width, depth)
    sky(rng, indoors=True)
    lights(stage, width, depth, height)
    low = (max(0.2, foot[0] - 1.4), max(0.2, foot[1] - 1.4), table.on_top + 0.15)
    high = (min(width - 0.2, foot[0] + 1.4), min(depth - 0.2, foot[1] + 1.4), 1.8)
    return World("desk", low, high, targets, (0.35, 1.6))


KINDS: dict[str, Callable[[Stage], World]] = {"furnished": furnished, "desk": desk}
