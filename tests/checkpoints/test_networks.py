"""The engine's own networks against diffusers': same weights, same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_builders import TEXT_WIDTH, for_inference, tiny_unet, tiny_vae
from diffusers import AutoencoderKL, UNet2DConditionModel

from marigold_core import Marigold
from marigold_core.checkpoints import autoencoder, networks, unet

SMALL = {
    "in_channels": 8,
    "block_out_channels": [16, 32, 32, 32],
    "attention_head_dim": [2, 4, 4, 4],
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 8,
}
# Stable Diffusion 2's layers in small, then what other checkpoints have.
UNETS = {
    "linear projections": {"use_linear_projection": True},
    "projections that are convolutions": {"use_linear_projection": False},
    "three layers": {"layers_per_block": 3, "attention_head_dim": 4},
    "two levels": {
        "block_out_channels": [16, 32],
        "attention_head_dim": [2, 4],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
}
# Each level halves: 27 -> 14 -> 7 -> 4, so that every way up ends within a repeated pixel.
SIZES = [(16, 24), (27, 13), (9, 30)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_the_unet_computes_what_diffusers_does(name, size):
    theirs = UNet2DConditionModel(**SMALL | UNETS[name]).eval()
    prompt = torch.randn(1, 2, TEXT_WIDTH)
    inputs = torch.randn(3, 8, *size), torch.tensor(499)
    expected = theirs(*inputs, encoder_hidden_states=prompt.expand(3, -1, -1)).sample
    got = for_inference(theirs, prompt)(*inputs).sample
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 77])
@torch.no_grad()
def test_a_prompt_of_any_length_is_folded_in(tokens):
    theirs, prompt = tiny_unet().eval(), torch.randn(1, tokens, TEXT_WIDTH)
    inputs = torch.randn(1, 8, 8, 8), torch.tensor(3)
    expected = theirs(*inputs, encoder_hidden_states=prompt).sample
    torch.testing.assert_close(
        for_inference(theirs, prompt)(*inputs).sample, expected, rtol=0, atol=1e-5
    )
    other = theirs(*inputs, encoder_hidden_states=-prompt).sample
    assert (other - expected).abs().max() > 1e-3, "the prompt makes no difference here"


@pytest.mark.parametrize("attention", [True, False])
@torch.no_grad()
def test_the_autoencoder_computes_what_diffusers_does(attention):
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        mid_block_add_attention=attention,
    ).eval()
    own = for_inference(theirs, torch.zeros(1, 2, 4))
    pixels = torch.randn(2, 3, 24, 36)
    latents = theirs.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(own.encode(pixels).latents, latents, rtol=0, atol=1e-5)
    decoded = theirs.decode(latents).sample
    torch.testing.assert_close(own.decode(latents).sample, decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_in_half_precision_it_is_as_near_to_float32_as_diffusers(dtype):
    theirs, prompt = tiny_unet().eval(), torch.randn(1, 2, TEXT_WIDTH)
    sample, timestep = torch.randn(4, 8, 16, 16), torch.tensor(999)
    text = prompt.expand(4, -1, -1)
    exact = theirs(sample, timestep, encoder_hidden_states=text).sample
    own, half = for_inference(theirs, prompt).to(dtype), theirs.to(dtype)
    spread = half(sample.to(dtype), timestep, encoder_hidden_states=text.to(dtype)).sample - exact
    difference = own(sample.to(dtype), timestep).sample - exact
    assert difference.square().mean() < 1.5 * spread.square().mean()


@torch.no_grad()
def test_stable_diffusion_2_has_the_weights_that_are_expected():
    with torch.device("meta"):
        config = {
            "in_channels": 8,
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        }
        wide = {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
        }
        pairs = [
            (unet.UNet(config), UNet2DConditionModel(**config)),
            (autoencoder.Autoencoder(wide), AutoencoderKL(**wide)),
        ]
    for own, theirs in pairs:
        shapes = [{n: w.shape for n, w in net.state_dict().items()} for net in (own, theirs)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("part", "build", "change"),
    [
        ("unet", tiny_unet, {"act_fn": "gelu"}),
        ("unet", tiny_unet, {"resnet_time_scale_shift": "scale_shift"}),
        ("unet", tiny_unet, {"transformer_layers_per_block": 2}),
        ("vae", tiny_vae, {"act_fn": "gelu"}),
    ],
)
def test_an_architecture_that_is_not_known_runs_in_diffusers(folder, part, build, change):
    network = build(**change)
    network.save_pretrained(folder / part)
    marigold = Marigold.from_pretrained(folder)
    own = getattr(marigold, part)
    assert type(own).__module__.startswith("diffusers.")
    assert marigold(torch.rand(3, 32, 32), processing_resolution=32, seed=0).depth.std() > 0


def test_gradients_pass_with_and_without_checkpointing():
    own = for_inference(tiny_unet(), torch.randn(1, 2, TEXT_WIDTH)).requires_grad_(False)
    vae = for_inference(tiny_vae(), torch.zeros(1, 2, 4)).requires_grad_(False)
    found = []
    for checkpointing in (False, True):
        for network in (own, vae):
            switch = "enable" if checkpointing else "disable"
            getattr(network, f"{switch}_gradient_checkpointing")()
        x = torch.ones(1, 8, 9, 8).requires_grad_()
        vae.decode(own(x, torch.tensor(9)).sample).sample.square().mean().backward()
        found.append(x.grad)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("asked", "faster", "large", "expected"),
    [
        (None, True, True, torch.bfloat16),
        ("auto", True, True, torch.bfloat16),
        (None, False, True, torch.float32),
        (None, True, False, torch.float32),
        ("float32", True, True, torch.float32),
    ],
)
def test_the_cpu_takes_bfloat16_where_that_is_faster(
    folder, monkeypatch, asked, faster, large, expected
):
    monkeypatch.setattr(networks, "bfloat16_is_faster", lambda: faster)
    monkeypatch.setattr(networks, "LARGE", 1000 if large else 10**9)
    marigold = Marigold.from_pretrained(folder, dtype=asked, device="cpu")
    assert marigold.dtype == next(marigold.vae.parameters()).dtype == expected
    assert marigold.text_embedding.dtype == expected


def test_nano_is_the_same_on_every_chip(monkeypatch):
    monkeypatch.setattr(networks, "bfloat16_is_faster", lambda: True)
    assert Marigold.from_pretrained("nano", device="cpu").dtype == torch.float32


def test_bfloat16_changes_depth_by_less_than_the_documented_bound():
    """docs/performance.md: 0.5 % of the depth range on average, 2 % in 99 of 100 pixels."""
    example = Path(networks.__file__).parents[1] / "assets" / "example.jpg"
    exact, rounded = (
        Marigold.from_pretrained("nano", dtype=dtype, device="cpu")(example, seed=0).depth
        for dtype in ("float32", "bfloat16")
    )
    difference = np.abs(rounded - exact)
    assert 0 < difference.mean() < 0.005
    assert np.quantile(difference, 0.99) < 0.02


def test_a_number_of_heads_that_does_not_divide_is_not_known():
    assert unet.is_known({"attention_head_dim": 5, "block_out_channels": [320] * 4})
    assert not unet.is_known({"attention_head_dim": 7, "block_out_channels": [320] * 4})
