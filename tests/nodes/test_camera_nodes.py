"""Camera from Depth: which source the field of view has, and that it says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image


@pytest.fixture
def corner(run):
    """corner(metres=False): MARIGOLD_DEPTH of a room's corner, seen with 60 degrees."""

    def make(metres=False):
        v, u = np.mgrid[0:120, 0:160] + 0.5
        focal = 80 / math.tan(math.radians(30))
        rays = np.stack([(u - 80) / focal, (v - 60) / focal, np.ones_like(u)], -1)
        down, side = math.radians(25), math.radians(35)
        tilt = np.array([[1, 0, 0], [0, math.cos(down), math.sin(down)],
                         [0, -math.sin(down), math.cos(down)]])  # fmt: skip
        turn = np.array([[math.cos(side), 0, math.sin(side)], [0, 1, 0],
                         [-math.sin(side), 0, math.cos(side)]])  # fmt: skip
        world = rays @ (turn @ tilt).T
        distance = np.min(np.array([2.5, 1.6, 3.5]) / np.maximum(world, 1e-6), axis=-1)
        values = distance if metres else (distance - distance.min()) / np.ptp(distance)
        image = torch.from_numpy(values.astype(np.float32))[None, ..., None].repeat(1, 1, 1, 3)
        kind = "distance" if metres else "depth"
        return run("DepthFromImage", image=image, near_is_white=False, kind=kind)[0], distance

    return make


@pytest.fixture
def photo(comfy):
    """The name of a picture in the input folder, 160 x 120, taken with a 24 mm lens."""
    folder = comfy.root / "input"
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 24
    Image.new("RGB", (160, 120)).save(folder / "lens.jpg", exif=exif)
    return "lens.jpg"


def test_a_rooms_right_angles_show_its_camera(run, corner):
    depth, distance = corner()
    fov, near, far, report = run("CameraFromDepth", depth=depth).args
    assert fov == pytest.approx(60, abs=4)
    assert far / near == pytest.approx(distance.max() / distance.min(), rel=0.1)
    assert "estimated from right angles" in report and "estimated from planes" in report


def test_the_cameras_own_record_comes_first(run, corner, photo):
    depth, _ = corner()
    fov, _, _, report = run("CameraFromDepth", depth=depth, photo=photo).args
    # 24 mm along the diagonal of 35 mm film, 43.27 mm; the longer side is 4/5 of it.
    assert fov == pytest.approx(2 * math.degrees(math.atan(43.2666 * 0.8 / 2 / 24)), abs=0.1)
    assert "the camera's record in lens.jpg" in report


def test_what_shows_nothing_gets_the_usual_values_and_is_named(run, depth):
    fov, near, far, report = run("CameraFromDepth", depth=depth).args
    assert (fov, near, far) == (50, 1, 5)
    assert report.count("usual value") == 2


def test_metres_have_no_near_and_far_to_find(run, corner):
    depth, _ = corner(metres=True)
    assert "distances of its own" in run("CameraFromDepth", depth=depth)[3]


def test_a_photo_that_is_gone(nodes):
    node = nodes["CameraFromDepth"]
    assert "no file 'gone.jpg'" in node.validate_inputs("gone.jpg")
    assert node.validate_inputs("none") is True
