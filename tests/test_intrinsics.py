from __future__ import annotations

import numpy as np
import OpenEXR
import pytest
import torch
from checkpoint_builders import build_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_normals import read_png

from marigold_core import IntrinsicImages, Marigold, MarigoldError
from marigold_core.intrinsics import linear_to_srgb, srgb_to_linear

torch.set_num_threads(1)


def appearance(height: int = 4, width: int = 5) -> IntrinsicImages:
    rng = np.random.default_rng(0)
    return IntrinsicImages(
        {
            "albedo": rng.random((height, width, 3), np.float32),
            "roughness": rng.random((height, width), np.float32),
        },
        {"albedo": "srgb", "roughness": "linear"},
    )


@given(arrays(np.float32, 20, elements=st.floats(0, 1, width=32)))
def test_the_two_curves_are_inverses(values):
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)


def test_the_curve_is_that_of_srgb():
    # IEC 61966-2-1: 18 % grey is 117.6 of 255.
    assert linear_to_srgb(np.float32(0.18)) * 255 == pytest.approx(117.6, abs=0.1)
    assert srgb_to_linear(np.float32(0.04)) == pytest.approx(0.04 / 12.92)


def test_maps_come_in_the_space_that_is_asked_for():
    images = appearance()
    assert images.srgb("albedo") is images.maps["albedo"]
    assert np.array_equal(images.linear("albedo"), srgb_to_linear(images.maps["albedo"]))
    assert images.linear("roughness") is images.maps["roughness"]
    assert images.srgb("roughness") is images.maps["roughness"]  # data: no curve


def test_an_exr_holds_every_map_as_a_layer_in_linear_light(tmp_path):
    images = appearance()
    images.save(tmp_path / "all.exr")
    with OpenEXR.File(str(tmp_path / "all.exr"), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
        assert file.header()["colorSpace"] == "linear"
    assert sorted(channels) == ["albedo.B", "albedo.G", "albedo.R", "roughness.V"]
    assert np.array_equal(channels["albedo.G"], images.linear("albedo")[..., 1])
    assert np.array_equal(channels["roughness.V"], images.maps["roughness"])
    images.save(tmp_path / "curved.exr", space="srgb")
    with OpenEXR.File(str(tmp_path / "curved.exr"), separate_channels=True) as file:
        assert np.array_equal(file.channels()["albedo.R"].pixels, images.maps["albedo"][..., 0])


def test_pictures_of_colours_are_srgb_and_grey_maps_are_data(tmp_path):
    images = appearance()
    images.save_map("albedo", tmp_path / "a.png")
    expected = np.rint(images.maps["albedo"].astype(np.float64) * 65535)
    assert np.array_equal(read_png(tmp_path / "a.png"), expected)
    images.save_map("albedo", tmp_path / "l.png", space="linear")
    expected = np.rint(images.linear("albedo").astype(np.float64) * 65535)
    assert np.array_equal(read_png(tmp_path / "l.png"), expected)
    images.save_map("roughness", tmp_path / "r.png")
    expected = np.rint(images.maps["roughness"].astype(np.float64) * 65535)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "r.png")), expected)


@pytest.mark.parametrize("suffix", [".npy", ".exr", ".tiff"])
def test_float_files_hold_the_numbers(tmp_path, suffix):
    images = appearance()
    images.save_map("roughness", tmp_path / f"r{suffix}")
    if suffix != ".tiff":
        images.save_map("albedo", tmp_path / f"a{suffix}")
    if suffix == ".npy":
        assert np.array_equal(np.load(tmp_path / "a.npy"), images.linear("albedo"))


def test_a_map_known_up_to_a_scale_is_shown_at_its_brightest():
    shading = np.zeros((2, 2, 3), np.float32)
    shading[0, 0], shading[0, 1], shading[1, 1] = 0.25, 0.5, 1.0
    mask = np.array([[True, True], [True, False]])
    images = IntrinsicImages(
        {"shading": shading}, {"shading": "linear"}, up_to_scale=frozenset({"shading"}), mask=mask
    )
    assert images.picture("shading")[0, 1].max() == pytest.approx(1)
    assert images.picture("shading")[0, 0, 0] == pytest.approx(linear_to_srgb(np.float32(0.5)))
    assert images.picture("shading").max() == pytest.approx(1)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: IntrinsicImages({}, {}), "none"),
        (lambda: IntrinsicImages({"a": np.zeros((2, 2), np.float32)}, {}), "space"),
        (lambda: IntrinsicImages({"a": np.zeros((2, 2))}, {"a": "linear"}), "float32"),
        (lambda: IntrinsicImages({"a": np.zeros((2, 2), "f4")}, {"a": "aces"}), "linear, srgb"),
        (lambda: appearance().linear("gloss"), "albedo, roughness"),
        (lambda: appearance().save("all.png"), "save_map"),
        (lambda: appearance().save_map("albedo", "a.tiff"), ".png, .exr, .npy"),
        (lambda: appearance().save_map("albedo", "a.png", space="aces"), "linear, srgb"),
        (lambda: appearance().save_uncertainty("albedo", "a.png"), "ensemble"),
    ],
)
def test_what_cannot_be_is_one_clear_message(make, words):
    with pytest.raises(MarigoldError) as caught:
        make()
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Marigold]:
    root = tmp_path_factory.mktemp("iid")
    return {
        family: Marigold.from_pretrained(build_checkpoint(root / family, family), device="cpu")
        for family in ("iid-appearance", "iid-lighting")
    }


@pytest.mark.parametrize(
    "family, shapes",
    [
        ("iid-appearance", {"albedo": (37, 51, 3), "roughness": (37, 51), "metallicity": (37, 51)}),
        ("iid-lighting", dict.fromkeys(("albedo", "shading", "residual"), (37, 51, 3))),
    ],
)
def test_a_run_gives_named_maps_in_the_checkpoints_order(checkpoints, family, shapes):
    picture = np.random.default_rng(0).random((37, 51, 3), np.float32)
    mask = np.ones((37, 51), bool)
    mask[:5] = False
    shown = []
    result = checkpoints[family](
        picture, processing_resolution=64, num_inference_steps=1, ensemble_size=3, seed=1,
        mask=mask, callback=lambda progress: shown.append(progress.preview()),
    )  # fmt: skip
    assert isinstance(result, IntrinsicImages)
    assert {name: values.shape for name, values in result.maps.items()} == shapes
    assert list(result.maps) == list(shapes)
    assert result.uncertainty.keys() == shapes.keys()
    assert all(values.min() >= 0 for values in result.maps.values())
    assert np.array_equal(result.mask, mask)
    assert shown
    assert all(p.ndim == 3 and p.shape[2] == 3 and 0 <= p.min() <= p.max() <= 1 for p in shown)
    loose = {"shading", "residual"} if family == "iid-lighting" else set()
    assert result.up_to_scale == loose


def test_roughness_and_metallicity_are_returned_as_the_checkpoint_gives_them(checkpoints):
    """No power is undone: they are linear by model_index.json, and so diffusers takes them."""
    picture = np.random.default_rng(0).random((32, 48, 3), np.float32)
    options = {"processing_resolution": 0, "num_inference_steps": 1, "seed": 1}
    decoded = checkpoints["iid-appearance"].predict(picture, **options)
    result = checkpoints["iid-appearance"](picture, **options)
    for channel, name in enumerate(("roughness", "metallicity")):
        assert np.array_equal(result.maps[name], decoded[0, 1, channel].numpy())
        assert np.array_equal(result.linear(name), result.maps[name])


def test_members_do_not_depend_on_the_batches(checkpoints):
    picture = np.random.default_rng(0).random((32, 48, 3), np.float32)
    options = {"processing_resolution": 48, "num_inference_steps": 2, "ensemble_size": 3, "seed": 5}
    marigold = checkpoints["iid-lighting"]
    one, three = (marigold.predict(picture, batch_size=n, **options) for n in (1, 3))
    assert one.shape == (3, 3, 3, 32, 48)
    torch.testing.assert_close(one, three, atol=1e-4, rtol=0)


def test_latents_are_decoded_one_at_a_time_where_memory_is_scarce(checkpoints, monkeypatch):
    marigold = checkpoints["iid-lighting"]
    decoded, decode = [], marigold.vae.decode

    def counted(latents, **options):
        decoded.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return decode(latents, **options)

    monkeypatch.setattr(marigold.vae, "decode", counted)
    # By the class: other tests replace the module.
    monkeypatch.setitem(Marigold._decode.__globals__, "vae_batch", lambda pixels, device: 3)
    picture = np.random.default_rng(0).random((32, 48, 3), np.float32)
    marigold.predict(picture, processing_resolution=48, num_inference_steps=1, seed=0)
    assert decoded == [3, 1, 1, 1]
