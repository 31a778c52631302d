"""The nodes for normals and intrinsic images, on small random checkpoints, against the engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoint_builders import build_checkpoint

from marigold_core import Marigold, read_image
from marigold_core.intrinsics import srgb_to_linear

SIDE = 32
FAMILIES = {"normals": "normals-v1-1", "appearance": "iid-appearance", "lighting": "iid-lighting"}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Name -> folder of a checkpoint of each other target."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: build_checkpoint(root / name, family) for name, family in FAMILIES.items()}


@pytest.fixture
def load(run, comfy, checkpoints):
    """load("normals"): the MARIGOLD_MODEL."""

    def loaded(name):
        folder = comfy.root / "models" / "marigold" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            folder.symlink_to(checkpoints[name], target_is_directory=True)
        return run("LoadMarigold", checkpoint=name, precision="fp32")[0]

    return loaded


def wanted(folder, image, **options):
    """What the engine makes of it. Weights made in inference mode take other kernels."""
    with torch.inference_mode():
        marigold = Marigold.from_pretrained(folder, device="cpu")
        return marigold(image[0].numpy(), processing_resolution=SIDE, seed=3, **options)


def test_normals_are_the_engines(run, load, checkpoints, image):
    predictions, preview = run(
        "EstimateNormals", model=load("normals"), image=image, predictions=3, resolution=SIDE,
        seed=3,
    ).args  # fmt: skip
    assert preview.shape == (1, 24, 32, 3) and 0 <= preview.min() < preview.max() <= 1
    normals, colors, uncertainty, mask = run("EnsembleNormals", predictions=predictions).args
    engine = wanted(checkpoints["normals"], image, ensemble_size=3)
    assert np.array_equal(normals[0].normals, engine.normals)
    assert np.allclose(colors[0].numpy(), (engine.normals + 1) / 2, atol=1e-6)
    white = np.clip(engine.uncertainty / np.radians(30), 0, 1)
    assert np.allclose(mask[0].numpy(), white, atol=1e-6)
    assert torch.equal(uncertainty[..., 0], mask)


@pytest.mark.parametrize(
    ("convention", "signs"),
    [("OpenGL", (1, 1, 1)), ("DirectX", (1, -1, 1)), ("ControlNet", (-1, 1, 1))],
)
def test_the_conventions_of_the_picture_and_of_the_file(run, load, image, comfy, convention, signs):
    predictions = run(
        "EstimateNormals", model=load("normals"), image=image, resolution=SIDE, steps=1
    )[0]
    normals, colors, *_ = run(
        "EnsembleNormals", predictions=predictions, convention=convention
    ).args
    vectors = normals[0].normals * np.array(signs, np.float32)
    assert np.allclose(colors[0].numpy() * 2 - 1, vectors, atol=1e-6)
    for format in ("16-bit PNG", "NPY"):
        run("SaveNormals", normals=normals, format=format, convention=convention)
    folder = Path(comfy.root) / "output" / "normals"
    assert np.array_equal(np.load(folder / "Marigold_00002_.npy"), vectors)
    # Pillow reads 8 of the 16 bits; tests/test_normals.py reads them all.
    stored = read_image(folder / "Marigold_00001_.png") * 2 - 1
    assert np.abs(stored - vectors).max() <= 2.01 / 255


def test_normals_from_depth_are_those_of_the_plane(run):
    # A floor: 1 / z is linear in the row. Its normal points up.
    rows = np.linspace(0.05, 0.95, 48, dtype=np.float32)
    distance = np.tile(1 / rows[:, None], (1, 64))
    image = torch.from_numpy(distance)[None, ..., None].repeat(1, 1, 1, 3)
    depth = run("DepthFromImage", image=image, kind="distance")[0]
    normals, colors = run("NormalsFromDepth", depth=depth, field_of_view=60.0).args
    inside = normals[0].normals[4:-4, 4:-4]
    assert np.allclose(inside, inside[20, 20], atol=1e-2)
    assert inside[20, 20, 1] > 0.5 and abs(inside[20, 20, 0]) < 1e-2
    assert np.allclose(colors[0].numpy() * 2 - 1, normals[0].normals, atol=1e-6)


def test_near_and_far_are_of_relative_depth_alone(run, depth):
    flat = run("NormalsFromDepth", depth=depth, near=10.0, far=10.1)[0][0].normals
    steep = run("NormalsFromDepth", depth=depth, near=1.0, far=5.0)[0][0].normals
    # What recedes to the right is seen under a smaller angle the deeper the scene is.
    assert flat[..., 2].mean() > steep[..., 2].mean()
    from dataclasses import replace

    metric = [replace(depth[0], depth=depth[0].depth + 1, scale_invariant=False,
                      shift_invariant=False)]  # fmt: skip
    one, other = (
        run("NormalsFromDepth", depth=metric, near=near)[0][0].normals for near in (0.1, 3.0)
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize(("space", "reduction"), [("sRGB", "median"), ("linear", "mean")])
def test_intrinsic_images_are_the_engines(run, load, checkpoints, image, space, reduction):
    outputs = run(
        "IntrinsicImages", model=load("appearance"), image=image, predictions=2, resolution=SIDE,
        seed=3, space=space, reduction=reduction,
    ).args  # fmt: skip
    albedo, roughness, metallicity, shading, residual, intrinsics = outputs
    engine = wanted(checkpoints["appearance"], image, ensemble_size=2, reduction=reduction)
    colors = engine.maps["albedo"]  # in sRGB, as this checkpoint has it
    colors = srgb_to_linear(colors) if space == "linear" else colors
    assert np.allclose(albedo[0].numpy(), colors, atol=1e-6)
    for given, name in ((roughness, "roughness"), (metallicity, "metallicity")):
        assert np.allclose(given[0].numpy(), engine.maps[name][..., None], atol=1e-6)
    for blocked, name in ((shading, "shading"), (residual, "residual")):
        assert f"and no {name}" in blocked.message and "metallicity" in blocked.message
    for name, values in engine.maps.items():
        assert np.allclose(intrinsics[0].maps[name], values, atol=1e-6)


def test_lighting(run, load, checkpoints, image):
    outputs = run(
        "IntrinsicImages", model=load("lighting"), image=image, resolution=SIDE, seed=3,
        space="linear",
    ).args  # fmt: skip
    engine = wanted(checkpoints["lighting"], image)
    for given, name in zip(outputs, ("albedo", "", "", "shading", "residual"), strict=False):
        if name:
            assert np.allclose(given[0].numpy(), engine.maps[name], atol=1e-6)
        else:
            assert "disconnect this output" in given.message


@pytest.fixture
def intrinsics(run, load, image):
    """MARIGOLD_INTRINSICS of two pictures, merged from two predictions each."""
    return run(
        "IntrinsicImages", model=load("appearance"), image=torch.cat([image, image.flip(2)]),
        predictions=2, steps=1, resolution=SIDE,
    )[5]  # fmt: skip


@pytest.mark.parametrize("space", ["auto", "linear", "sRGB"])
def test_a_file_for_each_map(run, intrinsics, comfy, space):
    output = run("SaveIntrinsicImages", intrinsics=intrinsics, format="NPY", space=space,
                 filename_prefix="pbr/car")  # fmt: skip
    folder = comfy.root / "output" / "pbr"
    maps = ("albedo", "roughness", "metallicity")
    assert {file.name for file in folder.iterdir()} == {
        f"car_{number:05}_{name}.npy" for number in (1, 2) for name in maps
    }
    for number, one in enumerate(intrinsics, 1):
        wanted = one.srgb("albedo") if space == "sRGB" else one.linear("albedo")
        assert np.array_equal(np.load(folder / f"car_{number:05}_albedo.npy"), wanted)
        rough = np.load(folder / f"car_{number:05}_roughness.npy")
        assert np.array_equal(rough, one.maps["roughness"])  # data has no curve
    assert len(output.ui.as_dict()["images"]) == 6
    # A second run overwrites nothing.
    run("SaveIntrinsicImages", intrinsics=intrinsics, format="NPY", filename_prefix="pbr/car")
    assert (folder / "car_00004_albedo.npy").is_file()


def test_pictures_of_the_maps(run, intrinsics, comfy):
    run("SaveIntrinsicImages", intrinsics=intrinsics[:1])
    stored = read_image(comfy.root / "output" / "intrinsic" / "Marigold_00001_albedo.png")
    assert np.abs(stored - intrinsics[0].srgb("albedo")).max() <= 1.01 / 255


def test_one_exr_with_a_layer_for_each_map(run, intrinsics, comfy, monkeypatch, nodes):
    openexr = pytest.importorskip("OpenEXR")
    hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})
    monkeypatch.setattr(nodes["SaveIntrinsicImages"], "hidden", hidden)
    for space in ("auto", "sRGB"):
        run("SaveIntrinsicImages", intrinsics=intrinsics, format="multi-layer EXR", space=space)
    files = sorted((comfy.root / "output" / "intrinsic").iterdir())
    assert len(files) == 4
    with openexr.File(str(files[0]), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
        header = dict(file.header())
    assert header["colorSpace"] == "linear" and header["prompt"] == '{"1": {}}'
    assert np.array_equal(channels["albedo.R"], intrinsics[0].linear("albedo")[..., 0])
    assert np.array_equal(channels["roughness.V"], intrinsics[0].maps["roughness"])
    assert "albedo_uncertainty.G" in channels
    with openexr.File(str(files[2]), separate_channels=True) as file:
        assert file.header()["colorSpace"] == "srgb"
        curved = file.channels()
        assert np.array_equal(curved["albedo.R"].pixels, intrinsics[0].srgb("albedo")[..., 0])
        assert np.array_equal(curved["roughness.V"].pixels, channels["roughness.V"])


@pytest.mark.parametrize(
    ("node", "name", "has", "needs"),
    [
        ("EstimateDepth", "normals", "normals", "depth"),
        ("EstimateDepth", "lighting", "intrinsic images", "depth"),
        ("EstimateNormals", "appearance", "intrinsic images", "normals"),
        ("EstimateNormals", "nano", "depth", "normals"),
        ("IntrinsicImages", "nano", "depth", "intrinsic images"),
        ("EstimatePanorama", "normals", "normals", "depth"),
    ],
)
def test_the_wrong_kind_of_checkpoint_is_named(run, load, model, error, node, name, has, needs):
    picture = torch.rand(1, 64, 128, 3)
    wrong = model if name == "nano" else load(name)
    with pytest.raises(error, match=f"estimates {has}, and a checkpoint for {needs} is needed"):
        run(node, model=wrong, image=picture)


def test_previews_of_normals_are_in_color(run, load, image, comfy, monkeypatch):
    monkeypatch.setattr(comfy.args, "preview_method", "auto", raising=False)
    shown = []
    comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, preview, node_id=None: shown.append(
        (value, total, preview)
    )
    for node, name in (("EstimateNormals", "normals"), ("IntrinsicImages", "appearance")):
        shown.clear()
        run(node, model=load(name), image=image, steps=2, resolution=SIDE)
        previews = [preview for *_, preview in shown if preview is not None]
        assert len(previews) == 2 and shown[-1][0] == shown[-1][1]
        pixels = np.asarray(previews[0][1])
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
        assert (pixels[..., 0] != pixels[..., 1]).any()


def test_cancel(run, load, image, comfy):
    loaded = load("normals")
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run("EstimateNormals", model=loaded, image=image, steps=1, resolution=SIDE)


def test_masks_go_with_the_normals(run, load, image):
    mask = torch.zeros(1, 48, 64)
    mask[:, :, :32] = 1
    predictions = run(
        "EstimateNormals", model=load("normals"), image=image, steps=1, resolution=SIDE, mask=mask
    )[0]
    normals = run("EnsembleNormals", predictions=predictions)[0]
    assert np.array_equal(normals[0].mask, mask[0].numpy() > 0.5)
