"""`--known` and its like: depth, meshes and point clouds in metres, from the command line."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from PIL import Image

from marigold_core.cli import main
from marigold_core.depth import DepthMap, read_depth
from marigold_core.metric.point_cloud import read_points

SIZE = (24, 32)
RAMP = np.linspace(0, 1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
TRUTH = 2 + 6 * RAMP.astype(float)


class FakeMarigold:
    """Sees a ramp in every picture."""

    device, dtype = "cpu", "torch.float32"

    @classmethod
    def from_pretrained(cls, name, **_):
        return cls()

    def expect(self, target):
        assert target == "depth"

    def __call__(self, image, options, *, mask=None, callback=None):
        return DepthMap(RAMP, mask=mask)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A picture with EXIF in the working folder, and known points beside it."""
    monkeypatch.chdir(tmp_path)
    engine = types.ModuleType("marigold_core.engine")
    engine.Marigold = FakeMarigold  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "marigold_core.engine", engine)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    colours = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(colours).save("photo.jpg", exif=exif)
    rng = np.random.default_rng(1)
    places = rng.choice(TRUTH.size, 15, replace=False)
    rows, columns = np.divmod(places, SIZE[1])
    metres = TRUTH[rows, columns]
    metres[3] *= 2.5
    lines = [f"{x},{y},{z}" for x, y, z in zip(columns, rows, metres, strict=True)]
    (tmp_path / "points.csv").write_text("x,y,metres\n" + "\n".join(lines))
    return tmp_path


def test_depth_in_metres_and_the_report(photo, capsys):
    run = ["depth", "photo.jpg", "--known", "points.csv", "-o", "out", "--format", "exr,png"]
    assert main(run) == 0
    np.testing.assert_allclose(read_depth("out/photo_depth.exr").depth, TRUTH, rtol=1e-3)
    with Image.open("out/photo_depth.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 1000, TRUTH, rtol=2e-3)
    said = capsys.readouterr().out
    assert "z = 6 d + 2 m" in said
    assert "expected error 0.0 %" in said
    assert "1 of 15 known points do not fit" in said
    assert "point 4 at x = " in said
    with Image.open("out/photo_color.png") as image:
        assert image.size == (32, 24)


def test_points_in_metres_with_the_pictures_own_lens(photo, capsys):
    assert main(["points", "photo.jpg", "--known", "points.csv"]) == 0
    points = read_points("photo.ply")
    np.testing.assert_allclose(points[:, 2], TRUTH.ravel(), rtol=1e-3)
    assert "768 points, field of view" in (said := capsys.readouterr().out)
    assert "(EXIF)" in said
    assert main(["points", "photo.jpg", "--known", "points.csv", "--fov", "40"]) == 0
    assert "field of view 40.0 degrees (user)" in capsys.readouterr().out


def test_a_mesh_in_metres(photo):
    assert main(["mesh", "photo.jpg", "--known", "points.csv", "-o", "m.ply"]) == 0
    z = -read_points("m.ply")[:, 2]  # mesh files have y up
    assert (z.min(), z.max()) == (pytest.approx(2, rel=1e-3), pytest.approx(8, rel=1e-3))


def test_a_length_and_a_depth_file_need_no_model(photo, monkeypatch):
    monkeypatch.setattr(FakeMarigold, "from_pretrained", None)
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save("ramp.png")
    run = ["points", "photo.jpg", "--depth", "ramp.png", "--length", "2", "12", "30", "12", "3"]
    assert main(run) == 0
    z = read_points("photo.ply")[:, 2]
    assert z.max() / z.min() == pytest.approx(5, rel=1e-3)


def test_points_without_metres_are_placed_by_near_and_far(photo):
    assert main(["points", "photo.jpg", "--near", "3", "--far", "4", "-o", "p.ply"]) == 0
    z = read_points("p.ply")[:, 2]
    assert (z.min(), z.max()) == (pytest.approx(3), pytest.approx(4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--known", "missing.csv"], "There is no file or folder missing.csv"),
        (["--known-scale", "2"], "--known-scale is about the file of --known"),
        (["--guided"], "--guided is steered by the points of --known"),
        (["--known", "points.csv", "--pose", "photo.jpg"], "not a matrix"),
        (["--camera-height", "-1"], "camera's height is -1.0"),
        (["--length", "2", "12", "99", "12", "3"], "end of known length 1 at x = 99"),
        (["--fov", "180", "--camera-height", "2"], "between 0 and 180"),
    ],
)
def test_bad_hints_are_one_line(photo, capsys, options, words):
    assert main(["points", "photo.jpg", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (photo / "photo.ply").exists()


BAD_POINTS = {  # what is wrong: the table, and the message that a user reads
    "outside the picture": (
        "99,3,2\n5,5,3", "points.csv: Known point 1 at x = 99, y = 3 lies outside the picture of"
        " 32x24 pixels.",
    ),
    "behind the camera": (
        "3,3,2\n5,20,-3", "points.csv: Known point 2 is at -3, behind the camera; a distance is"
        " above 0.",
    ),
    "contradicting": (
        "3,3,8\n5,12,5\n9,22,2", "The known depths contradict the depth map: what is farther in"
        " the map has the smaller distance. Check the positions (x from the left, y from the top)"
        " and distances, or whether the map has white = near.",
    ),
    "all at one distance": (
        "3,3,2\n5,12,2\n9,22,2", "All known points have the distance 2, and the depth map has them"
        " at different depths: give points at two distances or more, or one alone for the scale.",
    ),
    "none": ("x,y,metres", "points.csv: the table has no points; its columns are x, y, metres."),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_POINTS)
@pytest.mark.parametrize("command", ["depth", "points", "mesh"])
def test_bad_points_are_one_clear_message(photo, capsys, command, wrong):
    table, message = BAD_POINTS[wrong]
    (photo / "points.csv").write_text(table)
    before = set(photo.rglob("*"))
    assert main([command, "photo.jpg", "--known", "points.csv"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert [line for line in error if line.endswith(message)] == error[:1]
    assert not {file for file in set(photo.rglob("*")) - before if file.is_file()}


@pytest.mark.parametrize(
    ("table", "note"),
    [
        (  # 6.56 feet are 2 metres
            "0,0,2\n8,4,3.0625\n16,12,5.125\n4,16,6.0417\n20,20,7.166\n0,8,13.36\n0,10,15.07",
            "2 of the 2 outliers fit if they are in feet, not in metres.",
        ),
        (
            "3,12,5\n9,12,5\n5,12,5",
            "All known points are at the same depth in the map: they fix the scale alone. Add one"
            " that is clearly nearer or farther.",
        ),
        (
            "3,3,2",
            "One hint fixes the scale alone: the farthest point is taken to be 5 times as far as"
            " the nearest, a guess. Add a known point at another depth.",
        ),
    ],
    ids=["feet for metres", "all at one depth", "one point"],
)
def test_suspicious_points_are_said_beside_the_result(photo, capsys, monkeypatch, table, note):
    (photo / "points.csv").write_text(table)
    if "same depth" in note:
        flat = np.repeat(np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None], SIZE[1], 1)
        monkeypatch.setitem(FakeMarigold.__call__.__globals__, "RAMP", flat)
    assert main(["depth", "photo.jpg", "--known", "points.csv"]) == 0
    assert f"  note: {note}\n" in capsys.readouterr().out


def test_what_metres_exclude(photo, capsys):
    for command, option in (
        ("depth", ["--invert"]),
        ("depth", ["--disparity", "1", "9"]),
        ("points", ["--near", "2"]),
        ("mesh", ["--far", "2"]),
    ):
        assert main([command, "photo.jpg", "--known", "points.csv", *option]) == 2
        assert f"{option[0]} is not for depth in metres" in capsys.readouterr().err
