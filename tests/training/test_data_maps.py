"""Normals and intrinsic images of a data set: files, axes, spaces, and what resizing does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.augment import Variants
from data.hypersim import HEIGHT, WIDTH, facing
from data.map_files import read_map
from data.registry import open_dataset
from data.sample import DataError, mapped_sample, resize_sample
from data_builders import hypersim_frame, picture
from PIL import Image
from render.exr_png import write_exr
from render.sample_folder import Sample as Rendered
from render.sample_folder import write_manifest, write_sample

from marigold_core import IntrinsicImages, NormalMap
from marigold_core.errors import MarigoldError
from marigold_core.intrinsics import linear_to_srgb

SIZE = 24, 32


def some_normals(seed: int = 0) -> np.ndarray:
    """(H, W, 3), towards the viewer."""
    values = np.random.default_rng(seed).normal(0, 1, (*SIZE, 3)).astype(np.float32)
    values[..., 2] = np.abs(values[..., 2]) + 0.2
    return values / np.linalg.norm(values, axis=2, keepdims=True)


def as_map(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.reshape(*SIZE, -1)).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["n.exr", "n.npy", "n.png"])
@pytest.mark.parametrize("convention", ["opengl", "directx"])
def test_what_the_engine_writes_of_normals_is_read_back(tmp_path, name, convention):
    normals = some_normals()
    NormalMap(normals).save(tmp_path / name, convention)
    found = read_map("normals", tmp_path / name, "down" if convention == "directx" else "up")
    # Pillow reads 16-bit colours as 8-bit ones.
    tolerance = 0.02 if name.endswith("png") else 1e-6
    torch.testing.assert_close(found, as_map(normals), rtol=0, atol=tolerance)
    assert torch.allclose(found.norm(dim=0), torch.ones(SIZE), atol=1e-5)


def test_what_the_engine_writes_of_intrinsic_images_is_read_back_linear(tmp_path):
    rng = np.random.default_rng(0)
    maps = {
        "albedo": rng.random((*SIZE, 3), np.float32), "roughness": rng.random(SIZE, np.float32),
    }  # fmt: skip
    images = IntrinsicImages(maps, {"albedo": "linear", "roughness": "linear"})
    for kind, values in maps.items():
        for suffix, tolerance in ((".exr", 1e-6), (".npy", 1e-6), (".png", 0.01)):
            images.save_map(kind, tmp_path / f"a{suffix}")
            found = read_map(kind, tmp_path / f"a{suffix}")
            torch.testing.assert_close(found, as_map(values), rtol=0, atol=tolerance)


def rendered(folder: Path, count: int = 2) -> Path:
    """A folder as render_dataset.py --passes writes it; a quarter of each picture is sky."""
    lines = []
    for index in range(count):
        rng = np.random.default_rng(index)
        depth = rng.uniform(1, 5, SIZE).astype(np.float32)
        depth[:6] = np.inf
        normals = some_normals(index) * (1, -1, -1)  # OpenCV's axes
        normals[:6] = 0
        maps = {k: rng.random((*SIZE, 3)).astype(np.float16)
                for k in ("albedo", "shading", "residual", "base_colour")}  # fmt: skip
        maps |= {k: rng.random(SIZE).astype(np.float16) for k in ("roughness", "metallicity")}
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        sample = Rendered(image, depth, normals.astype(np.float32), {}, maps)
        lines.append(write_sample(folder, index, sample))
    write_manifest(folder, lines)
    return folder


def test_a_rendered_folder_gives_normals_in_the_engines_axes(tmp_path):
    sample = open_dataset(f"folder:{rendered(tmp_path)}", "all", maps=("normals",))[0]
    assert not sample.valid[:6].any() and sample.valid[6:].all()
    torch.testing.assert_close(
        sample.maps["normals"][:, 6:], as_map(some_normals())[:, 6:], rtol=0, atol=2e-3
    )
    assert not sample.maps["normals"][:, :6].any()


def test_a_base_colour_that_is_not_there_is_the_albedo(tmp_path):
    folder = rendered(tmp_path)
    kinds = ("base_colour", "roughness")
    with_it = open_dataset(f"folder:{folder}", "all", maps=kinds)[0]
    lines = [json.loads(t) for t in (folder / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        del line["base_colour"], line["depth"]
    write_manifest(folder, lines)
    without = open_dataset(f"folder:{folder}", "all", maps=kinds)[0]
    albedo = open_dataset(f"folder:{folder}", "all", maps=("albedo",))[0].maps["albedo"]
    assert torch.equal(without.maps["base_colour"], albedo)
    assert not torch.equal(with_it.maps["base_colour"], albedo)
    assert with_it.maps["roughness"].shape == (1, *SIZE)
    with pytest.raises(DataError, match="depth"):
        open_dataset(f"folder:{folder}", "all")


def test_a_folder_without_a_manifest_is_paired_by_name(tmp_path):
    picture(tmp_path / "images" / "a.png", *SIZE)
    picture(tmp_path / "images" / "b.png", *SIZE)
    (tmp_path / "normals").mkdir()
    NormalMap(some_normals()).save(tmp_path / "normals" / "a.png")
    dataset = open_dataset(f"folder:{tmp_path}", "all", maps=("normals",))
    assert [dataset.name(i) for i in range(len(dataset))] == ["a"]
    assert dataset[0].valid.all()
    with pytest.raises(DataError, match="albedo"):
        open_dataset(f"folder:{tmp_path}", "all", maps=("albedo",))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: np.save(p / "a.npy", np.ones(SIZE, np.float32)), "not floats"),
        (lambda p: (p / "a.npy").write_bytes(b"\x93NUMPY torn"), "broken"),
        (lambda p: write_exr(p / "a.exr", {"Y": np.ones(SIZE, np.float32)}), "channels Y"),
        (lambda p: (p / "a.exr").write_bytes(b"not EXR"), "broken"),
        (lambda p: np.save(p / "a.npy", np.ones((8, 8, 3), np.float32)), "8 x 8"),
    ],
)
def test_a_file_that_is_no_map_is_named(tmp_path, write, words):
    picture(tmp_path / "images" / "a.png", *SIZE)
    (tmp_path / "normals").mkdir()
    write(tmp_path / "normals")
    with pytest.raises(DataError, match=words):
        open_dataset(f"folder:{tmp_path}", "all", maps=("normals",))[0]


def test_resized_normals_have_unit_length_and_take_nothing_from_where_there_are_none():
    normals = as_map(np.full((*SIZE, 3), (0, 0.6, 0.8), np.float32))
    normals[:, :, 10:] = torch.nan
    whole = mapped_sample(np.zeros((*SIZE, 3)), {"normals": normals}, None, "a", "a")
    small = resize_sample(whole, (9, 15))
    found = small.maps["normals"][:, small.valid]
    assert 0 < found.shape[1] < 9 * 15
    expected = torch.tensor([0, 0.6, 0.8])[:, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_variants_crop_of_normals_keeps_the_centre(tmp_path):
    """Only then are they those of a camera that looks where the first one did."""
    picture(tmp_path / "images" / "a.png", 65, 65)
    normals = np.zeros((65, 65, 3), np.float32)
    normals[..., 2] = 1
    normals[32, 32] = (1, 0, 0)
    (tmp_path / "normals").mkdir()
    np.save(tmp_path / "normals" / "a.npy", normals)
    stored = open_dataset(f"folder:{tmp_path}", "all", maps=("normals",))
    for variant in Variants(stored, 5, 65):
        x = variant.maps["normals"][0]
        y, column = divmod(int(x.argmax()), x.shape[1])
        assert abs(y - x.shape[0] // 2) <= 2 and abs(column - x.shape[1] // 2) <= 2
        assert torch.allclose(variant.maps["normals"].norm(dim=0), torch.ones(x.shape), atol=1e-4)


def test_hypersims_normals_face_the_camera_and_its_light_is_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    shape = HEIGHT, WIDTH
    hypersim_frame(tmp_path, "ai_001_001", 0, np.ones(shape), rng.random((*shape, 3)),
                   np.zeros(shape, np.int64))  # fmt: skip
    normal = np.zeros((*shape, 3), np.float16)
    normal[..., 2] = 1
    normal[:, 600:, 2] = -1  # away from the camera
    images = tmp_path / "ai_001_001" / "images"
    for kind, part, values in (
        ("normal_cam", "geometry", normal),
        ("diffuse_reflectance", "final", np.full((*shape, 3), 0.5, np.float16)),
        ("diffuse_illumination", "final", np.full((*shape, 3), 3, np.float16)),
        ("residual", "final", np.full((*shape, 3), np.nan, np.float16)),
    ):
        path = images / f"scene_cam_00_{part}_hdf5" / f"frame.0000.{kind}.hdf5"
        with h5py.File(path, "w") as file:
            file["dataset"] = values
    sample = open_dataset(f"hypersim:{tmp_path}", "all", maps=("normals",))[0]
    assert sample.image.shape == (3, 480, 640)
    facing_viewer = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 480, 640)
    torch.testing.assert_close(sample.maps["normals"], facing_viewer)
    light = open_dataset(f"hypersim:{tmp_path}", "all", maps=("albedo", "shading"))[0]
    assert light.maps["albedo"].unique().tolist() == [0.5] and light.valid.all()
    torch.testing.assert_close(light.maps["shading"], torch.full((3, 480, 640), 3.0))
    nothing = open_dataset(f"hypersim:{tmp_path}", "all", maps=("residual",))[0]
    assert not nothing.valid.any()
    with pytest.raises(DataError, match="no roughness"):
        open_dataset(f"hypersim:{tmp_path}", "all", maps=("roughness",))


def test_a_grazing_normal_at_the_edge_of_the_picture_is_judged_by_its_own_ray():
    """Turned from the axis, but not from the ray that meets it."""
    normals = torch.zeros(3, HEIGHT, WIDTH)
    normals[0], normals[2] = -0.99, -0.1
    turned = facing(normals)
    assert torch.equal(turned[:, 5, -1], normals[:, 5, -1])
    assert torch.equal(turned[:, 5, 0], -normals[:, 5, 0])


def test_prepared_hypersim_has_the_authors_files(tmp_path):
    name = "train/ai_001_001/{}_cam_00_fr0000"
    picture(tmp_path / f"{name.format('rgb')}.png", *SIZE)
    picture(tmp_path / f"{name.format('rgb').replace('0000', '0001')}.png", *SIZE)
    np.save(tmp_path / f"{name.format('normal_cam')}.npy", some_normals())
    dataset = open_dataset(f"hypersim:{tmp_path}", "train", maps=("normals",))
    assert len(dataset) == 1 and dataset[0].maps["normals"].shape == (3, 480, 640)


def test_data_that_has_only_depth_says_so():
    with pytest.raises(MarigoldError, match="has only depth, no normals"):
        open_dataset("procedural:3", "train", maps=("normals",))


def test_an_8_bit_texture_is_a_map(tmp_path):
    Image.fromarray(np.full(SIZE, 51, np.uint8)).save(tmp_path / "r.png")
    assert read_map("roughness", tmp_path / "r.png").unique().tolist() == pytest.approx([0.2])
    Image.fromarray(np.full((*SIZE, 3), 128, np.uint8)).save(tmp_path / "c.png")
    expected = np.float32(128 / 255)
    found = linear_to_srgb(read_map("albedo", tmp_path / "c.png").numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
