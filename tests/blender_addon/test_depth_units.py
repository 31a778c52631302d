"""The meaning of a depth file's numbers, and EXIF records."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from blender_addon.mesh.depth_units import depth_of_numbers
from blender_addon.mesh.exif import read_exif
from marigold_core.errors import MarigoldError

SCENE = np.array([[0.5, 1.0], [2.0, 4.0]], dtype=np.float32)  # metres


@pytest.mark.parametrize(
    ("per_metre", "unit"), [(1000, "MILLIMETRES"), (5000, "FIVE_THOUSANDTHS"), (1, "METRES")]
)
@pytest.mark.parametrize("named", [False, True])
def test_a_depth_camera_gives_metres(per_metre, unit, named):
    numbers = np.pad(SCENE * per_metre, ((1, 0), (0, 0)))  # the first row are holes
    greatest = None if per_metre == 1 else 65535
    read = depth_of_numbers(numbers, unit if named else "AUTO", greatest=greatest)
    metres = read.near + read.depth * (read.far - read.near)
    assert np.isnan(metres[0]).all() and np.allclose(metres[1:], SCENE, rtol=1e-5)


def test_relative_depth_and_the_ways_round():
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for greatest in (255.0, 65535.0):
        read = depth_of_numbers(np.rint(values * greatest), greatest=greatest)
        assert np.allclose(read.depth, values, atol=1 / greatest) and read.near is None
    assert np.allclose(depth_of_numbers(values).depth, values)
    assert np.allclose(depth_of_numbers(values, "INVERTED").depth, 1 - values)
    disparity = depth_of_numbers(values, "DISPARITY", near=2.0, far=10.0).depth
    distance = 2 + disparity * 8
    assert np.allclose(1 / distance, 1 / 10 + values * (1 / 2 - 1 / 10), rtol=1e-5)
    raw = depth_of_numbers(values * 700 - 3, "DISPARITY", near=2.0, far=10.0).depth
    assert np.allclose(raw, disparity, atol=1e-5), "disparity of any range"


def test_a_relative_map_with_zeros_is_no_depth_camera():
    values = np.full((40, 40), 65535, dtype=np.float32)
    values[:20] = 0
    assert depth_of_numbers(values, greatest=65535).near is None


def test_a_renderers_nothing_is_a_hole():
    read = depth_of_numbers(np.array([[2.0, 1e10], [3.0, np.inf]], dtype=np.float32))
    assert (read.near, read.far) == (2, 3) and np.isnan(read.depth[:, 1]).all()


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.zeros((2, 2))])
def test_nothing_to_see_is_an_error_message(values):
    with pytest.raises(MarigoldError):
        depth_of_numbers(values.astype(np.float32), "MILLIMETRES", greatest=65535)


def picture(suffix: str, exif: Image.Exif) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix),
                                    exif=exif)  # fmt: skip
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_record_of_every_format(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    inner = exif.get_ifd(0x8769)
    inner[0xA405], inner[0x920A], inner[0xA002] = 28, IFDRational(17, 4), 4000
    path = tmp_path / f"picture.{suffix}"
    path.write_bytes(picture(suffix, exif))
    found = read_exif(path)
    assert found.pop("Orientation") == 6
    if suffix != "tif":  # Pillow writes no more than this into a TIFF file
        wanted = {"FocalLengthIn35mmFilm": 28, "FocalLength": 4.25, "ExifImageWidth": 4000}
        assert found == pytest.approx(wanted)
    path.write_bytes(picture(suffix, Image.Exif()))
    assert read_exif(path) == {} and read_exif(tmp_path / "missing.jpg") == {}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["jpg", "png", "webp", "tif"]),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=8),
    st.integers(0, 700),
)
def test_damaged_records_are_ignored(tmp_path_factory, suffix, changes, cut):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x920A] = IFDRational(17, 4)
    data = bytearray(picture(suffix, exif))
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(data[:cut] if cut < 600 else data)
    assert all(isinstance(value, float) for value in read_exif(path).values())
