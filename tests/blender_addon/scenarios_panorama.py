"""Panoramas: a mesh all around its camera, by the worker and from a depth file."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from addon_in_blender import depth_mesh, evaluated, meshes, part, scenario, use_engine

HEIGHT, WIDTH = 60, 120


def write_panorama(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A box of a room around its centre with a ball in it: distances, and smooth colours."""
    latitude = (0.5 - (np.arange(HEIGHT) + 0.5) / HEIGHT) * np.pi
    longitude = ((np.arange(WIDTH) + 0.5) / WIDTH * 2 - 1) * np.pi
    level = np.cos(latitude)[:, None]
    rays = np.stack(
        np.broadcast_arrays(
            level * np.sin(longitude), np.sin(latitude)[:, None], level * np.cos(longitude)
        ),
        axis=-1,
    )
    distance = (np.array([3.0, 1.5, 4.0]) / np.maximum(np.abs(rays), 1e-6)).min(axis=2)
    ball = rays @ (0.6, 0.0, 0.8) > 0.95
    distance[ball] = 1.2
    colours = np.clip(rays / 2 + 0.5, 0, 1).astype(np.float32)
    image = bpy.data.images.new("panorama", WIDTH, HEIGHT)
    rgba = np.ones((HEIGHT, WIDTH, 4), dtype=np.float32)
    rgba[..., :3] = colours[::-1]
    image.pixels.foreach_set(rgba.ravel())
    image.filepath_raw, image.file_format = str(folder / "panorama.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)
    np.save(folder / "distance.npy", distance.astype(np.float32))
    return distance.astype(np.float32), colours


@scenario
def a_panorama_is_a_mesh_around_its_camera(folder: Path, python: str) -> None:
    from marigold_core.geometry.sphere import panorama_to_mesh

    distance, colours = write_panorama(folder)
    settings = bpy.context.scene.marigold
    settings.picture = str(folder / "picture.png")
    assert not settings.panorama and not settings.twice_as_wide
    settings.picture = str(folder / "panorama.png")
    assert settings.panorama and settings.twice_as_wide, "offered by the picture's shape"

    files = dict(filepath=settings.picture, depth_filepath=str(folder / "distance.npy"))
    obj = depth_mesh(folder, panorama=True, background=True, **files)
    mesh, points, corners = evaluated(obj)
    reference = panorama_to_mesh(distance, near=None, far=None)
    assert points.shape == reference.vertices.shape
    assert np.allclose(points, reference.vertices * (1, -1, -1), atol=1e-4)
    assert (corners.reshape(-1, 4) == reference.faces).all()
    uv = np.empty(len(corners) * 2, dtype=np.float32)
    mesh.attributes["UVMap"].data.foreach_get("vector", uv)
    assert np.allclose(uv.reshape(-1, 2), reference.uvs[corners], atol=1e-6)

    # Live: twice as far, every other row, not torn, solid.
    set_inputs = part("mesh.shape_inputs").set_inputs
    near, far = (part("mesh.shape_inputs").get_input(obj, name) for name in ("Near", "Far"))
    set_inputs(obj, near=2 * near, far=2 * far)
    assert np.allclose(evaluated(obj)[1], 2 * points, rtol=1e-5, atol=1e-4)
    set_inputs(obj, near=near, far=far, resolution=50)
    assert 0 < len(evaluated(obj)[1]) < 0.7 * len(points)
    set_inputs(obj, resolution=100, tear=False)
    assert len(evaluated(obj)[2]) == 4 * (HEIGHT - 1) * WIDTH
    set_inputs(obj, solid=True)
    assert np.linalg.norm(evaluated(obj)[1], axis=1).max() > np.linalg.norm(points, axis=1).max()
    set_inputs(obj, solid=False, tear=True)

    # What needs a single view says that there is none.
    for refused in (bpy.ops.marigold.camera_move, bpy.ops.marigold.pick_point):
        assert not refused.poll()
    again = depth_mesh(folder, panorama=True, update=True, **files)
    assert again == obj and len(meshes()) == 1
    saved = folder / "saved.exr"
    assert bpy.ops.marigold.save_depth(filepath=str(saved)) == {"FINISHED"}
    read = part("mesh.depth_file").read_depth_file(str(saved))
    there = read.near + read.depth * (read.far - read.near)
    assert np.allclose(there[1:-1], distance[1:-1], rtol=1e-5)

    # Its camera sees the picture, in the right place and the right way round.
    scene = bpy.context.scene
    assert scene.camera == obj.children[0] and scene.camera.data.type == "PANO"
    assert scene.render.engine == "CYCLES"
    assert (scene.render.resolution_x, scene.render.resolution_y) == (WIDTH, HEIGHT)
    scene.cycles.samples, scene.cycles.use_denoising = 4, False
    scene.render.filepath = str(folder / "seen.png")
    bpy.ops.render.render(write_still=True)
    pixels, _ = part("mesh.depth_file").file_pixels(folder / "seen.png")
    error = np.abs(pixels[..., :3] - colours)
    assert np.median(error) < 2 / 255 and np.percentile(error, 95) < 6 / 255, error.mean()

    count = len(evaluated(obj)[2]) // 4
    assert bpy.ops.marigold.bake(faces=30.0) == {"FINISHED"}
    assert len(obj.data.polygons) < 1.3 * count  # triangles
    radius = np.linalg.norm(evaluated(obj)[1], axis=1)
    assert 0.9 * distance.min() < radius.min() and radius.max() < 1.1 * distance.max()


@scenario
def the_worker_estimates_a_panorama(folder: Path, python: str) -> None:
    write_panorama(folder)
    use_engine(python)
    picture = dict(filepath=str(folder / "panorama.png"), processing_resolution=64)
    assert bpy.ops.marigold.depth_mesh(**picture, panorama=True, surface="RELIGHTABLE") == {
        "FINISHED"
    }
    (obj,) = meshes()
    assert part("mesh.shape_inputs").is_panorama(obj)
    points = evaluated(obj)[1]
    around = np.arctan2(points[:, 0], -points[:, 2])
    assert np.histogram(around, 8)[0].min() > 50, "on all sides"
    assert part("mesh.picture_material").shown(obj.active_material) == "Unlit"
    # Unasked it is a plain picture, with an offer: Blender does not keep the tick of the last run
    # for a picture that is dropped next.
    assert bpy.ops.marigold.depth_mesh.get_rna_type().properties["panorama"].is_skip_save
    assert bpy.ops.marigold.depth_mesh(**picture) == {"FINISHED"}
    assert not part("mesh.shape_inputs").is_panorama(bpy.context.active_object)
    assert "360" in part("ui.operators.background").run.message
