"""`marigold normals` and `marigold intrinsics`, with tiny random checkpoints and nano."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch
from checkpoint_builders import build_checkpoint
from PIL import Image
from test_normals import read_png

from marigold_core.cli.arguments import main

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("user_cache")
QUICK = ("--resolution", "48", "--steps", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("checkpoints")
    families = ("normals-v1-1", "iid-appearance", "iid-lighting")
    return {family: str(build_checkpoint(root / family, family)) for family in families}


@pytest.fixture(autouse=True)
def picture(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    return Path("a.png")


def written(folder: str = "marigold_output") -> set[str]:
    return {file.name for file in Path(folder).iterdir() if not file.name.startswith(".")}


def test_normals_by_a_checkpoint_for_them(checkpoints):
    options = ("--checkpoint", checkpoints["normals-v1-1"], "--ensemble", "2", *QUICK)
    assert main(["normals", "a.png", "--format", "png,npy", *options]) == 0
    assert written() == {
        "a_normals.png", "a_normals.npy", "a_normals_uncertainty.png", "a_normals_uncertainty.npy",
    }  # fmt: skip
    normals = np.load("marigold_output/a_normals.npy")
    assert normals.shape == (31, 45, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-5)
    stored = read_png(Path("marigold_output/a_normals.png")) / 65535 * 2 - 1
    assert np.abs(stored - normals).max() < 1e-4
    assert main(["normals", "a.png", "--format", "npy", "--convention", "directx", *options]) == 0
    flipped = np.load("marigold_output/a_normals.npy")
    assert np.array_equal(flipped, normals * np.float32([1, -1, 1]))


def test_normals_from_the_depth_of_the_bundled_checkpoint(capsys):
    assert main(["normals", "a.png", "--format", "npy", "--fov", "60", *QUICK]) == 0
    assert "from its depth, for a field of view of 60° (user)" in capsys.readouterr().out
    normals = np.load("marigold_output/a_normals.npy")
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-5)
    assert written() == {"a_normals.npy"}
    assert main(["normals", "a.png", "--format", "npy", "--skip-existing", *QUICK]) == 0
    assert "1 picture skipped" in capsys.readouterr().out


def test_appearance_is_a_file_for_each_map_and_data_stays_linear(checkpoints):
    options = ("--checkpoint", checkpoints["iid-appearance"], *QUICK)
    assert main(["intrinsics", "a.png", "--format", "png,npy", *options]) == 0
    names = ("albedo", "roughness", "metallicity")
    assert written() == {f"a_{name}.{suffix}" for name in names for suffix in ("png", "npy")}
    roughness = np.load("marigold_output/a_roughness.npy")
    stored = np.asarray(Image.open("marigold_output/a_roughness.png"))
    assert roughness.shape == stored.shape == (31, 45)
    assert np.abs(stored / 65535 - roughness).max() < 1e-4


def test_lighting_is_one_exr_with_a_layer_for_each_map(checkpoints):
    options = ("--checkpoint", checkpoints["iid-lighting"], "--ensemble", "2", *QUICK)
    assert main(["intrinsics", "a.png", "--format", "exr", *options]) == 0
    assert written() == {"a_intrinsics.exr"}
    with OpenEXR.File("marigold_output/a_intrinsics.exr", separate_channels=True) as file:
        layers = {name.split(".")[0] for name in file.channels()}
    maps = {"albedo", "shading", "residual"}
    assert layers == maps | {f"{name}_uncertainty" for name in maps}


def test_a_folder_is_run_once_more_without_its_own_outputs(checkpoints, capsys):
    options = ("--checkpoint", checkpoints["iid-appearance"], "-o", ".", *QUICK)
    assert main(["intrinsics", "a.png", *options]) == 0
    options = ("--checkpoint", checkpoints["iid-appearance"], "-o", "out", *QUICK)
    assert main(["intrinsics", ".", *options]) == 0
    assert written("out") == {"a_albedo.png", "a_roughness.png", "a_metallicity.png"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("depth", "a.png", "--checkpoint", "normals-v1-1"), "estimates normals"),
        (("mesh", "a.png", "--checkpoint", "iid-lighting"), "estimates intrinsic images"),
        (("normals", "a.png", "--checkpoint", "iid-lighting"), "estimates intrinsic images"),
        (("intrinsics", "a.png", "--checkpoint", "normals-v1-1"), "estimates normals"),
        (("normals", "a.png", "--checkpoint", "normals-v1-1", "--fov", "50"), "--fov"),
        (("normals", "a.png", "--fov", "190"), "190"),
        (("normals", "a.png", "--near", "5", "--far", "2"), "Near is 5"),
    ],
)
def test_what_does_not_fit_is_one_line(checkpoints, capsys, arguments, words):
    assert main([checkpoints.get(one, one) for one in arguments] + ["--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("marigold_output").exists()


def test_inspect_names_the_maps(checkpoints, capsys):
    assert main(["checkpoints", "inspect", checkpoints["iid-lighting"]]) == 0
    assert "albedo (linear), shading (linear, up to a scale)" in capsys.readouterr().out
