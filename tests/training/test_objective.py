"""The objectives in numbers, against formulas written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from base_model import plain_weights, scheduler_config, widen_conv_in
from checkpoint_builders import DDIM, tiny_unet
from data.latents import depth_target, has_range, latent_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from objective import (
    denoising_loss,
    end_to_end_loss,
    fit_scale_and_shift,
    learning_rate_factor,
    multi_resolution_noise,
    sample_timesteps,
)
from torch.utils._python_dispatch import TorchDispatchMode

from marigold_core.diffusion import NoiseSchedule

ZERO_SNR = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "rescale_betas_zero_snr": True,
}


def neighbour_correlation(noise: torch.Tensor) -> float:
    return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())


@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_noise_has_unit_variance_at_every_timestep(timestep):
    t = torch.full((8,), timestep)
    noise = multi_resolution_noise(
        (8, 4, 60, 80), t, generator=torch.Generator().manual_seed(timestep)
    )
    assert float(noise.std()) == pytest.approx(1, abs=1e-5)


def test_noise_is_white_at_the_start_and_smooth_at_the_end():
    at = {
        t: neighbour_correlation(
            multi_resolution_noise(
                (16, 4, 60, 80), torch.full((16,), t), generator=torch.Generator().manual_seed(1)
            )
        )
        for t in (0, 500, 999)
    }
    assert abs(at[0]) < 0.01
    assert at[0] < at[500] < at[999]
    assert at[999] > 0.3


def test_annealing_is_per_sample():
    t = torch.tensor([0] * 8 + [999] * 8)
    noise = multi_resolution_noise((16, 4, 60, 80), t, generator=torch.Generator().manual_seed(2))
    assert abs(neighbour_correlation(noise[:8])) < 0.01 < neighbour_correlation(noise[8:])


def test_without_annealing_noise_is_smooth_at_every_timestep_and_without_strength_at_none():
    def correlation(t: int, **how: float) -> float:
        generator = torch.Generator().manual_seed(3)
        times = torch.full((16,), t)
        return neighbour_correlation(
            multi_resolution_noise((16, 4, 60, 80), times, generator=generator, **how)
        )

    assert correlation(0, annealed=False) == pytest.approx(correlation(999, annealed=False))
    assert correlation(0, annealed=False) > 0.3
    assert abs(correlation(999, strength=0.0)) < 0.01


def test_the_first_levels_follow_the_authors_code():
    """Level sizes shrink cumulatively, by r^i with r in [2, 4): here drawn beside it."""
    generator, beside = (torch.Generator().manual_seed(4) for _ in range(2))
    t = torch.tensor([800, 100])
    noise = multi_resolution_noise((2, 4, 60, 80), t, strength=0.9, generator=generator)
    expected = torch.randn(2, 4, 60, 80, generator=beside)
    h, w = 60, 80
    strength = 0.9 * t / 1000
    for i in range(10):
        r = torch.rand(1, generator=beside).item() * 2 + 2
        h, w = max(1, int(h / r**i)), max(1, int(w / r**i))
        up = torch.nn.Upsample(size=(60, 80), mode="bilinear")
        field = up(torch.randn(2, 4, h, w, generator=beside))
        expected += field * strength[:, None, None, None] ** i
        if h == 1 or w == 1:
            break
    torch.testing.assert_close(noise, expected / expected.std(), rtol=0, atol=1e-6)


def test_terminal_share_moves_samples_to_the_last_timestep():
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    random = torch.Generator().manual_seed(0)
    uniform = sample_timesteps(20000, schedule, 0.0, random)
    assert float(uniform.double().mean()) == pytest.approx(499.5, abs=8)
    assert (uniform.min(), uniform.max()) == (0, 999)
    third = sample_timesteps(20000, schedule, 1 / 3, random)
    assert float((third == 999).double().mean()) == pytest.approx(1 / 3, abs=0.012)


def test_learning_rate_factors_of_the_released_recipe():
    factor = [learning_rate_factor(n, 100, 25000) for n in (0, 99, 100, 25000, 30000)]
    assert factor == pytest.approx([0, 0.99, 1, 0.01, 0.01])
    halfway = learning_rate_factor(12550, 100, 25000)
    assert halfway == pytest.approx(math.sqrt(0.01))


@pytest.mark.parametrize(
    ("zero_snr", "abar"),
    [
        (False, [0.67543209, 0.27766943, 0.05662345, 0.00466010]),
        (True, [0.65418887, 0.24235900, 0.03317145, 0.0]),
    ],
)
def test_alpha_bar_of_the_schedule_that_is_trained_on(zero_snr, abar):
    base = DDIM | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False}
    config = scheduler_config(base, "v_prediction", zero_snr)
    schedule = NoiseSchedule.from_config(config)
    assert schedule.alphas_cumprod[[249, 499, 749, 999]].tolist() == pytest.approx(abar, abs=1e-6)
    assert schedule.final_alpha_cumprod == pytest.approx(0.99914998)
    assert config["timestep_spacing"] == "trailing"


def test_widened_conv_in_gives_on_two_copies_what_the_base_gives_on_one():
    torch.manual_seed(0)
    unet = tiny_unet(in_channels=4).eval()
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 32)
    with torch.no_grad():
        before = unet(latent, 500, text).sample
        bias = unet.conv_in.bias.clone()
        after = widen_conv_in(unet)(torch.cat([latent, latent], 1), 500, text).sample
    assert unet.config.in_channels == 8
    assert torch.equal(unet.conv_in.bias, bias)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.floats(0, 0.1), st.integers(0, 2**32 - 1))
def test_latent_mask_is_the_eroded_mask(rows, columns, holes, seed):
    valid = np.random.default_rng(seed).random((1, 8 * rows, 8 * columns)) >= holes
    cells = latent_mask(torch.from_numpy(valid))[0, 0].numpy()
    expected = [
        [valid[0, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].all() for j in range(columns)]
        for i in range(rows)
    ]
    assert (cells == np.array(expected)).all()


def test_depth_is_normalised_at_two_and_ninety_eight_percent():
    depth = torch.linspace(1, 101, 101).reshape(1, 1, 101)  # 2 % is 3 m, 98 % is 99 m
    target = depth_target(depth, torch.ones_like(depth, dtype=torch.bool))
    assert target.shape == (1, 3, 1, 101)
    assert target[0, 0, 0, [0, 2, 50, 98, 100]].tolist() == pytest.approx(
        [-1, -1, 0, 1, 1], abs=1e-5
    )


@pytest.mark.slow
def test_pictures_of_any_size_have_a_range():
    depth = torch.linspace(1, 9, 4100 * 4100).reshape(1, 4100, 4100)  # 16.8 megapixels
    valid = torch.ones_like(depth, dtype=torch.bool)
    assert has_range(depth, valid).tolist() == [True]
    assert depth_target(depth, valid).shape == (1, 3, 4100, 4100)
    assert has_range(torch.ones_like(depth), valid).tolist() == [False]
    assert has_range(depth, ~valid).tolist() == [False]


class OtherDevice:
    """A generator of a device that has no values to read: whoever waits for one fails."""

    device = torch.device("meta")

    def initial_seed(self) -> int:
        return 6


def test_a_step_never_waits_for_the_device(monkeypatch):
    """torch refuses to read a value of the meta device, as a GPU makes the host wait for one."""
    for name in ("rand", "randn", "randint"):
        real = getattr(torch, name)

        def drawn(*arguments, real=real, generator=None, **more):
            if isinstance(generator, torch.Generator):
                more["generator"] = generator
            return real(*arguments, **more)

        monkeypatch.setattr(torch, name, drawn)
    copies = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), more=None):
            more = more or {}
            if "_to_copy" in str(function) and arguments[0].device.type == "cpu":
                copies.append(more.get("device"))
            return function(*arguments, **more)

    class Network:
        def __call__(self, latents, timesteps, text):
            self.sample = latents[:, 4:] * 2
            return self

    latent = torch.empty(2, 4, 60, 80, device="meta")
    schedule = NoiseSchedule.from_config(ZERO_SNR).to("meta")
    with Copies():
        loss = denoising_loss(
            Network(), latent, latent, torch.empty(1, 2, 8, device="meta"), schedule,
            mask=latent[:, :1] > 0, generator=OtherDevice(),
        )  # fmt: skip
    assert loss.device.type == "meta"
    assert torch.device("meta") not in copies


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_objective_is_its_formula(kind):
    """Against the paper's equations and the authors' masked mean, with the same random numbers."""
    config = ZERO_SNR | {"prediction_type": kind, "rescale_betas_zero_snr": kind == "v_prediction"}
    schedule = NoiseSchedule.from_config(config)
    random = torch.Generator().manual_seed(5)
    image, depth = torch.randn(2, 3, 4, 8, 10, generator=random)
    valid = torch.rand(3, 64, 80, generator=random) > 0.003
    torch.manual_seed(5)
    unet = tiny_unet().eval()
    text = torch.randn(1, 2, 32, generator=random)
    mask = latent_mask(valid)
    assert 0.3 < mask.float().mean() < 0.98
    loss = denoising_loss(
        unet, image, depth, text, schedule, mask=mask, generator=torch.Generator().manual_seed(6)
    )

    beside = torch.Generator().manual_seed(6)
    t = torch.randint(0, 1000, (3,), generator=beside)
    torch.rand(3, generator=beside)
    noise = multi_resolution_noise((3, 4, 8, 10), t, generator=beside)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    if kind == "v_prediction":
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    a = torch.from_numpy(root[t.numpy()]).float().reshape(3, 1, 1, 1)
    s = torch.from_numpy(np.sqrt(1 - root[t.numpy()] ** 2)).float().reshape(3, 1, 1, 1)
    output = unet(torch.cat([image, a * depth + s * noise], 1), t, text.expand(3, 2, 32)).sample
    target = a * noise - s * depth if kind == "v_prediction" else noise
    everywhere = mask.expand(3, 4, 8, 10)
    expected = (output - target)[everywhere].square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_loss_is_zero_for_a_network_that_knows_the_answer():
    """v is a function of the noisy latent and the clean one, so an oracle scores zero."""
    schedule = NoiseSchedule.from_config(ZERO_SNR)
    clean = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    class Oracle(torch.nn.Module):
        def forward(self, latents, timesteps, text):
            noisy = latents[:, 4:]
            abar = schedule.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
            noise = (noisy - abar.sqrt() * clean) / (1 - abar).sqrt()
            self.sample = abar.sqrt() * noise - (1 - abar).sqrt() * clean
            return self

    loss = denoising_loss(
        Oracle(),
        torch.zeros(4, 4, 8, 8),
        clean,
        torch.zeros(1, 2, 16),
        schedule,
        generator=torch.Generator().manual_seed(4),
    )
    assert float(loss) < 1e-8


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 50), st.floats(-20, 20), st.integers(0, 2**32 - 1))
def test_the_fit_of_the_end_to_end_loss_is_least_squares(scale, shift, seed):
    random = np.random.default_rng(seed)
    prediction = random.uniform(-1, 1, (2, 6, 7)).astype(np.float32)
    truth = (prediction * scale + shift + random.normal(0, 0.1, (2, 6, 7))).astype(np.float32)
    valid = random.random((2, 6, 7)) > 0.3
    fitted = fit_scale_and_shift(*map(torch.from_numpy, (prediction, truth, valid))).numpy()
    for p, g, m, f in zip(prediction, truth, valid, fitted, strict=True):
        design = np.stack([p[m], np.ones(m.sum())], 1).astype(np.float64)
        expected = design @ np.linalg.lstsq(design, g[m].astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(f[m], expected, rtol=0, atol=1e-4 * max(scale, abs(shift)))


def test_the_end_to_end_loss_is_one_step_from_zeros_decoded_and_fitted():
    schedule = NoiseSchedule.from_config(ZERO_SNR | {"rescale_betas_zero_snr": False})
    random = torch.Generator().manual_seed(7)
    image = torch.randn(2, 4, 3, 3, generator=random)
    depth = torch.rand(2, 20, 24, generator=random) * 5 + 1
    valid = torch.rand(2, 20, 24, generator=random) > 0.2
    torch.manual_seed(7)
    unet, text = tiny_unet(), torch.randn(1, 2, 32, generator=random)

    def decode(latent):  # 8x larger, three channels
        return torch.nn.functional.interpolate(latent[:, :3], scale_factor=8) * 0.3

    depth[~valid] = torch.nan  # holes must have no say, whatever stands in them
    loss = end_to_end_loss(unet, decode, image, depth, valid, text, schedule)
    v = unet(torch.cat([image, torch.zeros_like(image)], 1), 999, text.expand(2, 2, 32)).sample
    x0 = -math.sqrt(1 - 0.00466010) * v
    seen = decode(x0).mean(1).clamp(-1, 1)[:, :20, :24].detach().double().numpy()
    errors = []
    for p, g, m in zip(seen, depth.double().numpy(), valid.numpy(), strict=True):
        design = np.stack([p[m], np.ones(m.sum())], 1)
        errors.append(np.abs(design @ np.linalg.lstsq(design, g[m], rcond=None)[0] - g[m]))
    assert loss.item() == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)
    loss.backward()
    assert float(unet.conv_in.weight.grad.abs().sum()) > 0
    assert all(torch.isfinite(p.grad).all() for p in unet.parameters() if p.grad is not None)


def test_low_rank_weights_merge_into_a_plain_network():
    peft = pytest.importorskip("peft")
    from base_model import add_lora

    assert peft
    torch.manual_seed(8)
    unet = tiny_unet().eval()
    add_lora(unet, 4, seed=0)
    trained = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert any("lora_A" in name for name in trained)
    assert all("lora_" in name or name.startswith("conv_in") for name in trained)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:  # zero at the start: nothing would change
            torch.nn.init.normal_(parameter, std=0.1)
    latent, text = torch.randn(2, 8, 8, 8), torch.randn(2, 2, 32)
    plain = tiny_unet().eval()
    plain.load_state_dict(plain_weights(unet.state_dict()), strict=True)
    with torch.no_grad():
        with_pairs = unet(latent, 500, text).sample
        torch.testing.assert_close(plain(latent, 500, text).sample, with_pairs, atol=1e-4, rtol=0)
