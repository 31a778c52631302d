"""Draw the pictures of the nodes' help pages, web/docs/images/*.jpg, and of the templates.

    python docs/node_pictures.py

Depth and normals are what the nodes give for the bundled picture with the bundled checkpoint.
Intrinsic images, for which none is bundled, are those of a scene made by a formula.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from marigold_core import (
    DepthMap,
    KnownDepths,
    Marigold,
    align_sequence,
    fit_metric,
    normalize_depth,
    panorama_depth,
    read_image,
)
from marigold_core.colormaps import COLORMAPS, colorize
from marigold_core.geometry.camera_estimate import estimate_camera
from marigold_core.geometry.points import unproject
from marigold_core.intrinsics import linear_to_srgb
from marigold_core.panorama import sphere_rays

ROOT = Path(__file__).parents[1]
PANEL = 240  # pixels, the width of one panel
THUMBNAIL = 400  # pixels, the side of a template's picture
Floats = NDArray[np.float32]


def to_bytes(values: Floats) -> NDArray[np.uint8]:
    """[0, 1] -> 8 bits; one channel becomes gray."""
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def strip(panels: list[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    """Panels beside each other, each under its caption."""
    height = round(PANEL * panels[0][1].shape[0] / panels[0][1].shape[1])
    gap, head = 6, 26
    size = len(panels) * (PANEL + gap) - gap, head + height
    sheet = Image.new("RGB", size, (32, 32, 36))
    draw = ImageDraw.Draw(sheet)
    for number, (caption, picture) in enumerate(panels):
        left = number * (PANEL + gap)
        small = Image.fromarray(picture).resize((PANEL, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, head))
        draw.text((left + 4, 4), caption, "white", ImageFont.load_default(15))
    return sheet


def square(picture: NDArray[np.uint8]) -> Image.Image:
    """The middle of a picture, as large as a template's picture."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(picture[top : top + side, left : left + side])
    return cut.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)


def halves(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> Image.Image:
    """A square, one picture above its diagonal and the other below."""
    rows, columns = np.mgrid[:THUMBNAIL, :THUMBNAIL]
    mask = Image.fromarray(rows + columns < THUMBNAIL)
    thumbnail = Image.composite(square(upper), square(lower), mask)
    line = (0, THUMBNAIL, THUMBNAIL, 0)
    ImageDraw.Draw(thumbnail).line(line, "white", 4)
    return thumbnail


def pan(marigold: Marigold, rgb: Floats) -> list[tuple[Floats, Floats]]:
    """Three frames of a pan over the picture, each with its depth, aligned as frames of a clip."""
    height, width = rgb.shape[:2]
    tall, wide = height * 3 // 4, width * 3 // 4
    corners = (
        [(height - tall) * n // 2 for n in range(3)],
        [(width - wide) * n // 2 for n in range(3)],
    )
    frames = [
        rgb[y : y + tall, x : x + wide]
        for y, x in zip(reversed(corners[0]), corners[1], strict=True)
    ]
    depths = torch.stack([one[0] for one in marigold.predict_frames(frames, seed=0)])
    gray = normalize_depth(align_sequence(depths.cpu().numpy()), invert=True)
    return list(zip(frames, gray, strict=True))


def film(frames: list[tuple[Floats, Floats]]) -> Image.Image:
    """A square with three frames of a clip, each beside its depth."""
    sheet = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (32, 32, 36))
    size = THUMBNAIL // 2 - 2, THUMBNAIL // 3 - 2
    for row, pair in enumerate(frames):
        for column, one in enumerate(pair):
            small = Image.fromarray(to_bytes(one)).resize(size, Image.Resampling.LANCZOS)
            sheet.paste(small, (column * (size[0] + 4), row * (size[1] + 3)))
    return sheet


def relief(depth: Floats) -> Floats:
    """Light from the side on the surface: shows steps that the map itself hides."""
    down, right = np.gradient(depth.astype(np.float64) * 500)
    return ((1 + right + down) / np.sqrt(3 * (1 + right**2 + down**2))).astype(np.float32)


def room_panorama(height: int) -> Floats:
    """A furnished room of a formula, all around: (H, 2 H, 3) in [0, 1]."""
    rays = sphere_rays(height, 2 * height, slice(None))[0].numpy().astype(np.float64)
    walls = np.where(rays > 0, [2.5, 1.2, 3.5], [1.8, 1.0, 2.5]) / np.maximum(abs(rays), 1e-6)
    distance, side = walls.min(-1), walls.argmin(-1)
    base = np.array([[0.75, 0.6, 0.5], [0.55, 0.45, 0.35], [0.6, 0.65, 0.75]])
    colour = base[side] * np.where((rays[..., 1] < 0) & (side == 1), 1.6, 1)[..., None]
    normal = -np.sign(rays) * (np.arange(3) == side[..., None])
    for centre, radius, tint in (
        ((0.9, 0.6, 1.6), 0.6, (0.8, 0.25, 0.15)),
        ((-1.0, 0.8, 0.4), 0.4, (0.2, 0.5, 0.75)),
        ((0.6, 0.7, -1.5), 0.5, (0.85, 0.7, 0.2)),
    ):
        along = rays @ np.array(centre)
        inside = along**2 - np.dot(centre, centre) + radius**2
        near = along - np.sqrt(inside.clip(0))
        hit = (inside > 0) & (along > 0) & (near < distance)
        point = rays * near[..., None]
        normal = np.where(hit[..., None], (point - centre) / radius, normal)
        colour = np.where(hit[..., None], tint, colour)
        distance = np.where(hit, near, distance)
    tiles = np.floor(rays * distance[..., None] / 0.5 + 1e-3).sum(-1) % 2
    light = np.array([0.3, -0.9, -0.2])
    shade = 0.55 + 0.45 * (normal @ light).clip(0, 1) + 0.08 * tiles
    return (colour * shade[..., None]).clip(0, 1).astype(np.float32)


def made_scene(height: int) -> dict[str, Floats]:
    """Three balls on tiles before a wall: the picture in linear light, its intrinsic images and its
    normals, each (H, 4/3 H) or (H, 4/3 H, 3)."""
    width = height * 4 // 3
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([x / height - width / height / 2, y / height - 0.42, np.ones_like(x)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    wall, floor = 6 / rays[..., 2], 1 / np.maximum(rays[..., 1], 1e-6)
    distance, behind = np.minimum(wall, floor), wall < floor
    normal = np.where(behind[..., None], [0, 0, -1.0], [0, -1.0, 0])
    ground = rays * distance[..., None]
    light_tile = (np.floor(ground[..., 0] / 0.6) + np.floor(ground[..., 2] / 0.6)) % 2 == 0
    albedo = np.where(light_tile[..., None], [0.62, 0.55, 0.46], [0.24, 0.2, 0.18])
    albedo = np.where(behind[..., None], [0.35, 0.42, 0.4], albedo)
    roughness = np.where(behind, 0.95, np.where(light_tile, 0.75, 0.45))
    metal = np.zeros_like(x)
    balls = (((-1.0, 0.35, 3.4), 0.65, (0.7, 0.12, 0.08), 0.6, 0.0),
             ((0.35, 0.1, 4.0), 0.9, (0.83, 0.62, 0.28), 0.25, 1.0),
             ((1.15, 0.55, 2.6), 0.45, (0.1, 0.32, 0.62), 0.15, 0.0))  # fmt: skip
    for centre, radius, tint, rough, is_metal in balls:
        along = rays @ np.array(centre)
        inside = along**2 - np.dot(centre, centre) + radius**2
        near = along - np.sqrt(inside.clip(0))
        hit = (inside > 0) & (near < distance)
        normal = np.where(hit[..., None], (rays * near[..., None] - centre) / radius, normal)
        albedo = np.where(hit[..., None], tint, albedo)
        roughness, metal = np.where(hit, rough, roughness), np.where(hit, is_metal, metal)
        distance = np.where(hit, near, distance)
    light = np.array([-0.5, -0.75, -0.45])
    light /= np.linalg.norm(light)
    point = rays * distance[..., None]
    shadow = np.zeros(x.shape, bool)
    for centre, radius, *_ in balls:
        away = np.array(centre) - point
        along = away @ light
        shadow |= (along > 1e-2) & ((away**2).sum(-1) - along**2 < radius**2 * (1 - 1e-6))
    lit = (normal @ light).clip(0) * ~shadow
    half = light - rays
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    gloss = (normal * half).sum(-1).clip(0) ** (2 / roughness**4)
    shading = 0.25 + 0.75 * lit[..., None] * np.array([1, 0.93, 0.82])
    mirrored = np.where(metal[..., None] > 0, albedo, 0.25)
    residual = mirrored * (gloss * ~shadow * (1 - roughness))[..., None]
    scene = {
        "picture": albedo * shading + residual,
        "albedo": albedo, "roughness": roughness, "metallicity": metal, "shading": shading,
        "residual": residual, "normals": normal * [1, -1, -1],
        "metres": distance * rays[..., 2],
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in scene.items()}


def corner(height: int) -> tuple[Floats, Floats]:
    """The corner of a tiled room, seen with 60 degrees: picture (H, 4/3 H, 3) and metres."""
    width = height * 4 // 3
    rays = np.mgrid[:height, :width][::-1] + 0.5 - np.array([width, height])[:, None, None] / 2
    focal = width / 2 / np.tan(np.radians(30))
    down, right = np.radians([25, 35])
    tilt = [[1, 0, 0], [0, np.cos(down), np.sin(down)], [0, -np.sin(down), np.cos(down)]]
    turn = [[np.cos(right), 0, np.sin(right)], [0, 1, 0], [-np.sin(right), 0, np.cos(right)]]
    rays = np.stack([*rays / focal, np.ones((height, width))], -1) @ (np.array(turn) @ tilt).T
    walls = np.array([2.5, 1.6, 3.5]) / np.maximum(rays, 1e-6)
    metres, side = walls.min(-1), walls.argmin(-1)
    tiles = np.floor(rays * metres[..., None] / 0.5 + 1e-3).sum(-1) % 2
    base = np.array([[0.75, 0.6, 0.5], [0.55, 0.45, 0.35], [0.6, 0.65, 0.75]])
    return (base[side] * (0.8 + 0.2 * tiles)[..., None]).astype(np.float32), metres.astype("f4")


def from_above(points: Floats, colours: Floats) -> NDArray[np.uint8]:
    """Points (H, W, 3) in OpenCV axes on a square plan, the camera below its middle."""
    plan = np.full((PANEL, PANEL, 3), 32, np.uint8)
    flat = points.reshape(-1, 3)
    scale = 0.9 * PANEL / max(float(flat[:, 2].max()), 2 * float(np.abs(flat[:, 0]).max()))
    rows = np.rint(PANEL - 1 - flat[:, 2] * scale).astype(int).clip(0, PANEL - 1)
    columns = np.rint(PANEL / 2 + flat[:, 0] * scale).astype(int).clip(0, PANEL - 1)
    plan[rows, columns] = to_bytes(colours).reshape(-1, 3)
    return plan


def camera_sheet() -> list[tuple[str, NDArray[np.uint8]]]:
    """A corner seen by a camera that is not known: its plan with the usual values and as found."""
    picture, metres = corner(480)
    depth = ((metres - metres.min()) / np.ptp(metres)).astype(np.float32)
    found = estimate_camera(depth)
    assert found.fov_degrees is not None
    plans = []
    for fov, (near, far) in ((50.0, (1.0, 5.0)), (found.fov_degrees, found.near_far)):
        points = unproject(depth, fov_degrees=fov, near=near, far=far)
        plan = from_above(points[:240], picture[:240])  # the walls, not the floor
        plans.append(np.pad(plan, ((0, 0), (40, 40), (0, 0)), constant_values=32))
    captions = "picture", "usual values, from above", "as found, from above"
    return list(zip(captions, [to_bytes(picture), *plans], strict=True))


def highlight(normals: Floats) -> Floats:
    """The light of a lamp behind the viewer on a glossy surface: shows the steps of normals."""
    upright: Floats = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    return upright[..., 2].clip(0, 1) ** 1500


def bulge(side: int) -> Floats:
    """Normals of a surface that is almost flat, (side, side, 3)."""
    y, x = np.mgrid[:side, :side] / side * 0.16 - 0.08
    normals = np.stack([x, -y, np.ones_like(x)], -1)
    return (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32)


def quarters(pictures: list[NDArray[np.uint8]]) -> Image.Image:
    """A square of four pictures."""
    sheet = Image.new("RGB", (THUMBNAIL, THUMBNAIL))
    half = THUMBNAIL // 2
    for number, picture in enumerate(pictures):
        sheet.paste(square(picture).resize((half, half)), (number % 2 * half, number // 2 * half))
    return sheet


def from_the_side(
    depth_map: DepthMap, rgb: Floats, degrees: float = 16, *, fill: bool = False
) -> Floats:
    """The mesh's vertices, drawn nearest last from a camera that stands to the right."""
    mesh = depth_map.mesh(rgb, fov_degrees=50, near=1.0, far=4.0, fill=fill)
    assert mesh.texture is not None
    height, width = rgb.shape[:2]
    points = mesh.vertices.astype(np.float64)
    turn, centre = np.radians(degrees), np.array([0, 0, 2.2])
    rotation = np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    points = (points - centre) @ rotation.T + centre + [0, 0, 0.3]
    focal = width / 2 / np.tan(np.radians(25))
    column = np.rint(points[:, 0] / points[:, 2] * focal + width / 2).astype(int)
    row = np.rint(points[:, 1] / points[:, 2] * focal + height / 2).astype(int)
    rows, columns = mesh.texture.shape[:2]
    texel = np.minimum(mesh.uvs * [columns, rows], [columns - 1, rows - 1]).astype(int)
    colours = mesh.texture[rows - 1 - texel[:, 1], texel[:, 0]] / np.float32(255)
    picture = np.full((height, width, 3), 0.12, np.float32)
    for point in np.argsort(-points[:, 2]):
        y, x = row[point], column[point]
        if 0 <= y < height and 0 <= x < width:
            picture[y : y + 2, x : x + 2] = colours[point]
    return picture


def metric_sheets(scene: dict[str, Floats]) -> dict[str, list[tuple[str, NDArray[np.uint8]]]]:
    """Known points of the made scene, and what the fit makes of a depth map with a made error."""
    rgb, truth = linear_to_srgb(scene["picture"]), scene["metres"]
    height, width = truth.shape
    rng = np.random.default_rng(3)
    places = rng.integers(4, (width - 4, height - 4), (100, 2))
    known = KnownDepths(places + 0.5, truth[places[:, 1], places[:, 0]], size=truth.shape)
    dotted = to_bytes(rgb)
    for x, y in places:
        dotted[y - 1 : y + 2, x - 1 : x + 2] = colorize(truth / truth.max())[y, x]
    rows, columns = np.mgrid[:height, :width] / height
    error = 0.05 * np.sin(5 * rows + 3 * columns) + rng.normal(0, 0.01, truth.shape)
    depth = ((truth - truth.min()) / np.ptp(truth) + error).clip(0, 1).astype(np.float32)
    fitted = fit_metric(DepthMap(depth), known).depth
    points = ("100 known points", dotted)
    metres = [
        (name, colorize((values / truth.max()).clip(0, 1)))
        for name, values in (("metres, fitted", fitted), ("true metres", truth))
    ]
    return {
        "known": [("picture", to_bytes(rgb)), points],
        "metric": [points, ("a depth map", to_bytes(depth)), *metres],
    }


def main() -> None:
    marigold = Marigold.from_pretrained("nano")
    rgb = read_image(ROOT / "marigold_core" / "assets" / "example.jpg")
    generator = torch.Generator().manual_seed(0)
    members = (
        marigold.predict(rgb, num_inference_steps=4, ensemble_size=10, generator=generator)
        .cpu()
        .numpy()
    )
    depth_map = marigold(
        rgb, num_inference_steps=4, ensemble_size=10, generator=generator.manual_seed(0)
    )
    depth, uncertainty = depth_map.depth, depth_map.uncertainty
    assert uncertainty is not None
    near_white = normalize_depth(depth, invert=True)
    disparity = normalize_depth(depth, mode="inverse", near=1.0, far=5.0)
    picture = ("picture", to_bytes(rgb))
    coarse = np.rint(depth * 255) / 255
    sheets = {
        "load": [picture, ("depth, from nano", colorize(depth))],
        "estimate": [picture, *((f"prediction {n + 1}", to_bytes(members[n])) for n in range(3))],
        "ensemble": [
            ("one of 10 predictions", to_bytes(members[0])),
            ("depth", to_bytes(depth)),
            ("uncertainty", to_bytes(uncertainty / uncertainty.max())),
        ],
        "normalize": [
            ("depth", to_bytes(depth)),
            ("near is white", to_bytes(near_white)),
            ("inverse depth, 1 to 5", to_bytes(disparity)),
            ("gamma 2", to_bytes(normalize_depth(depth, invert=True, gamma=2.0))),
        ],
        "from_image": [("IMAGE, near is white", to_bytes(near_white)), ("depth", colorize(depth))],
        "mesh": [
            picture,
            ("depth", to_bytes(depth)),
            ("the mesh, from the right", to_bytes(from_the_side(depth_map, rgb))),
        ],
        "points": [
            picture,
            ("depth", to_bytes(depth)),
            ("the points, from the right", to_bytes(from_the_side(depth_map, rgb, 12))),
        ],
        "path": [
            (caption, to_bytes(from_the_side(depth_map, rgb, degrees, fill=True)))
            for caption, degrees in (("left end", -6), ("middle", 0), ("right end", 6))
        ],
        "save": [
            ("8 bits, lit from the side", to_bytes(relief(coarse))),
            ("32-bit EXR, the same light", to_bytes(relief(depth))),
        ],
        "colorize": [(name, colorize(depth, name)) for name in COLORMAPS],
        "one_node": [picture, ("depth, near is white", to_bytes(near_white))],
    }
    panorama = room_panorama(256)
    around = panorama_depth(marigold, panorama, ensemble_size=4, seed=0)
    sheets["panorama"] = [
        ("panorama", to_bytes(panorama)),
        ("distance from its centre", colorize(around.depth)),
    ]
    normals = depth_map.normals(near=1.0, far=4.0)
    sheets["normals"] = [picture, ("normals", to_bytes(normals.encoded()))]
    sheets["conventions"] = [
        (name, to_bytes(normals.encoded(name.lower())))
        for name in ("OpenGL", "DirectX", "ControlNet")
    ]
    sheets["normals_from_depth"] = [
        picture, ("depth", to_bytes(depth)), ("normals", to_bytes(normals.encoded()))
    ]  # fmt: skip
    flat = bulge(PANEL)
    coarse = np.rint((flat + 1) / 2 * 255) / 255 * 2 - 1
    sheets["save_normals"] = [
        ("8 bits, under a lamp", to_bytes(highlight(coarse))),
        ("16 bits, the same lamp", to_bytes(highlight(flat))),
    ]
    scene = made_scene(240)
    colours = {
        name: to_bytes(linear_to_srgb(values) if values.ndim == 3 else values)
        for name, values in scene.items()
    }
    sheets["intrinsic"] = [(name, colours[name]) for name in list(scene)[:6]]
    sheets["save_intrinsic"] = [
        ("albedo in sRGB", colours["albedo"]),
        ("the linear values, as they are", to_bytes(scene["albedo"])),
        ("roughness, the same in both", colours["roughness"]),
    ]
    sheets["camera"] = camera_sheet()
    clip = pan(marigold, rgb)
    sheets["video"] = [
        (f"{which} frame{what}", to_bytes(picture))
        for which, pair in zip(("first", "last"), clip[::2], strict=True)
        for what, picture in zip(("", ", depth"), pair, strict=True)
    ]
    sheets |= metric_sheets(scene)
    folder = ROOT / "web" / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, panels in sheets.items():
        strip(panels).save(folder / f"{name}.jpg", quality=85)
        print(f"wrote {folder / name}.jpg")
    shown = colorize((uncertainty / 0.1).clip(0, 1), "viridis")
    thumbnails = {
        "Depth map of a photo": halves(to_bytes(rgb), to_bytes(near_white)),
        "Depth with uncertainty, for ControlNet": halves(to_bytes(disparity), shown),
        "Photo to textured 3D mesh": square(to_bytes(from_the_side(depth_map, rgb))),
        "Normals of a photo, for ControlNet": halves(
            to_bytes(rgb), to_bytes(normals.encoded("controlnet"))
        ),
        "Photo to PBR material": quarters(
            [
                colours["albedo"],
                to_bytes(scene["normals"] / 2 + 0.5),
                colours["roughness"],
                colours["metallicity"],
            ]
        ),
        "Photo to parallax video": halves(
            *(to_bytes(from_the_side(depth_map, rgb, turn, fill=True)) for turn in (-7, 7))
        ),
        "Depth of a clip": film(clip),
    }
    for name, picture in thumbnails.items():
        file = ROOT / "example_workflows" / f"{name}.jpg"
        picture.save(file, quality=85)
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
