"""Normalisation against its formulas, and files that come back as they went."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from marigold_core.colormaps import COLORMAPS
from marigold_core.depth import DepthMap, colorize, normalize_depth, read_depth
from marigold_core.errors import MarigoldError

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
UNIT = hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32))
ANY = hnp.arrays(np.float32, SHAPES, elements=st.floats(-1e6, 1e6, width=32))


@pytest.fixture
def depth() -> np.ndarray:
    return np.random.default_rng(0).random((12, 17)).astype(np.float32)


@pytest.fixture
def metres() -> np.ndarray:
    return np.random.default_rng(1).uniform(0.4, 30, (40, 50)).astype(np.float32)


# --- normalisation ---


def test_training_normalisation_is_the_papers(metres):
    torch = pytest.importorskip("torch")
    mask = metres > 3
    low, high = torch.quantile(torch.from_numpy(metres[mask]), torch.tensor([0.02, 0.98]))
    expected = (2 * (metres - low.item()) / (high - low).item() - 1).clip(-1, 1)
    ours = 2 * normalize_depth(metres, mode="percentile", percentiles=(2, 98), mask=mask) - 1
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours[~mask].max() == -1  # outside the mask, below its range: clipped, not left out


@settings(deadline=None, max_examples=60)
@given(ANY, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_minmax_spans_the_unit_range_and_forgets_scale_and_shift(depth, scale, shift):
    if np.ptp(depth) < 1:
        with pytest.raises(MarigoldError, match="constant"):
            normalize_depth(np.full_like(depth, depth[0, 0]))
        return
    x = normalize_depth(depth)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0, 1)
    moved = depth.astype(np.float64) * scale + shift
    np.testing.assert_allclose(normalize_depth(moved), x, atol=1e-6)


def test_fixed_range(metres):
    x = normalize_depth(metres, mode="fixed", near=2, far=10)
    np.testing.assert_allclose(x, ((metres - 2) / 8).clip(0, 1), atol=1e-6)
    assert (x == 0).any()
    assert (x == 1).any()
    unclipped = normalize_depth(metres, mode="fixed", near=2, far=10, clip=False)
    np.testing.assert_allclose(unclipped, (metres - 2) / 8, atol=1e-6)
    turned = normalize_depth(metres, mode="fixed", near=10, far=2)
    np.testing.assert_allclose(turned, 1 - x, atol=1e-6)


def test_inverse_is_disparity_not_flipped_depth(depth):
    near, far = 0.5, 20.0
    disparity = normalize_depth(depth, mode="inverse", near=near, far=far)
    z = near + depth.astype(np.float64) * (far - near)
    np.testing.assert_allclose(disparity, (1 / z - 1 / far) / (1 / near - 1 / far), atol=1e-6)
    ends = normalize_depth(np.float32([[0, 0.5, 1]]), mode="inverse", near=1, far=3)
    np.testing.assert_allclose(ends, [[1, 0.25, 0]])  # flipped depth would be 0.5 in the middle
    flipped = normalize_depth(depth, mode="inverse", near=near, far=far, invert=True)
    np.testing.assert_allclose(flipped, 1 - disparity, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(UNIT, st.floats(0.2, 5))
def test_gamma_keeps_the_order_and_the_ends(depth, gamma):
    x = normalize_depth(depth, mode="fixed", near=0, far=1)
    curved = normalize_depth(depth, mode="fixed", near=0, far=1, gamma=gamma)
    order = np.argsort(x, axis=None)
    assert (np.diff(curved.ravel()[order]) >= 0).all()
    np.testing.assert_allclose(curved, x.astype(np.float64) ** gamma, atol=1e-6)
    inverted = normalize_depth(depth, mode="fixed", near=0, far=1, gamma=gamma, invert=True)
    np.testing.assert_allclose(inverted, (1 - x.astype(np.float64)) ** gamma, atol=1e-6)


def test_percentiles_are_not_moved_by_a_few_outliers(metres):
    spoilt = metres.copy()
    spoilt[0, :5] = 1e6
    spoilt[1, :5] = -1e6
    clean = normalize_depth(metres, mode="percentile")
    robust = normalize_depth(spoilt, mode="percentile")
    assert abs(robust[2:] - clean[2:]).max() < 0.02
    assert normalize_depth(spoilt)[2:].std() < 1e-4


def test_mask_governs_the_range_alone(depth):
    mask = np.ones(depth.shape, dtype=bool)
    mask[0] = False
    holed = depth.copy()
    holed[0, :4] = np.nan, np.inf, -5, 5
    x = normalize_depth(holed, mask=mask)
    np.testing.assert_array_equal(x[1:], normalize_depth(depth[1:]))
    np.testing.assert_array_equal(x[0, :4], [1, 1, 0, 1])
    assert normalize_depth(holed, mask=mask, invert=True)[0, 0] == 0
    inverse = normalize_depth(holed, mode="inverse", near=1, far=2, mask=mask)
    np.testing.assert_array_equal(inverse[0, :4], [0, 0, 1, 0])


def test_a_batch_shares_one_range(depth):
    batch = np.stack([depth, 3 * depth])
    x = normalize_depth(batch)
    np.testing.assert_allclose(x[1], (3 * depth - depth.min()) / np.ptp(batch), atol=1e-6)
    assert x[0].max() < 0.5
    mask = depth > 0.5
    np.testing.assert_array_equal(
        normalize_depth(batch, mask=mask), normalize_depth(batch, mask=np.stack([mask, mask]))
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": np.ones((3, 3), "f")}, "constant"),
        (
            {"depth": np.eye(50, dtype="f"), "mode": "percentile", "percentiles": (5, 95)},
            "constant",
        ),
        ({"mask": np.zeros((2, 3), bool)}, "no pixel"),
        ({"mask": np.ones((3, 2), bool)}, "mask"),
        ({"mask": np.ones((2, 3))}, "bool"),
        ({"depth": np.float32([[0, np.nan]])}, "NaN"),
        ({"depth": np.zeros(3, "f")}, "shape"),
        ({"depth": np.zeros((0, 3), "f")}, "shape"),
        ({"depth": np.array([["a"]])}, "numbers"),
        ({"mode": "log"}, "minmax, percentile"),
        ({"mode": "fixed"}, "near"),
        ({"mode": "fixed", "near": 1, "far": 1}, "different"),
        ({"mode": "fixed", "near": 1, "far": np.nan}, "near"),
        ({"mode": "inverse", "near": 0, "far": 2}, "0 < near < far"),
        ({"mode": "inverse", "near": 3, "far": 2}, "0 < near < far"),
        ({"mode": "inverse", "near": 1, "far": 2, "depth": np.float32([[0, 7]])}, "normalise"),
        ({"mode": "percentile", "percentiles": (98, 2)}, "ercentiles"),
        ({"mode": "percentile", "percentiles": (2, 101)}, "ercentiles"),
        ({"gamma": 0}, "Gamma"),
        ({"gamma": np.nan}, "Gamma"),
        ({"gamma": 2, "clip": False}, "clip"),
    ],
)
def test_what_cannot_be_normalised(change, words):
    arguments = {"depth": np.arange(6, dtype="f").reshape(2, 3), **change}
    with pytest.raises(MarigoldError, match=words):
        normalize_depth(**arguments)


# --- the depth map ---


def test_shapes_are_held_together(depth):
    assert DepthMap(depth.astype(np.float64)).depth.dtype == np.float32
    for wrong in (
        {"depth": depth[None]},
        {"depth": np.zeros((0, 4), "f")},
        {"depth": depth.astype(int)},
        {"depth": depth, "uncertainty": depth[1:]},
        {"depth": depth, "mask": depth},
        {"depth": depth, "mask": depth[1:] > 0},
    ):
        with pytest.raises(MarigoldError):
            DepthMap(**wrong)


def test_uncertainty_follows_the_normalisation(metres):
    mask = metres < 20
    before = DepthMap(metres, uncertainty=np.full_like(metres, 0.1), mask=mask)
    after = before.normalize()
    np.testing.assert_array_equal(after.depth, normalize_depth(metres, mask=mask))
    np.testing.assert_allclose(after.uncertainty, 0.1 / np.ptp(metres[mask]), rtol=1e-5)
    np.testing.assert_array_equal(after.mask, mask)
    # A curve scales it by the curve's slope: 2 x for gamma 2.
    small = DepthMap(np.float32([[0, 0.5, 1]]), uncertainty=np.full((1, 3), 1e-3, "f"))
    squared = small.normalize(mode="fixed", near=0, far=1, gamma=2)
    np.testing.assert_allclose(squared.uncertainty[0, 1], 1e-3, rtol=1e-3)
    assert squared.uncertainty[0, 0] < 2e-6
    # d/dx of near (1 - x) / (near + x (far - near)) is -far / near at x = 0.
    inverse = small.normalize(mode="inverse", near=1, far=4, invert=True)
    np.testing.assert_allclose(inverse.uncertainty[0, 0], 4e-3, rtol=1e-2)
    metric = DepthMap(metres, scale_invariant=False, shift_invariant=False).normalize()
    assert metric.scale_invariant
    assert metric.shift_invariant


def test_mesh_carries_mask_range_and_texture(depth):
    mask = np.ones(depth.shape, dtype=bool)
    mask[:, 0] = False
    picture = np.random.default_rng(2).integers(0, 256, (*depth.shape, 3), dtype=np.uint8)
    mesh = DepthMap(depth, mask=mask).mesh(picture, near=2.0, far=3.0, tear_ratio=np.inf)
    assert len(mesh.vertices) == mask.sum()
    np.testing.assert_allclose(mesh.vertices[:, 2], 2 + depth[mask], rtol=1e-6)
    np.testing.assert_array_equal(mesh.texture, picture)
    assert DepthMap(depth).mesh().texture is None


# --- files ---


@settings(deadline=None, max_examples=40)
@given(UNIT)
def test_png_holds_16_bits(tmp_path_factory, depth):
    path = tmp_path_factory.getbasetemp() / "depth.png"
    DepthMap(depth).save(path)
    read = read_depth(path)
    assert read.depth.dtype == np.float32
    assert abs(read.depth.astype(np.float64) - depth).max() <= 0.5 / 65535 + 1e-7
    assert Image.open(path).mode == "I;16"


@pytest.mark.parametrize("suffix", [".exr", ".tif", ".tiff", ".npy", ".NPY", ".TIF"])
@settings(deadline=None, max_examples=20)
@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_float_files_are_bit_exact(tmp_path_factory, suffix, depth):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")
    path = tmp_path_factory.getbasetemp() / f"depth{suffix}"
    DepthMap(depth).save(path)
    read = read_depth(path)
    np.testing.assert_array_equal(read.depth.view(np.uint32), depth.view(np.uint32))
    finite = np.isfinite(depth)
    if finite.all():
        assert read.mask is None
    else:
        np.testing.assert_array_equal(read.mask, finite)


def test_exr_channels(tmp_path, depth):
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    for name in ("Z", "R"):
        exr.File(header, {name: depth}).write(str(tmp_path / "other.exr"))
        np.testing.assert_array_equal(read_depth(tmp_path / "other.exr").depth, depth)
    exr.File(header, {"normal.X": depth}).write(str(tmp_path / "other.exr"))
    with pytest.raises(MarigoldError, match="normal.X"):
        read_depth(tmp_path / "other.exr")
    DepthMap(depth).save(tmp_path / "depth.exr")
    written = exr.File(str(tmp_path / "depth.exr"), separate_channels=True)
    assert list(written.channels()) == ["Y"]
    assert written.header()["compression"] == exr.ZIP_COMPRESSION


def test_missing_openexr_is_one_line(tmp_path, depth, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MarigoldError, match="pip install OpenEXR"):
        DepthMap(depth).save(tmp_path / "depth.exr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_colour_pictures(tmp_path, depth, suffix):
    path = tmp_path / f"colour{suffix}"
    DepthMap(depth).save(path, colormap="Spectral")
    with Image.open(path) as picture:
        assert picture.size == depth.shape[::-1]
        assert picture.mode == "RGB"
        if suffix == ".png":
            np.testing.assert_array_equal(np.asarray(picture), DepthMap(depth).colorize())


def test_what_cannot_be_saved(tmp_path, depth):
    for values in (depth + 0.01, depth - 0.01, depth * 10, np.where(depth > 0.5, np.nan, depth)):
        wide = DepthMap(values)
        for name, colormap in (("a.png", None), ("a.jpg", "gray")):
            with pytest.raises(MarigoldError, match="normalise"):
                wide.save(tmp_path / name, colormap)
        wide.save(tmp_path / "wide.npy")
    (tmp_path / "wide.npy").unlink()
    for name, colormap in (
        ("a.jpg", None),
        ("a.bmp", None),
        ("a", None),
        ("a.exr", "gray"),
        ("a.gif", "gray"),
        ("a.png", "jet"),
    ):
        with pytest.raises(MarigoldError):
            DepthMap(depth).save(tmp_path / name, colormap)
    with pytest.raises(MarigoldError, match="16383"):
        DepthMap(np.zeros((1, 16384), "f")).save(tmp_path / "a.webp", "gray")
    assert not list(tmp_path.iterdir())


def test_rounding_just_outside_the_range_is_clipped(tmp_path):
    DepthMap(np.float32([[-1e-4, 1 + 1e-4]])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_depth(tmp_path / "a.png").depth, [[0, 1]])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".exr", ".npy", ".jpg"])
def test_no_half_written_file(tmp_path, depth, monkeypatch, suffix):
    path = tmp_path / f"depth{suffix}"
    path.write_text("the old file")

    def full_disk(file: object) -> None:
        if isinstance(file, (str, Path)):
            Path(file).write_bytes(b"half")
        else:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", lambda self, file, **_: full_disk(file))
    monkeypatch.setattr(np, "save", lambda file, *_, **__: full_disk(file))
    if suffix == ".exr":
        exr = pytest.importorskip("OpenEXR")

        class FullDiskFile(exr.File):
            def write(self, file):
                full_disk(file)

        monkeypatch.setattr(exr, "File", FullDiskFile)
    with pytest.raises(OSError, match="No space left"):
        DepthMap(depth).save(path, "gray" if suffix == ".jpg" else None)
    assert path.read_text() == "the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_read(tmp_path, depth):
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    (tmp_path / "notes.npy").write_text("not an array")
    (tmp_path / "notes.exr").write_text("not an EXR")
    (tmp_path / "notes.png").write_text("not a picture")
    np.save(tmp_path / "cube.npy", depth[None])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=depth)
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "wide.tif")
    DepthMap(np.random.default_rng(3).random((64, 64))).save(tmp_path / "cut.exr")
    cut = (tmp_path / "cut.exr").read_bytes()
    (tmp_path / "cut.exr").write_bytes(cut[: len(cut) // 2])
    names = [path.name for path in tmp_path.iterdir()]
    for name in [*names, "none.png", "none.exr", "none.npy", "picture.jpg"]:
        with pytest.raises(MarigoldError, match=name) as caught:
            read_depth(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_8_bit_depth_of_other_programs(tmp_path):
    Image.fromarray(np.uint8([[0, 51, 255]])).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_depth(tmp_path / "grey.png").depth, [[0, 0.2, 1]])


# --- uncertainty ---


def test_uncertainty_pictures(tmp_path, depth):
    spread = np.linspace(0, 0.01, depth.size, dtype=np.float32).reshape(depth.shape)
    spread[0, 0] = 5  # one torn edge
    unsure = DepthMap(depth, uncertainty=spread)
    scale = unsure.save_uncertainty(tmp_path / "u.png")
    assert 0.009 < scale < 0.011
    shown = read_depth(tmp_path / "u.png").depth
    np.testing.assert_allclose(shown, (spread / scale).clip(0, 1), atol=1e-5)
    assert unsure.save_uncertainty(tmp_path / "u.png", scale=5) == 5
    np.testing.assert_allclose(read_depth(tmp_path / "u.png").depth, spread / 5, atol=1e-5)
    mask = np.ones(depth.shape, bool)
    mask[6:] = False
    masked = DepthMap(depth, uncertainty=spread, mask=mask)
    assert masked.save_uncertainty(tmp_path / "u.png") < 0.006
    assert unsure.save_uncertainty(tmp_path / "u.npy") == 1
    np.testing.assert_array_equal(np.load(tmp_path / "u.npy"), spread)
    unsure.save_uncertainty(tmp_path / "u.jpg", colormap="magma")
    for wrong in (0, -1, np.nan):
        with pytest.raises(MarigoldError, match="scale"):
            unsure.save_uncertainty(tmp_path / "u.png", scale=wrong)
    with pytest.raises(MarigoldError, match="ensemble"):
        DepthMap(depth).save_uncertainty(tmp_path / "u.png")


def test_uncertainty_that_is_nearly_or_wholly_zero(tmp_path, depth):
    zero = np.zeros_like(depth)
    DepthMap(depth, uncertainty=zero).save_uncertainty(tmp_path / "u.png")
    assert read_depth(tmp_path / "u.png").depth.max() == 0
    zero[3, 3] = 0.25
    assert DepthMap(depth, uncertainty=zero).save_uncertainty(tmp_path / "u.png") == 0.25
    assert read_depth(tmp_path / "u.png").depth[3, 3] == 1
    nowhere = DepthMap(depth, uncertainty=zero, mask=np.zeros(depth.shape, bool))
    nowhere.save_uncertainty(tmp_path / "u.png")


# --- colours ---


def test_spectral_is_matplotlibs():
    levels = colorize(np.arange(256, dtype=np.float32)[None] / 255)[0]
    # SHA-256 of matplotlib.colormaps["Spectral"](range(256), bytes=True)[:, :3], version 3.11.2.
    assert (
        hashlib.sha256(levels.tobytes()).hexdigest()
        == "490beb5e2515013e1efd517fff804dd84cf1846d67a460f186aacffef7479a64"
    )


def test_levels_are_halves_of_halves():
    # Level n of 256 begins at n / 256, as in matplotlib.
    begins = colorize(np.float32([[0.5, np.nextafter(0.5, 0, dtype=np.float32)]]), "gray")[0]
    assert begins[:, 0].tolist() == [128, 127]


def test_near_is_red_and_far_is_blue():
    near, far = colorize(np.float32([[0, 1]]))[0].astype(int)
    assert near.argmax() == 0
    assert far.argmax() == 2


@pytest.mark.parametrize(
    ("colormap", "expected"),
    [
        # matplotlib 3.11.2 at levels 0, 64, 128, 255.
        ("turbo", [[48, 18, 59], [40, 187, 235], [164, 252, 59], [122, 4, 2]]),
        ("magma", [[0, 0, 3], [80, 18, 123], [182, 54, 121], [251, 252, 191]]),
        ("viridis", [[68, 1, 84], [58, 82, 139], [32, 144, 140], [253, 231, 36]]),
        ("gray", [[0, 0, 0], [64, 64, 64], [128, 128, 128], [255, 255, 255]]),
    ],
)
def test_colours_of_the_other_maps(colormap, expected):
    values = np.float32([[0, 64, 128, 255]]) / 255
    assert colormap in COLORMAPS
    np.testing.assert_allclose(colorize(values, colormap)[0].astype(int), expected, atol=1)


def test_colours_outside_the_range():
    values = np.float32([[-3, 0, 1, 3, np.nan, np.inf, -np.inf]])
    low, zero, one, high, missing, above, below = colorize(values)[0].tolist()
    assert low == zero == below
    assert high == one == above
    assert missing == [0, 0, 0]
    with pytest.raises(MarigoldError, match="Spectral"):
        colorize(values, "jet")


def test_depth_needs_no_torch():
    code = "import marigold_core.depth, sys; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
