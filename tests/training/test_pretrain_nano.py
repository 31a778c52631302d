"""The base that nano is fine-tuned from: its VAE's training, and what is written."""

from __future__ import annotations

import math

import numpy as np
import pretrain_nano
import pytest
import torch
from data_builders import rendered_folder
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from training_runs import build_mapped

from marigold_core.errors import MarigoldError

SMALL = ["--scenes", "4", "--steps", "2", "--batch-size", "4", "--crop", "32", "--device", "cpu"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def base(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    rendered = f"folder:{rendered_folder(folder / 'rendered', 1)}"
    pretrain_nano.main(
        ["--output", str(folder / "base"), *SMALL, "--pictures", str(photographs),
         "--val-data", rendered, "--val-every", "2", "--channels", "32", "32", "64", "64"]
    )  # fmt: skip
    return folder / "base"


def test_a_base_has_a_unet_of_the_shape_asked_for(base):
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    assert tuple(unet.config.block_out_channels) == (32, 32, 64, 64)
    latent = torch.zeros(1, 4, 16, 24)
    assert unet(latent, torch.tensor(9), torch.zeros(1, 2, 32)).sample.shape == latent.shape


def test_what_was_learnt_by_a_validation_is_on_the_disk(base):
    kept = AutoencoderKL.from_pretrained(base.with_name("base-vae"))
    last = AutoencoderKL.from_pretrained(base / "vae")
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), last.parameters(), strict=True))


def test_a_start_keeps_its_unet(base, tmp_path):
    pretrain_nano.main(["--output", str(tmp_path / "next"), "--start", str(base), *SMALL])
    before, after = (
        UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
        for folder in (base, tmp_path / "next")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_decoder_trained_alone_leaves_the_latents_as_they_were(base, tmp_path):
    pretrain_nano.main(
        ["--output", str(tmp_path / "next"), "--start", str(base), "--decoder-only", *SMALL]
    )
    before, after = (
        AutoencoderKL.from_pretrained(folder / "vae") for folder in (base, tmp_path / "next")
    )
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = [vae.encode(picture).latent_dist.mode() for vae in (before, after)]
    assert torch.equal(*latents)
    assert before.config.scaling_factor == after.config.scaling_factor
    assert not torch.equal(*(vae.decode(latents[0]).sample for vae in (before, after)))


def test_half_of_a_batchs_pictures_have_no_depth(photographs):
    args = type("Args", (), {
        "batch_size": 8, "crop": 32, "seed": 1, "scenes": 8, "device": "cpu", "data": None,
        "farthest": None, "pictures": [photographs], "normals": False,
    })  # fmt: skip
    windows = pretrain_nano.Windows(args)
    rgb, depth = windows.batch(0)
    assert rgb.shape == (8, 3, 32, 32) and depth.shape == (4, 3, 32, 32)
    assert -1 <= rgb.min() and rgb.max() <= 1
    again, _ = windows.batch(0)
    other, _ = windows.batch(1)
    assert torch.equal(rgb, again) and not torch.equal(rgb, other)


def test_half_of_those_are_normals_as_the_finetuning_encodes_them(photographs, tmp_path):
    folder = build_mapped(tmp_path / "balls", 3)
    (folder / "depth").mkdir()
    for picture in (folder / "images").iterdir():
        depth = np.random.default_rng(0).uniform(1, 9, (64, 64)).astype(np.float32)
        np.save(folder / "depth" / f"{picture.stem}.npy", depth)
    args = type("Args", (), {
        "batch_size": 8, "crop": 32, "seed": 1, "scenes": 8, "device": "cpu", "farthest": None,
        "data": [f"folder:{folder}"], "pictures": [photographs], "normals": True,
    })  # fmt: skip
    rgb, depth = pretrain_nano.Windows(args).batch(0)
    assert rgb.shape == (8, 3, 32, 32) and depth.shape == (4, 3, 32, 32)
    length = rgb.norm(dim=1)
    assert [bool((one - 1).abs().max() < 1e-2) for one in length] == [False] * 6 + [True] * 2
    args.pictures = None
    rgb, _ = pretrain_nano.Windows(args).batch(0)
    assert ((rgb.norm(dim=1) - 1).abs().flatten(1).amax(1) < 1e-2).tolist() == (
        [False] * 4 + [True] * 4
    )
    args.data = [f"folder:{rendered_folder(tmp_path / 'depth alone', 1)}"]
    with pytest.raises(MarigoldError, match="normals"):
        pretrain_nano.Windows(args)


class HalfGrey(torch.nn.Module):
    """Stands in for a VAE: gives every picture back with an error of `error` everywhere."""

    device = torch.device("cpu")

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def encode(self, picture):
        mode = type("Mode", (), {"mode": lambda _: picture})()
        return type("Encoded", (), {"latent_dist": mode})

    def decode(self, latent):
        return type("Decoded", (), {"sample": latent + self.error})


def test_psnr_is_of_the_values_range():
    """An error of 0.02 in [-1, 1] is 1 % of the range: 40 dB."""
    pictures = [torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 16)]
    assert pretrain_nano.peak_signal(HalfGrey(0.02), pictures) == pytest.approx(40)
    assert pretrain_nano.peak_signal(HalfGrey(2.0), pictures) == pytest.approx(20 * math.log10(2))


def test_channels_that_groups_cannot_divide_are_refused(capsys):
    with pytest.raises(SystemExit):
        pretrain_nano.main(["--output", "x", "--channels", "48", "96", "100"])
    assert "multiple of 32" in capsys.readouterr().err
