"""Real scale: measurements on a depth mesh, and the mesh in metres by them."""

from __future__ import annotations

import shutil
from pathlib import Path

import bpy
import numpy as np
from addon_in_blender import depth_mesh, evaluated, part, scenario, use_engine

SPOTS = [(0.2, 0.3), (0.8, 0.7), (0.5, 0.1), (0.1, 0.8), (0.9, 0.2), (0.4, 0.6), (0.65, 0.35)]


def where(obj: bpy.types.Object, spot: tuple[float, float]):
    return part("mesh.picked_points").picture_point(obj, spot).position


def measure(obj: bpy.types.Object, distances: dict[tuple[float, float], float]) -> None:
    for spot, distance in distances.items():
        point = obj.marigold_known.points.add()
        point.at, point.distance = spot, distance


def near_and_far(obj: bpy.types.Object) -> list[float]:
    get = part("mesh.shape_inputs").get_input
    return [get(obj, "Near"), get(obj, "Far")]


def by_ray(vertices: np.ndarray) -> np.ndarray:
    """The distances of the vertices by rows of the picture: a closed layer changes their order."""
    z = -vertices[:, 2]
    x, y = np.round(vertices[:, 0] / z, 4), np.round(vertices[:, 1] / z, 4)
    return z[np.lexsort((x, -y))]


@scenario
def distances_give_the_whole_mesh_its_metres(folder: Path, python: str) -> None:
    obj = depth_mesh(folder, depth_filepath=str(folder / "waves.npy"), near=2.0, far=10.0)
    part("mesh.shape_inputs").set_inputs(obj, tear=False)
    truth = evaluated(obj)[1]
    distances = {spot: where(obj, spot).length for spot in SPOTS}
    assert not bpy.ops.marigold.fit_metres.poll(), "nothing is known yet"
    part("mesh.shape_inputs").set_inputs(obj, near=1.0, far=3.0, relief=0.7)
    known = obj.marigold_known
    measure(obj, dict(list(distances.items())[:2]))
    assert bpy.ops.marigold.fit_metres() == {"FINISHED"}
    assert "another point shows" in known.report and not known.relative_error
    known.points.clear()
    measure(obj, distances)
    known.points[2].distance *= 3  # one of seven is wrong
    assert bpy.ops.marigold.fit_metres() == {"FINISHED"}
    assert np.allclose(near_and_far(obj), [2, 10], rtol=0.01), near_and_far(obj)
    assert np.allclose(evaluated(obj)[1], truth, rtol=0.01, atol=0.01)
    assert [point.left_out for point in known.points] == [k == 2 for k in range(7)]
    assert "1 of 7 points" in known.report and "Expected error" in known.report
    assert "estimate" not in obj.data.attributes, "scale and shift are near and far"
    assert bpy.ops.marigold.remove_point(kind="DISTANCE", index=2) == {"FINISHED"}
    assert bpy.ops.marigold.fit_metres() == {"FINISHED"} and len(known.points) == 6
    assert not any(point.left_out for point in known.points)


@scenario
def disparity_bends_to_metres(folder: Path, python: str) -> None:
    """Where inverse depth fits, each vertex moves; a second fit starts from the estimate."""
    z = 2 + 8 * np.load(folder / "waves.npy")
    inverse = 1 / z
    d = (inverse.max() - inverse) / np.ptp(inverse)
    np.save(folder / "disparity.npy", d.astype(np.float32))
    obj = depth_mesh(folder, depth_filepath=str(folder / "disparity.npy"), background=True)
    part("mesh.shape_inputs").set_inputs(obj, tear=False, background=False)
    height, width = z.shape
    rng = np.random.default_rng(0)
    for _ in range(12):
        row, column = int(rng.integers(1, height - 1)), int(rng.integers(1, width - 1))
        spot = ((column + 0.5) / width, 1 - (row + 0.5) / height)
        along = np.linalg.norm(where(obj, spot)) / -where(obj, spot).z
        measure(obj, {spot: float(z[row, column] * along)})
    for _ in range(2):
        assert bpy.ops.marigold.fit_metres() == {"FINISHED"}
        seen = by_ray(evaluated(obj)[1]).reshape(height, width)
        assert abs(seen / z - 1)[1:-1, 1:-1].max() < 0.02, abs(seen / z - 1).max()
    assert "estimate" in obj.data.attributes
    quads = np.empty(len(obj.data.polygons), dtype=np.float32)
    obj.data.attributes["d_furthest"].data.foreach_get("value", quads)
    assert np.isfinite(quads).all() and not obj.data.validate()


@scenario
def a_length_and_a_height_set_the_scale(folder: Path, python: str) -> None:
    obj = depth_mesh(folder, depth_filepath=str(folder / "waves.npy"), near=1.0, far=3.0)
    spots = [(0.2, 0.3), (0.8, 0.7)]
    one = obj.marigold_known.lengths.add()
    one.start, one.end = spots
    one.length = 2.5 * (where(obj, spots[0]) - where(obj, spots[1])).length
    assert bpy.ops.marigold.fit_metres() == {"FINISHED"}
    near, far = near_and_far(obj)
    assert np.isclose(far / near, 3), "the relief stays"
    assert np.isclose(near, 2.5, rtol=0.02)
    assert "fixes the shift" in obj.marigold_known.report

    assert bpy.ops.marigold.remove_point(kind="LENGTH", index=0) == {"FINISHED"}
    known = obj.marigold_known
    known.camera_height = 1.7
    try:
        bpy.ops.marigold.fit_metres()
    except RuntimeError as error:
        assert "three points of the floor" in str(error)
    else:
        raise AssertionError("a height without a floor")
    for spot in [(0.1, 0.1), (0.9, 0.1), (0.5, 0.3)]:
        known.floor.add().at = spot
    assert bpy.ops.marigold.fit_metres() == {"FINISHED"}
    assert bpy.ops.marigold.align_ground() == {"FINISHED"}
    assert np.isclose(obj.matrix_world.translation.z, 1.7, rtol=0.02)


@scenario
def contradictions_change_nothing(folder: Path, python: str) -> None:
    obj = depth_mesh(folder, depth_filepath=str(folder / "waves.npy"), near=1.0, far=3.0)
    farthest = max(SPOTS, key=lambda spot: where(obj, spot).length)
    nearest = min(SPOTS, key=lambda spot: where(obj, spot).length)
    measure(obj, {farthest: 1.0, nearest: 9.0})
    before = evaluated(obj)[1]
    try:
        bpy.ops.marigold.fit_metres()
    except RuntimeError as error:
        assert "contradict" in str(error) and len(str(error).strip().splitlines()) == 1
    else:
        raise AssertionError("contradicting distances went through")
    assert (evaluated(obj)[1] == before).all() and not obj.marigold_known.fitted


@scenario
def guided_by_the_points_and_estimated_again(folder: Path, python: str) -> None:
    use_engine(python)
    quick = dict(depth_filepath="", num_inference_steps=1, update=True)
    obj = depth_mesh(folder, **quick)
    obj.location = (1, 2, 3)
    measure(obj, {SPOTS[0]: 3.0 * where(obj, SPOTS[0]).length})
    assert not bpy.ops.marigold.guided.poll()
    measure(obj, {spot: 3.0 * where(obj, spot).length for spot in SPOTS[1:]})
    assert bpy.ops.marigold.guided(num_inference_steps=3) == {"FINISHED"}
    known = obj.marigold_known
    errors = [where(obj, p.at).length / p.distance - 1 for p in known.points if not p.left_out]
    assert len(errors) >= 4 and np.median(np.abs(errors)) < 0.25, errors
    assert known.fitted and known.report and tuple(obj.location) == (1, 2, 3)
    # Another depth for the mesh is in metres as well.
    assert depth_mesh(folder, seed=4, **quick) == obj
    errors = [where(obj, p.at).length / p.distance - 1 for p in known.points if not p.left_out]
    assert np.median(np.abs(errors)) < 0.25, errors
    # It has the surface of the sidebar too.
    maps = folder / "maps"
    maps.mkdir()
    shutil.copy(folder / "picture.png", maps / "albedo.png")
    relit = dict(surface="RELIGHTABLE", surface_folder=str(maps))
    assert bpy.ops.marigold.guided(num_inference_steps=1, **relit) == {"FINISHED"}
    assert part("mesh.picture_material").shown(obj.active_material) == "Relightable"
