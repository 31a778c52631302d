"""Point clouds: files, and which of their points a camera sees."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marigold_core.errors import MarigoldError
from marigold_core.geometry.points import unproject
from marigold_core.metric.hint_files import read_known_depths
from marigold_core.metric.point_cloud import read_points, visible_depths

trimesh = pytest.importorskip("trimesh")
POINTS = np.array([(0.5, -0.25, 2.0), (0, 0, 3.5), (-1, 1, 4.0)])
HEADER = "element vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
LIST = "list uchar int y"


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_little_endian"])
def test_ply_files_of_another_program(tmp_path, encoding):
    cloud = trimesh.PointCloud(POINTS, colors=np.full((3, 4), 99, np.uint8))
    kind = "ascii" if encoding == "ascii" else "binary"
    (tmp_path / "cloud.ply").write_bytes(trimesh.exchange.ply.export_ply(cloud, encoding=kind))
    np.testing.assert_allclose(read_points(tmp_path / "cloud.ply"), POINTS, rtol=1e-6)


def test_ply_with_big_endian_doubles_after_another_element(tmp_path):
    header = (
        "ply\nformat binary_big_endian 1.0\ncomment scanner\nelement camera 2\nproperty uchar a\n"
        "property short b\nelement vertex 3\nproperty uchar red\nproperty double x\n"
        "property double y\nproperty double z\nend_header\n"
    )
    rows = np.zeros(3, [("red", "u1"), ("xyz", ">f8", 3)])
    rows["xyz"] = POINTS
    (tmp_path / "cloud.ply").write_bytes(header.encode() + b"\1" * 6 + rows.tobytes())
    np.testing.assert_array_equal(read_points(tmp_path / "cloud.ply"), POINTS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a PLY"),
        (b"ply\n", "broken PLY header"),
        (
            b"ply\nformat ascii 1.0\nelement face 1\nproperty float x\nend_header\n1\n",
            "no vertices",
        ),
        (f"ply\nformat binary_little_endian 1.0\n{HEADER}1234".encode(), "torn"),
        (f"ply\nformat ascii 1.0\n{HEADER}1 2 3\n4 5 six\n7 8 9\n".encode(), "not numbers"),
        (f"ply\nformat ascii 1.0\n{HEADER}nan 2 3\nnan 2 3\nnan 2 3\n".encode(), "no points"),
        (b"ply\nformat ascii 1.0\n" + HEADER.replace("3\n", "9" * 30 + "\n", 1).encode(), "more"),
        (
            f"ply\nformat ascii 1.0\n{HEADER}".replace("float z", "list uchar int z").encode(),
            "list",
        ),
    ],
)
def test_broken_ply_files_are_one_message(tmp_path, content, words):
    (tmp_path / "cloud.ply").write_bytes(content)
    with pytest.raises(MarigoldError, match=words) as caught:
        read_points(tmp_path / "cloud.ply")
    assert "cloud.ply" in str(caught.value)


@given(place=st.floats(0, 1), junk=st.binary(max_size=9), cut=st.booleans(), text=st.booleans())
def test_damage_anywhere_is_one_message_or_still_points(tmp_path_factory, place, junk, cut, text):
    path = tmp_path_factory.getbasetemp() / "damaged.ply"
    encoding = "ascii" if text else "binary"
    data = trimesh.exchange.ply.export_ply(trimesh.PointCloud(POINTS), encoding=encoding)
    at = int(place * len(data))
    path.write_bytes(data[:at] + junk + (b"" if cut else data[at + len(junk) :]))
    try:
        points = read_points(path)
    except MarigoldError as error:
        assert "\n" not in str(error)
        return
    assert points.ndim == 2
    assert np.isfinite(points).all()


def test_las_without_its_package_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "laspy", None)
    (tmp_path / "cloud.las").write_bytes(b"LASF")
    with pytest.raises(MarigoldError, match="pip install laspy"):
        read_points(tmp_path / "cloud.las")


@pytest.mark.skipif(importlib.util.find_spec("laspy") is None, reason="laspy is an extra")
def test_las_files(tmp_path):
    import laspy

    cloud = laspy.LasData(laspy.LasHeader(point_format=0, version="1.2"))
    cloud.header.scales = np.full(3, 1e-4)
    cloud.x, cloud.y, cloud.z = POINTS.T
    cloud.write(tmp_path / "cloud.las")
    np.testing.assert_allclose(read_points(tmp_path / "cloud.las"), POINTS, atol=1e-4)
    (tmp_path / "torn.las").write_bytes((tmp_path / "cloud.las").read_bytes()[:100])
    with pytest.raises(MarigoldError, match="torn.las cannot be read"):
        read_points(tmp_path / "torn.las")


# --- what the camera sees ------------------------------------------------------------------------

SIZE = (60, 80)


def wall(z: float, columns: slice = np.s_[:]) -> np.ndarray:
    """One point a pixel, on a plane that faces the camera."""
    flat = np.full(SIZE, 0.5, np.float32)
    points = unproject(flat, fov_degrees=60, near=z * 0.9, far=z * 1.1)
    return points[:, columns].reshape(-1, 3).astype(np.float64)


def test_points_behind_a_nearer_wall_are_left_out():
    near = wall(2, np.s_[:40])
    known = visible_depths(np.concatenate([near, wall(5)]), SIZE, 60)
    rows, columns = known.pixels(SIZE)
    behind = known.metres > 3
    assert (columns[~behind] < 40).all()
    assert columns[behind].min() >= 40
    # All of the far wall that the near one does not border on is kept.
    assert (behind & (columns >= 42)).sum() == 60 * 38


def test_a_sparse_near_wall_hides_what_is_between_its_points():
    near = wall(2)[::37]
    known = visible_depths(np.concatenate([near, wall(5)[::31]]), SIZE, 60)
    assert (known.metres > 3).mean() < 0.1


def test_a_pose_takes_the_cloud_to_the_camera():
    pose = np.array([[0, 0, 1.0, 0.1], [0, 1, 0, 0.2], [-1, 0, 0, 0.3], [0, 0, 0, 1]])
    camera = wall(3)
    world = (camera - pose[:3, 3]) @ pose[:3, :3]
    known = visible_depths(world, SIZE, 60, pose)
    assert len(known) == SIZE[0] * SIZE[1]
    np.testing.assert_allclose(known.metres, 3, rtol=1e-6)


def test_behind_the_camera_and_outside_are_left_out():
    both = np.concatenate([wall(3)[:5], -wall(3), [(99, 0, 1.0)]])
    assert len(visible_depths(both, SIZE, 60)) == 5
    with pytest.raises(MarigoldError, match="None of the cloud's 4800 points"):
        visible_depths(-wall(3), SIZE, 60)
    with pytest.raises(MarigoldError, match=r"\(4, 4\) matrix"):
        visible_depths(wall(3), SIZE, 60, np.eye(3))


def test_a_cloud_file_as_known_depths(tmp_path):
    cloud = trimesh.PointCloud(wall(3)[::7])
    (tmp_path / "cloud.ply").write_bytes(trimesh.exchange.ply.export_ply(cloud))
    known = read_known_depths(tmp_path / "cloud.ply", SIZE, fov_degrees=60)
    np.testing.assert_allclose(known.metres, 3, rtol=1e-6)
    with pytest.raises(MarigoldError, match="cloud.ply: .*field of view"):
        read_known_depths(tmp_path / "cloud.ply", SIZE)
