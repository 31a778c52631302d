from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch
from checkpoint_builders import build_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marigold_core import DepthMap, Marigold, MarigoldError, NormalMap, depth_to_normals
from marigold_core.panorama import panorama_depth
from marigold_core.targets import normals_from_decoded
from marigold_core.worker.methods import Session

torch.set_num_threads(1)
UP_LEFT = np.array([-0.6, 0.64, 0.48], np.float32)


def flat(direction, height: int = 2, width: int = 3) -> NormalMap:
    return NormalMap(np.tile(np.asarray(direction, np.float32), (height, width, 1)))


def read_png(file: Path) -> np.ndarray:
    """The samples of a 16-bit RGB PNG, by the format's own words: Pillow reduces them to 8 bits."""
    data = file.read_bytes()
    assert data[24:26] == b"\x10\x02", "16 bits, RGB"
    width, height = (int.from_bytes(data[a : a + 4], "big") for a in (16, 20))
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    lines = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8)
    lines = lines.reshape(height, 1 + 6 * width)
    assert (lines[:, 0] == 1).all(), "each pixel less its left neighbour"
    samples = np.cumsum(lines[:, 1:].reshape(height, width, 6), axis=1, dtype=np.uint8)
    return samples.view(">u2").astype(np.uint16)


def test_a_png_has_16_bits_and_the_colours_of_normal_maps(tmp_path):
    flat((0, 0, 1)).save(tmp_path / "n.png")
    assert (read_png(tmp_path / "n.png") == (32768, 32768, 65535)).all()
    with Image.open(tmp_path / "n.png") as image:
        assert image.size == (3, 2)
        assert np.asarray(image)[0, 0].tolist() == [128, 128, 255]


@pytest.mark.parametrize("convention, green", [("opengl", 0.82), ("directx", 0.18)])
def test_green_points_up_in_opengl_and_down_in_directx(tmp_path, convention, green):
    normals = flat(UP_LEFT)
    normals.save(tmp_path / "n.png", convention)
    stored = read_png(tmp_path / "n.png")[0, 0] / 65535
    np.testing.assert_allclose(stored, (0.2, green, 0.74), atol=1e-5)
    np.testing.assert_allclose(normals.encoded(convention)[0, 0], (0.2, green, 0.74), atol=1e-6)
    normals.save(tmp_path / "n.exr", convention)
    normals.save(tmp_path / "n.npy", convention)
    expected = UP_LEFT * (1, 1 if convention == "opengl" else -1, 1)
    assert np.array_equal(np.load(tmp_path / "n.npy")[0, 0], expected.astype(np.float32))
    with OpenEXR.File(str(tmp_path / "n.exr")) as file:
        pixels = file.channels()["RGB"].pixels
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels[0, 0], expected.astype(np.float32))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_16_bit_pngs_of_any_size_hold_every_sample(tmp_path_factory, height, width, seed):
    normals = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    file = tmp_path_factory.mktemp("png") / "n.png"
    NormalMap(normals).save(file)
    assert np.abs(read_png(file) / 65535 * 2 - 1 - normals).max() <= 1 / 65535 + 1e-6


def test_the_uncertainty_is_written_in_radians(tmp_path):
    uncertainty = np.array([[0.1, 0.2, np.pi]], np.float32)
    normals = NormalMap(np.tile(np.float32((0, 0, 1)), (1, 3, 1)), uncertainty)
    assert normals.save_uncertainty(tmp_path / "u.npy") == 1.0
    assert np.array_equal(np.load(tmp_path / "u.npy"), uncertainty)
    assert normals.save_uncertainty(tmp_path / "u.png", scale=0.2) == 0.2
    assert np.asarray(Image.open(tmp_path / "u.png")).tolist() == [[32768, 65535, 65535]]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: NormalMap(np.zeros((2, 3), np.float32)), "(H, W, 3)"),
        (lambda: NormalMap(np.zeros((2, 2, 3), np.uint8)), "float array"),
        (lambda: NormalMap(np.zeros((2, 2, 3)), np.zeros((3, 2))), "uncertainty"),
        (lambda: NormalMap(np.zeros((2, 2, 3)), mask=np.zeros((2, 2))), "mask"),
        (lambda: flat((0, 0, 1)).save("n.jpg"), ".png"),
        (lambda: flat((0, 0, 1)).save("n.png", "vulkan"), "opengl, directx"),
        (lambda: flat((0, 0, 1)).save_uncertainty("u.png"), "ensemble"),
    ],
)
def test_what_cannot_be_is_one_clear_message(make, words):
    with pytest.raises(MarigoldError) as caught:
        make()
    assert words in str(caught.value)


def test_decoded_vectors_become_unit_vectors():
    decoded = torch.zeros(1, 1, 3, 1, 4)
    decoded[0, 0, :, 0, 1] = torch.tensor([0.3, 0.0, -0.4])
    decoded[0, 0, :, 0, 2] = torch.tensor([5.0, 0.0, 0.0])  # clamped to [-1, 1] first
    decoded[0, 0, 0, 0, 3] = torch.nan
    normals = normals_from_decoded(decoded.clone())
    expected = torch.tensor([[0.0, 0, 1], [0.6, 0, -0.8], [1, 0, 0]])
    torch.testing.assert_close(normals[0, :, 0, :3].T, expected)
    assert normals[0, :, 0, 3].isnan().any(), "a result that is not finite stays known as such"
    half = normals_from_decoded(decoded.clone(), full_z_range=False)
    torch.testing.assert_close(half[0, :, 0, 1], torch.tensor([0.3, 0, 0.3]) / 0.18**0.5)


def plane(normal, height: int, width: int, fov: float) -> np.ndarray:
    """Distances z of a plane 3 units ahead; normal in Marigold's axes."""
    focal = max(height, width) / 2 / np.tan(np.radians(fov) / 2)
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u)], axis=-1)
    facing = np.asarray(normal) * (1, -1, -1)
    return 3 * facing[2] / (rays @ facing)


@settings(deadline=None, max_examples=50)
@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.integers(2, 48), st.integers(32, 48))
def test_a_plane_has_its_own_normal_everywhere(x, y, height, width):
    # In a thumbnail of a few pixels, a step of such a plane is as large as an edge.
    normal = np.array([x, y, 1]) / np.linalg.norm([x, y, 1])
    z = plane(normal, height, width, 50)
    got = depth_to_normals(((z - 1) / 4).astype(np.float32), fov_degrees=50, near=1, far=5)
    assert got.dtype == np.float32
    assert np.abs(got - normal).max() < 1e-3
    metric = depth_to_normals(z.astype(np.float32) * 7, fov_degrees=50, near=None, far=None)
    assert np.abs(metric - normal).max() < 1e-3


def test_normals_of_a_sphere_and_at_its_edge():
    size = 200
    focal = size / 2 / np.tan(np.radians(25))
    v, u = np.mgrid[:size, :size] + 0.5
    rays = np.stack([(u - 100) / focal, (v - 100) / focal, np.ones_like(u)], axis=-1)
    centre, radius = np.array([0, 0, 3.0]), 1.0
    along = rays @ centre
    square = along**2 - (rays**2).sum(-1) * (centre @ centre - radius**2)
    hit = square > 0
    t = (along - np.sqrt(square, where=hit, out=np.zeros_like(square))) / (rays**2).sum(-1)
    points = rays * t[..., None]
    truth = (points - centre) / radius * (1, -1, -1)
    depth = np.where(hit, (points[..., 2] - 1) / 4, 1.0).astype(np.float32)
    normals = DepthMap(depth).normals()
    angle = np.degrees(np.arccos((normals.normals * truth).sum(-1).clip(-1, 1)))
    assert np.median(angle[hit]) < 0.1
    # The wall behind meets the sphere's edge without a slope between them.
    assert (np.abs(normals.normals[~hit] - (0, 0, 1)).max(axis=-1) < 1e-3).mean() > 0.99
    assert (normals.normals[hit][:, 2] > 0).mean() > 0.99


def test_masked_and_missing_depth_gives_no_nan_and_changes_no_neighbour():
    depth = np.full((6, 6), 0.5, np.float32)
    depth[3, 3] = np.nan
    mask = np.ones((6, 6), bool)
    mask[0] = False
    depth[0] = 1000.0
    normals = DepthMap(depth, mask=mask).normals()
    assert np.isfinite(normals.normals).all()
    np.testing.assert_allclose(np.linalg.norm(normals.normals, axis=2), 1, atol=1e-6)
    seen = mask & np.isfinite(depth)
    assert np.abs(normals.normals[seen] - (0, 0, 1)).max() < 1e-6
    assert normals.mask is mask


def test_normals_of_depth_without_a_shift_need_no_near_and_far():
    z = plane((0.6, 0, 0.8), 20, 30, 50).astype(np.float32)
    scaled = DepthMap(z / z.max(), shift_invariant=False)
    assert np.abs(scaled.normals().normals - (0.6, 0, 0.8)).max() < 1e-3


def test_a_single_column_still_has_normals_of_length_one():
    normals = depth_to_normals(np.linspace(0, 1, 5, dtype=np.float32)[:, None])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-6)


@pytest.fixture(scope="module")
def marigold(tmp_path_factory) -> Marigold:
    folder = build_checkpoint(tmp_path_factory.mktemp("normals") / "n", "normals-v1-1")
    return Marigold.from_pretrained(folder, device="cpu")


def test_a_run_gives_unit_vectors_of_the_pictures_size(marigold):
    picture = np.random.default_rng(0).random((37, 51, 3), np.float32)
    mask = np.ones((37, 51), bool)
    mask[:5] = False
    shown = []
    result = marigold(
        picture, processing_resolution=64, num_inference_steps=2, ensemble_size=3, seed=1,
        mask=mask, callback=lambda progress: shown.append(progress.preview()),
    )  # fmt: skip
    assert isinstance(result, NormalMap)
    assert result.normals.shape == (37, 51, 3)
    np.testing.assert_allclose(np.linalg.norm(result.normals, axis=2), 1, atol=1e-5)
    assert result.uncertainty.shape == (37, 51)
    assert 0 < result.uncertainty.max() <= np.pi
    assert np.array_equal(result.mask, mask)
    assert set(result.seconds) == {"encode", "denoise", "decode", "ensemble", "resize"}
    assert shown
    assert all(p.ndim == 3 and p.shape[2] == 3 and 0 <= p.min() <= p.max() <= 1 for p in shown)


def test_members_do_not_depend_on_the_batches(marigold):
    picture = np.random.default_rng(0).random((32, 48, 3), np.float32)
    options = {"processing_resolution": 48, "num_inference_steps": 2, "ensemble_size": 3, "seed": 5}
    one, three = (marigold.predict(picture, batch_size=n, **options) for n in (1, 3))
    assert one.shape == (3, 3, 32, 48)
    torch.testing.assert_close(one, three, atol=1e-4, rtol=0)


def test_a_word_of_another_target_is_refused_before_the_run(marigold):
    picture = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(MarigoldError, match="normals use one of closest, mean"):
        marigold(picture, reduction="median")
    with pytest.raises(MarigoldError, match="estimates normals.*for depth is needed"):
        marigold.expect("depth")
    with pytest.raises(MarigoldError, match="estimates normals.*for depth is needed"):
        panorama_depth(marigold, np.zeros((32, 64, 3), np.float32))


def test_the_workers_depth_refuses_a_checkpoint_for_normals(tmp_path):
    folder = build_checkpoint(tmp_path / "n", "normals-v1-1")
    model = {"checkpoint": str(folder), "device": "cpu"}
    arrays = {"image": np.zeros((8, 8, 3), np.float32)}
    session = Session()
    with pytest.raises(MarigoldError, match="estimates normals.*for depth is needed"):
        session.call("depth", {"model": model}, arrays, lambda *_: None)
    assert session.loaded["target"] == "normals"
