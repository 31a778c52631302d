"""Procedural RGB-D scenes: ray-cast rooms, streets, landscapes, table tops and portraits.

    scenes = render_scenes(8, 120, 160, torch.Generator().manual_seed(0))

Exact depth under pictures that look a little like photographs: patterns, sun and lamps, shadows,
haze, clouds, exposure, white balance, blur and noise all vary on their own, so that none of them
gives the depth away. What stands in a scene is in `worlds.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .worlds import HORIZON, World, random_world

# Further than this is sky: no depth.
SKY_DISTANCE = 900.0
ROOM_FACES = 6


class Scenes(NamedTuple):
    """rgb (B, 3, H, W) in [0, 1], display-encoded; depth (B, H, W) planar metres, inf in the sky;
    valid (B, H, W) bool, False in the sky."""

    rgb: Tensor
    depth: Tensor
    valid: Tensor


class Hits(NamedTuple):
    """Where rays meet the world: distance in ray lengths (P,), index of the surface's material
    (P,), and its unit normal (P, 3)."""

    distance: Tensor
    surface: Tensor
    normal: Tensor


def render_scenes(
    count: int, height: int, width: int, generator: torch.Generator, device: str = "cpu"
) -> Scenes:
    """`count` different scenes; the same for the same CPU generator state.

    One at a time, because then a scene's rays stay in the processor's cache: eight in one batch
    took half as long again.
    """
    scenes = [render_scene(height, width, generator, device) for _ in range(count)]
    return Scenes(*(torch.stack(part) for part in zip(*scenes, strict=True)))


def render_scene(
    height: int, width: int, generator: torch.Generator, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    world = random_world(generator)
    parts = world.tensors(device)
    solids = parts["prisms"], parts["ellipsoids"]
    origin = torch.tensor(world.camera, device=device)
    rays = camera_rays(world, height, width, device)
    hits = cast(origin, rays, *solids, parts["room"])
    points = origin + hits.distance.clamp(max=2000)[:, None] * rays
    material = parts["materials"][hits.surface]
    light = torch.tensor(world.light, device=device)
    to_light = light.expand_as(points) if world.sun else light - points
    lit = light_reaches(world, points, to_light, hits, *solids, parts["room"])

    colour = shade(world, rays, points, to_light, lit, hits, material)
    horizon, sky = paint_sky(world, rays)
    if world.sky:
        density = world.uniform(0, 1) ** 3 * 0.02
        haze = 1 - torch.exp(-hits.distance.clamp(max=SKY_DISTANCE) * density)
        colour = colour + (horizon - colour) * haze[:, None]
    valid = hits.distance < SKY_DISTANCE
    colour = torch.where(valid[:, None], colour, sky)
    picture = photograph(world, colour.reshape(height, width, 3).permute(2, 0, 1))
    # Rays have length 1 along the optical axis, so their parameter is planar depth.
    depth = torch.where(valid, hits.distance, torch.inf)
    return picture, depth.reshape(height, width), valid.reshape(height, width)


def camera_rays(world: World, height: int, width: int, device: str) -> Tensor:
    """(P, 3) directions in world axes, of length 1 along the optical axis."""
    roll, pitch, yaw, fov = torch.tensor([world.roll, world.pitch, world.yaw, world.fov])
    focal = max(height, width) / 2 / float((fov / 2).tan())
    u = (torch.arange(width, device=device) + 0.5 - width / 2) / focal
    v = (height / 2 - torch.arange(height, device=device) - 0.5) / focal
    y, x = torch.meshgrid(v, u, indexing="ij")
    z = torch.ones_like(x)
    x, y = x * roll.cos() - y * roll.sin(), x * roll.sin() + y * roll.cos()
    y, z = y * pitch.cos() + z * pitch.sin(), z * pitch.cos() - y * pitch.sin()
    x, z = x * yaw.cos() + z * yaw.sin(), z * yaw.cos() - x * yaw.sin()
    return torch.stack([x, y, z], -1).reshape(-1, 3)


def cast(origin: Tensor, rays: Tensor, prisms: Tensor, ellipsoids: Tensor, room: Tensor) -> Hits:
    """The first surface along each ray. origin: (3,) or (P, 3); rays: (P, 3)."""
    safe = torch.where(rays.abs() < 1e-7, 1e-7, rays)
    exits = torch.maximum((room[0::2] - origin) / safe, (room[1::2] - origin) / safe)
    nearest, axis = exits.min(-1)
    far_side = (rays.gather(-1, axis[:, None])[:, 0] > 0).long()
    surface = axis * 2 + far_side
    normal = F.one_hot(axis, 3) * (1 - 2 * far_side[:, None]).float()
    for k, planes in enumerate(prisms):  # slabs: the last plane entered, the first one left
        normals, offsets = planes[:, :3], planes[:, 3]
        towards = rays @ normals.T
        distance = (offsets - origin @ normals.T) / torch.where(towards.abs() < 1e-7, 1e-7, towards)
        enter, face = torch.where(towards < 0, distance, -1e9).max(-1)
        leave = torch.where(towards >= 0, distance, 1e9).min(-1).values
        hit = (enter < leave) & (enter > 1e-3) & (enter < nearest)
        nearest = torch.where(hit, enter, nearest)
        surface = torch.where(hit, ROOM_FACES + k, surface)
        normal = torch.where(hit[:, None], normals[face], normal)
    for k, ellipsoid in enumerate(ellipsoids):  # a unit sphere in stretched space
        centre, radii = ellipsoid[:3], ellipsoid[3:]
        o, d = (origin - centre) / radii, rays / radii
        a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
        discriminant = b * b - a * c
        distance = (-b - discriminant.clamp(min=0).sqrt()) / a
        hit = (discriminant > 0) & (distance > 1e-3) & (distance < nearest)
        nearest = torch.where(hit, distance, nearest)
        surface = torch.where(hit, ROOM_FACES + len(prisms) + k, surface)
        outwards = F.normalize((o + distance[:, None] * d) / radii, dim=-1)
        normal = torch.where(hit[:, None], outwards, normal)
    return Hits(nearest, surface, normal)


def light_reaches(
    world: World,
    points: Tensor,
    to_light: Tensor,
    hits: Hits,
    prisms: Tensor,
    ellipsoids: Tensor,
    room: Tensor,
) -> Tensor:
    """(P,) 1 in the light, 0 in the shadow. The sun shines through a room's walls, as if large
    windows were behind the camera."""
    lift = 2e-3 * (1 + hits.distance.clamp(max=200)[:, None])
    reach = to_light.norm(dim=-1)
    rays = to_light / reach[:, None].clamp(min=1e-6)
    if world.sun:
        room = torch.tensor([-HORIZON, HORIZON] * 3, device=room.device)
    blocker = cast(points + hits.normal * lift, rays, prisms, ellipsoids, room).distance
    return (blocker > (SKY_DISTANCE if world.sun else reach * 0.98)).float()


def shade(
    world: World,
    rays: Tensor,
    points: Tensor,
    to_light: Tensor,
    lit: Tensor,
    hits: Hits,
    material: Tensor,
) -> Tensor:
    """(P, 3) linear light: ambient with contact darkening, Lambert, Blinn-Phong gloss."""
    u = world.uniform
    distance = to_light.norm(dim=-1, keepdim=True)
    towards = to_light / distance.clamp(min=1e-6)
    lambert = (hits.normal * towards).sum(-1).clamp(min=0) * lit
    reach = u(2, 20)
    falloff = 1.0 if world.sun else 1 / (0.3 + distance[:, 0] ** 2 / reach)
    height = points[:, 1].clamp(min=0)
    contact = 1 - 0.5 * torch.exp(-4 * height) * (hits.surface < ROOM_FACES)
    ambient = u(0.15, 0.6) * (0.75 + 0.25 * hits.normal[:, 1]) * contact
    halfway = F.normalize(towards - F.normalize(rays, dim=-1), dim=-1)
    gloss = material[:, 10] * (hits.normal * halfway).sum(-1).clamp(min=0) ** 30 * lit
    warmth = torch.tensor([u(0.9, 1.2), 1.0, u(0.7, 1.1)], device=rays.device)
    strength = u(0.5, 1.3)
    direct = (lambert * falloff)[:, None] * strength * warmth
    return albedo(points, hits, material) * (ambient[:, None] + direct) + 0.4 * gloss[:, None]


def albedo(points: Tensor, hits: Hits, material: Tensor) -> Tensor:
    """(P, 3): the material's two colours, mixed by its pattern at the hit points."""
    frequency, strength, turn = material[:, 7], material[:, 8], material[:, 9]
    x = points[:, 0] * turn.cos() - points[:, 2] * turn.sin()
    z = points[:, 0] * turn.sin() + points[:, 2] * turn.cos()
    place = torch.stack([x, points[:, 1], z], -1) * (frequency / 2)[:, None]
    place = place + material[:, 3:4] * 7  # no two surfaces show the same piece of noise
    coarse, fine = value_noise(place), value_noise(place * 3.1)
    lies_flat = hits.normal[:, 1].abs() > 0.7
    across = torch.where(lies_flat, place[:, 0], place[:, 0] + place[:, 2])
    along = torch.where(lies_flat, place[:, 2], place[:, 1])
    row = along.floor()
    patterns = torch.stack(
        [
            coarse,
            (across.floor() + row) % 2,
            (across % 1 > 0.5).float(),
            ((across + 0.5 * (row % 2)) % 1 > 0.06).float() * (along % 1 > 0.1),
            (place[:, 0] * 2 + coarse * 3) % 1,
            (fine > 0.7).float(),
        ]
    )
    kind = material[:, 6].long()
    pattern = patterns.gather(0, kind[None])[0]
    # Regular patterns fade with distance, where a camera could not resolve them either.
    regular = (kind >= 1) & (kind <= 3)
    fade = torch.where(regular, 1 / (1 + hits.distance * frequency / 60), 1.0)
    pattern = 0.5 + (pattern - 0.5) * fade
    mix = (strength * (0.75 * pattern + 0.25 * fine))[:, None]
    return material[:, :3] * (1 - mix) + material[:, 3:6] * mix


def value_noise(points: Tensor) -> Tensor:
    """Smooth random values in [0, 1] at points (..., 3): a hashed lattice, interpolated."""
    corner = points.floor()
    f = points - corner
    f = f * f * (3 - 2 * f)
    total = torch.zeros_like(f[..., 0])
    for dx in (0, 1):
        for dy in (0, 1):
            for dz in (0, 1):
                offset = torch.tensor([dx, dy, dz], device=points.device)
                weight = torch.where(offset > 0, f, 1 - f).prod(-1)
                x, y, z = (corner + offset).unbind(-1)
                phase = (x * 12.9898 + y * 78.233 + z * 37.719) % 6.2831853
                total = total + (phase.sin() * 4375.8545 % 1) * weight
    return total


def paint_sky(world: World, rays: Tensor) -> tuple[Tensor, Tensor]:
    """The horizon's colour (3,) and the sky's, clouds included, along each ray (P, 3)."""
    u = world.uniform
    direction = F.normalize(rays, dim=-1)
    up = direction[:, 1].clamp(0, 1)
    zenith = torch.tensor([u(0.1, 0.7), u(0.25, 0.75), u(0.4, 1)], device=rays.device)
    brightness = u(0.5, 1)
    tint = [u(0.9, 1.1) for _ in range(3)]
    horizon = torch.tensor([brightness * t for t in tint], device=rays.device)
    # A flat layer of clouds seen from below shrinks towards the horizon.
    x, z = direction[:, 0] / (up + 0.12), direction[:, 2] / (up + 0.12)
    layer = value_noise(torch.stack([x, torch.zeros_like(up), z], -1) * 1.5)
    layer = layer + 0.5 * value_noise(torch.stack([x, up, z], -1) * 4)
    cover = ((layer - u(0.6, 1.6)) * 2).clamp(0, 1)[:, None]
    sky = horizon + (zenith - horizon) * up[:, None] ** 0.5
    return horizon, sky + (0.95 - sky) * cover


def photograph(world: World, light: Tensor) -> Tensor:
    """Linear light (3, H, W) -> what a camera of unknown settings writes, in [0, 1]."""
    u = world.uniform
    height, width = light.shape[-2:]
    bright = light.mean(0).flatten().quantile(0.9).clamp(min=1e-3)
    white_balance = torch.tensor([u(0.88, 1.12), 1.0, u(0.88, 1.12)], device=light.device)
    picture = light / bright * u(0.35, 1.1) * white_balance[:, None, None]
    y = torch.linspace(-1, 1, height, device=light.device)[:, None]
    x = torch.linspace(-1, 1, width, device=light.device)[None]
    picture = picture * (1 - u(0, 0.3) * (x**2 + y**2) / 2)
    grey = picture.mean(0, keepdim=True)
    picture = grey + (picture - grey) * (0.0 if world.chance(0.06) else u(0.4, 1.3))
    picture = picture.clamp(min=0) ** (1 / u(1.7, 2.5))
    picture = 0.5 + (picture.clamp(0, 1.3) - 0.5) * u(0.8, 1.25)
    picture = blur(picture, u(0.05, 0.9))
    noise = torch.randn(picture.shape, generator=world.generator).to(picture.device)
    return (picture + noise * (u(0, 1) ** 2 * 0.04)).clamp(0, 1)


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a (3, H, W) picture, five taps each way."""
    taps = torch.exp(-(torch.arange(-2.0, 3.0, device=picture.device) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, 5)
    padded = F.pad(picture[None], (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(padded, taps, groups=3)
    return F.conv2d(rows, taps.transpose(2, 3), groups=3)[0]
