"""COLMAP models: text and binary, whole and torn."""

from __future__ import annotations

import importlib.util
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.errors import MarigoldError
from marigold_core.geometry.points import project
from marigold_core.metric.colmap import read_colmap
from marigold_core.metric.hint_files import read_known_depths

SIZE = (48, 64)
FOCAL = 60.0
# A quarter turn about y, then moved: world to camera.
QUATERNION = (np.cos(np.pi / 4), 0.0, np.sin(np.pi / 4), 0.0)
ROTATION = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
TRANSLATION = np.array([0.5, -0.25, 1.0])
POINTS = {7: (-4.0, 0.5, 0.25), 9: (-6.0, -1.0, 1.0), 2**40 + 1: (-3.0, 0.75, -1.0)}
ERRORS = {7: 0.1, 9: 1.0, 2**40 + 1: 2.0}


def observations() -> list[tuple[float, float, int]]:
    fov = np.degrees(2 * np.arctan(32 / FOCAL))
    camera = np.array(list(POINTS.values())) @ ROTATION.T + TRANSLATION
    places = project(camera, *SIZE, fov_degrees=fov)
    seen = [(x, y, number) for (x, y), number in zip(places.tolist(), POINTS, strict=True)]
    return [(1.0, 2.0, -1), *seen]  # the first without a point


PICTURES = ("left/photo.jpg", "right/photo.jpg", "sky.jpg")


def write_text(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"# cameras\n1 PINHOLE 64 48 {FOCAL} {FOCAL} 32 24\n")
    pose = " ".join(map(repr, map(float, (*QUATERNION, *TRANSLATION))))
    seen = " ".join(f"{x!r} {y!r} {number}" for x, y, number in observations())
    lines = ["# images", f"1 {pose} 1 {PICTURES[0]}", seen]
    lines += [f"2 {pose} 1 {PICTURES[1]}", seen, f"3 {pose} 1 {PICTURES[2]}", ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [
        f"{number} {x} {y} {z} 10 20 30 {ERRORS[number]} 1 {place} 2 {place}"
        for place, (number, (x, y, z)) in enumerate(POINTS.items(), start=1)
    ]
    (folder / "points3D.txt").write_text("# points\n" + "\n".join(rows) + "\n")


def write_binary(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    camera = struct.pack("<IiQQ4d", 1, 1, 64, 48, FOCAL, FOCAL, 32, 24)
    (folder / "cameras.bin").write_bytes(struct.pack("<Q", 1) + camera)
    images = struct.pack("<Q", 3)
    for number, name in enumerate(PICTURES, start=1):
        seen = observations() if name != PICTURES[2] else []
        images += struct.pack("<I7dI", number, *QUATERNION, *TRANSLATION, 1)
        images += name.encode() + b"\0" + struct.pack("<Q", len(seen))
        images += b"".join(struct.pack("<ddq", *row) for row in seen)
    (folder / "images.bin").write_bytes(images)
    points = struct.pack("<Q", len(POINTS))
    for place, (number, xyz) in enumerate(POINTS.items(), start=1):
        points += struct.pack("<Q3d3BdQ", number, *xyz, 10, 20, 30, ERRORS[number], 2)
        points += struct.pack("<4I", 1, place, 2, place)
    (folder / "points3D.bin").write_bytes(points)


WRITERS = {"text": write_text, "binary": write_binary}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("below", [".", "sparse/0"])
def test_depths_of_the_points_that_the_picture_saw(tmp_path, kind, below):
    WRITERS[kind](tmp_path / below)
    known = read_colmap(tmp_path, "left/photo.jpg", SIZE)
    # z = -x + 1 by the rotation and translation above.
    np.testing.assert_allclose(known.metres, [5, 7, 4])
    np.testing.assert_allclose(known.positions, [row[:2] for row in observations()[1:]])
    np.testing.assert_allclose(known.weights, [4, 1, 0.25])  # 0.1 px counts as half a pixel
    assert known.fov_degrees == pytest.approx(np.degrees(2 * np.arctan(32 / FOCAL)))
    assert not known.in_metres


@pytest.mark.parametrize("kind", WRITERS)
def test_a_smaller_picture_and_a_scale(tmp_path, kind):
    WRITERS[kind](tmp_path)
    known = read_known_depths(tmp_path, (24, 32), picture_name="right/photo.jpg", scale=0.5)
    np.testing.assert_allclose(known.positions * 2, [row[:2] for row in observations()[1:]])
    np.testing.assert_allclose(known.metres, [2.5, 3.5, 2])
    assert known.in_metres


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("photo.jpg", SIZE, "several photo.jpg: left/photo.jpg, right/photo.jpg"),
        ("other.jpg", SIZE, "no picture 'other.jpg'; it has left/photo.jpg"),
        ("sky.jpg", SIZE, "sky.jpg has no points"),
        ("left/photo.jpg", (64, 48), "cropped or turned"),
    ],
)
def test_pictures_that_cannot_be_used(tmp_path, kind, name, size, words):
    WRITERS[kind](tmp_path)
    with pytest.raises(MarigoldError, match=words):
        read_colmap(tmp_path, name, size)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(MarigoldError, match="no COLMAP model"):
        read_colmap(tmp_path, "photo.jpg", SIZE)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(list(WRITERS)),
    stem=st.sampled_from(["cameras", "images", "points3D"]),
    place=st.floats(0, 1),
    junk=st.binary(max_size=12),
    cut=st.booleans(),
)
def test_damage_anywhere_is_one_message_or_still_a_model(
    tmp_path_factory, kind, stem, place, junk, cut
):
    folder = tmp_path_factory.getbasetemp() / f"damaged-{kind}"
    WRITERS[kind](folder)
    file = next(folder.glob(f"{stem}.*"))
    data = file.read_bytes()
    at = int(place * len(data))
    file.write_bytes(data[:at] + junk + (b"" if cut else data[at + len(junk) :]))
    try:
        known = read_colmap(folder, "left/photo.jpg", SIZE)
    except MarigoldError as error:
        assert "\n" not in str(error)
        return
    assert (known.metres > 0).all()


def test_a_count_beyond_the_file_takes_no_memory(tmp_path):
    write_binary(tmp_path)
    data = bytearray((tmp_path / "images.bin").read_bytes())
    at = 8 + 64 + len(PICTURES[0]) + 1
    data[at : at + 8] = struct.pack("<Q", 2**60)
    (tmp_path / "images.bin").write_bytes(data)
    with pytest.raises(MarigoldError, match="images.bin is broken"):
        read_colmap(tmp_path, "left/photo.jpg", SIZE)


@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is an oracle")
@pytest.mark.parametrize("kind", WRITERS)
def test_pycolmap_gives_the_same_depths(tmp_path, kind):
    import pycolmap

    WRITERS[kind](tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path))
    image = next(image for image in model.images.values() if image.name == "left/photo.jpg")
    depths = [
        (image.cam_from_world() * model.points3D[point.point3D_id].xyz)[2]
        for point in image.points2D
        if point.has_point3D()
    ]
    np.testing.assert_allclose(read_colmap(tmp_path, "left/photo.jpg", SIZE).metres, depths)
