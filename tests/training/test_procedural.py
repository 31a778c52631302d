"""Procedural scenes have exact depth, and are the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from data.latents import SceneBatches, depth_target, has_range
from render.procedural import camera_rays, cast, render_scenes
from render.worlds import World, random_world


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_and_depths_are_in_range_and_repeat():
    scenes = render_scenes(6, 48, 64, generator(0))
    assert scenes.rgb.shape == (6, 3, 48, 64)
    assert scenes.depth.shape == scenes.valid.shape == (6, 48, 64)
    assert float(scenes.rgb.min()) >= 0
    assert float(scenes.rgb.max()) <= 1
    assert torch.isfinite(scenes.depth[scenes.valid]).all()
    assert (scenes.depth[scenes.valid] > 0).all()
    assert torch.isinf(scenes.depth[~scenes.valid]).all()
    again = render_scenes(6, 48, 64, generator(0))
    assert torch.equal(scenes.rgb, again.rgb)
    assert not torch.equal(scenes.rgb, render_scenes(6, 48, 64, generator(1)).rgb)


def test_depth_is_planar_distance_to_the_floor():
    """Level camera, 1.5 m up: a ray of slope v meets the floor at z = 1.5 / v."""
    world = World(generator(0))
    rays = camera_rays(world, 40, 60, "cpu")
    room = torch.tensor(world.room)
    none = torch.empty(0, 8, 4), torch.empty(0, 6)
    hits = cast(torch.tensor(world.camera), rays, *none, room)
    down = rays[:, 1] < -0.01
    torch.testing.assert_close(hits.distance[down], -1.5 / rays[down, 1], rtol=1e-5, atol=0)
    assert (hits.normal[down] == torch.tensor([0.0, 1.0, 0.0])).all()


def test_an_ellipsoid_and_a_box_hide_what_is_behind_them():
    world = World(generator(0))
    world.add_ellipsoid((0, 1.5, 5), (1, 1, 1))
    world.add_prism((0, 1.5, 3), (0.2, 0.2, 0.5))
    world.walls = [world.material() for _ in range(6)]
    parts = world.tensors("cpu")
    rays = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0]])
    hits = cast(
        torch.tensor(world.camera), rays, parts["prisms"], parts["ellipsoids"], parts["room"]
    )
    assert float(hits.distance[0]) == pytest.approx(2.75)
    assert hits.surface[0] == 6
    x, z = 0.1 * float(hits.distance[1]), float(hits.distance[1])
    assert x**2 + (z - 5) ** 2 == pytest.approx(1, abs=1e-4)


def test_kinds_of_scene_vary():
    worlds = [random_world(generator(seed)) for seed in range(40)]
    assert 0.2 < sum(world.sky for world in worlds) / 40 < 0.8


def test_depth_target_is_minus_one_near_and_one_far_with_the_sky_far():
    scenes = render_scenes(8, 48, 64, generator(3))
    keep = has_range(scenes.depth, scenes.valid)
    target = depth_target(scenes.depth[keep], scenes.valid[keep])
    assert float(target.min()) == -1
    assert float(target.max()) == 1
    assert (target[:, 0][~scenes.valid[keep]] == 1).all()


def test_a_batch_does_not_depend_on_those_before_it():
    batches = SceneBatches(4, 2, seed=5)
    later = batches[3]
    batches[0]
    assert all(torch.equal(a, b) for a, b in zip(later, batches[3], strict=True))
