"""Convolutions in fewer operations: the same results, and torch's own where they do not apply."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from checkpoint_builders import TEXT_WIDTH, for_inference, tiny_unet
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from marigold_core.checkpoints import convolution
from marigold_core.checkpoints.convolution import convolve

sides = st.integers(1, 23)


def made(batch: int, channels: int, out: int, height: int, width: int) -> tuple[Tensor, ...]:
    """x, weight, bias of which the results have a spread of about 1."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    shapes = (batch, channels, height, width), (out, channels, 3, 3), (out,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight * (9 * channels) ** -0.5, bias


@settings(deadline=None, max_examples=40)
@given(sides, sides, st.integers(1, 3), st.sampled_from([5, 64, 130]), st.booleans(), st.booleans())
@torch.no_grad()
def test_every_way_is_a_convolution(height, width, batch, out, has_bias, channels_last):
    x, weight, bias = made(batch, 7, out, height, width)
    if channels_last:
        x, weight = (one.to(memory_format=torch.channels_last) for one in (x, weight))
    given_bias = bias if has_bias else None
    exact = F.conv2d(x.double(), weight.double(), bias.double() if has_bias else None, padding=1)
    for way in (convolution._winograd, convolution._product):
        got = way(x, weight, given_bias)
        assert got.shape == exact.shape
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=5e-5)


@pytest.mark.parametrize("tiles", [1, 3, 1000])
@pytest.mark.parametrize("filter_bytes", [1, 2**23])
@torch.no_grad()
def test_how_the_work_is_divided_changes_nothing(tiles, filter_bytes, monkeypatch):
    monkeypatch.setattr(convolution, "TILES_AT_ONCE", tiles)
    monkeypatch.setattr(convolution, "FILTER_BYTES", filter_bytes)  # 64 filters at once
    x, weight, bias = made(3, 9, 150, 11, 10)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    got = convolution._winograd(x, weight, bias)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=5e-5)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="for x86")
def test_which_way_is_taken(monkeypatch):
    taken = []
    for name in ("_winograd", "_product"):
        way = getattr(convolution, name)
        monkeypatch.setattr(
            convolution, name, lambda *args, way=way, name=name: taken.append(name) or way(*args)
        )
    large, few, narrow = (
        made(1, 128, 128, 28, 28),
        made(1, 1280, 1280, 6, 8),
        made(1, 64, 64, 28, 28),
    )
    with torch.inference_mode():
        for arguments in (large, few, narrow):
            convolve(*arguments)
        convolve(*(one.bfloat16() for one in large))
    assert taken == ["_winograd", "_product"], "the rest is torch's"
    x, weight, bias = large
    convolve(x.requires_grad_(), weight, bias).sum().backward()
    assert len(taken) == 2 and x.grad is not None, "gradients are torch's"


@pytest.mark.parametrize("least", [1, 10**6], ids=["Winograd where it can be", "torch's alone"])
@torch.no_grad()
def test_many_weights_are_never_brought_into_another_order(least, monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", least)
    monkeypatch.setattr(convolution, "LEAST_PIXELS", 1)
    unet = for_inference(tiny_unet().eval(), torch.randn(1, 2, TEXT_WIDTH))
    layouts = []
    for name in ("conv2d", "conv_transpose2d"):
        run = getattr(F, name)

        def seen(x, weight, *args, run=run, **options):
            if weight.numel() > x.numel() and weight.shape[-1] > 1:
                layouts.append(x.is_contiguous() and weight.is_contiguous())
            return run(x, weight, *args, **options)

        monkeypatch.setattr(F, name, seen)
    unet(torch.randn(3, 8, 8, 8), torch.tensor(499))
    assert layouts and all(layouts)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="for x86")
@pytest.mark.parametrize("few", [range(0), range(10**6)])
@torch.no_grad()
def test_networks_that_use_it_compute_what_diffusers_does(few, monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_CHANNELS", 10**6 if few else 1)
    monkeypatch.setattr(convolution, "LEAST_PIXELS", 1)
    monkeypatch.setattr(convolution, "MANY_WEIGHTS", 1)
    monkeypatch.setattr(convolution, "FEW_PIXELS", few)
    torch.manual_seed(0)
    prompt = torch.randn(1, 2, 16)
    unet = UNet2DConditionModel(
        in_channels=8, block_out_channels=(16, 32, 32, 32), attention_head_dim=(2, 4, 4, 4),
        cross_attention_dim=16, norm_num_groups=8, use_linear_projection=True,
    ).eval()  # fmt: skip
    inputs = torch.randn(2, 8, 27, 13), torch.tensor(499)
    expected = unet(*inputs, encoder_hidden_states=prompt.expand(2, -1, -1)).sample
    got = for_inference(unet, prompt)(*inputs).sample
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-5)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4,
    ).eval()  # fmt: skip
    own, pixels = for_inference(vae, prompt), torch.randn(2, 3, 24, 36)
    latents = vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(own.encode(pixels).latents, latents, rtol=0, atol=5e-5)
    decoded = vae.decode(latents).sample
    torch.testing.assert_close(own.decode(latents).sample, decoded, rtol=0, atol=1e-4)
