"""Known depths: what the type accepts, and tables and sparse pictures that hold them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from marigold_core.depth_files import write_array
from marigold_core.errors import MarigoldError
from marigold_core.geometry.points import project, unproject
from marigold_core.metric.hint_files import read_known_depths
from marigold_core.metric.hints import KnownDepths

SIZE = (40, 60)


def test_column_and_row_and_colmaps_centre_name_the_same_pixel():
    for x, y in ((3, 7), (3.5, 7.5), (3.999, 7.999)):
        rows, columns = KnownDepths([(x, y)], [2.0], size=SIZE).pixels(SIZE)
        assert (rows.tolist(), columns.tolist()) == ([7], [3])


def test_the_far_border_is_inside():
    rows, columns = KnownDepths([(60, 40)], [2.0], size=SIZE).pixels(SIZE)
    assert (rows.tolist(), columns.tolist()) == ([39], [59])


@given(st.integers(2, 80), st.integers(2, 80), st.integers(1, 5), st.data())
def test_a_smaller_map_is_read_at_the_same_place(height, width, factor, data):
    x = data.draw(st.floats(0, width, exclude_max=True))
    y = data.draw(st.floats(0, height, exclude_max=True))
    known = KnownDepths([(x * factor, y * factor)], [1.0], size=(height * factor, width * factor))
    rows, columns = known.pixels((height, width))
    assert abs(rows[0] + 0.5 - y) <= 0.5 + 1e-9
    assert abs(columns[0] + 0.5 - x) <= 0.5 + 1e-9


def test_a_tape_measures_along_the_ray():
    depth = np.full(SIZE, 0.5, np.float32)
    points = unproject(depth, fov_degrees=70, near=2, far=4)  # a wall at z = 3
    places = project(points[::13, ::17].reshape(-1, 3), *SIZE, fov_degrees=70)
    tape = np.linalg.norm(points[::13, ::17].reshape(-1, 3), axis=1)
    known = KnownDepths.along_rays(places, tape, SIZE, 70)
    np.testing.assert_allclose(known.metres, 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": [(61, 3)]}, "point 1 at x = 61, y = 3 lies outside the picture of 60x40"),
        ({"positions": [(-1, 3)]}, "outside the picture"),
        ({"metres": [0.0]}, "point 1 is at 0; a distance is above 0"),
        ({"metres": [-2.0]}, "point 1 is at -2"),
        ({"metres": [math.nan]}, "NaN or infinite"),
        ({"metres": ["far"]}, "not numbers"),
        ({"metres": [1.0, 2.0]}, "1 positions, 2 distances"),
        ({"positions": [(1, 2, 3)]}, re.escape("must be (N, 2)")),
        ({"weights": [0.0]}, "weight 0"),
        ({"lengths": [(1, 2, 3, 4, -1)]}, "Known length 1 is at -1"),
        ({"lengths": [(1, 2, 99, 4, 1)]}, "end of known length 1 at x = 99"),
        ({"camera_height": 0.0}, "camera's height is 0.0"),
        ({"ground": [(1, 2)]}, "three or more"),
    ],
)
def test_bad_hints_are_one_clear_message(change, words):
    with pytest.raises(MarigoldError, match=words) as caught:
        KnownDepths(**{"positions": [(1, 2)], "metres": [1.0], "size": SIZE, **change})
    assert "\n" not in str(caught.value)


def test_a_map_of_another_shape_is_refused():
    with pytest.raises(MarigoldError, match="do not belong together"):
        KnownDepths([(1, 2)], [1.0], size=SIZE).pixels((40, 40))


# --- tables --------------------------------------------------------------------------------------


def read_text(tmp_path, text: str, name: str = "points.csv") -> KnownDepths:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_known_depths(tmp_path / name, SIZE)


@pytest.mark.parametrize(
    "text",
    [
        "x,y,metres\n3,7,2.5\n10,20,4\n",
        "3;7;2.5\n10;20;4",
        "# measured by hand\n3\t7\t2.5\n\n10\t20\t4\n",
        "\ufeffx y metres\r\n3 7 2.5\r\n10 20 4\r\n",
        "x,y,metres,weight\n3,7,2.5,1\n10,20,4,1\n",
    ],
)
def test_tables_with_any_separator(tmp_path, text):
    known = read_text(tmp_path, text)
    assert known.positions.tolist() == [[3, 7], [10, 20]]
    assert known.metres.tolist() == [2.5, 4]
    assert known.weights.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no points"),
        ("x,y,metres\n", "no points"),
        ("3,7\n", "line 1 has 2 columns"),
        ("3,7,2\n4,8,2,1\n", "line 2 has 4 columns"),
        ("3,7,2\n4,8,two\n", "line 2 is '4,8,two'"),
        ("3,7,2\n99,8,2\n", "point 2 at x = 99"),
        ("3,7,inf\n", "NaN or infinite"),
        ("3,7,2,5\n4,8,3,5,1\n", "line 2 has 5 columns"),
    ],
)
def test_bad_tables_name_the_file_and_line(tmp_path, text, words):
    with pytest.raises(MarigoldError, match=words) as caught:
        read_text(tmp_path, text)
    assert str(caught.value).startswith("points.csv: ")


def test_a_binary_file_is_no_table(tmp_path):
    (tmp_path / "points.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(MarigoldError, match="not a text file"):
        read_known_depths(tmp_path / "points.csv", SIZE)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        known = read_known_depths(path, SIZE)
    except MarigoldError:
        return
    assert len(known) > 0


# --- sparse depth pictures -----------------------------------------------------------------------


def sparse() -> np.ndarray:
    depth = np.zeros(SIZE, np.float32)
    depth[7, 3], depth[20, 10] = 2.5, 4
    return depth


def expect_the_two(known: KnownDepths, factor: float = 1) -> None:
    assert known.positions.tolist() == [
        [3.5 * factor, 7.5 * factor],
        [10.5 * factor, 20.5 * factor],
    ]
    np.testing.assert_allclose(known.metres, [2.5, 4], rtol=1e-6)


def test_sixteen_bits_of_millimetres_or_of_another_scale(tmp_path):
    for name, unit, scale in (("mm.png", 1000, None), ("kitti.png", 256, 1 / 256)):
        Image.fromarray((sparse() * unit).astype(np.uint16)).save(tmp_path / name)
        expect_the_two(read_known_depths(tmp_path / name, SIZE, scale=scale))


@pytest.mark.parametrize("name", ["depth.exr", "depth.tiff", "depth.npy"])
@pytest.mark.parametrize("hole", [0.0, math.nan])
def test_float_pictures_hold_metres(tmp_path, name, hole):
    depth = sparse()
    depth[depth == 0] = hole
    write_array(tmp_path / name, depth)
    expect_the_two(read_known_depths(tmp_path / name, SIZE))
    # Half the picture's size: the same places, in the picture's pixels.
    expect_the_two(read_known_depths(tmp_path / name, (80, 120)), factor=2)


def test_a_numpy_table(tmp_path):
    np.save(tmp_path / "points.npy", np.array([(3.5, 7.5, 2.5), (10.5, 20.5, 4)]))
    expect_the_two(read_known_depths(tmp_path / "points.npy", SIZE))


def test_bad_pictures_are_one_clear_message(tmp_path):
    def refused(name: str, words: str, size=SIZE) -> None:
        with pytest.raises(MarigoldError, match=words) as caught:
            read_known_depths(tmp_path / name, size)
        assert name in str(caught.value)

    Image.fromarray(sparse().astype(np.uint8)).save(tmp_path / "grey.png")
    write_array(tmp_path / "none.npy", np.zeros(SIZE, np.float32))
    write_array(tmp_path / "minus.npy", -sparse())
    write_array(tmp_path / "other.npy", sparse())
    (tmp_path / "torn.exr").write_bytes(b"v/1\x01")
    (tmp_path / "words.doc").write_text("3,7,2")
    refused("grey.png", "16 bits or floats")
    refused("none.npy", "no pixel has a known depth")
    refused("minus.npy", "above 0")
    refused("other.npy", "shapes differ", (40, 50))
    refused("torn.exr", "broken")
    refused("words.doc", "are read from")
    refused("missing.csv", "There is no file")
