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


def test_what_metres_exclude(photo, capsys):
    for command, option in (
        ("depth", ["--invert"]),
        ("depth", ["--disparity", "1", "9"]),
        ("points", ["--near", "2"]),
        ("mesh", ["--far", "2"]),
    ):
        assert main([command, "photo.jpg", "--known", "points.csv", *option]) == 2
        assert f"{option[0]} is not for depth in metres" in capsys.readouterr().err
