"""The paper's objective in numbers, against formulas written out here."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from finetune import learning_rate_factor, widen_conv_in
from objective import denoising_loss, multi_resolution_noise, sample_timesteps

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


def test_widened_conv_in_gives_on_two_copies_what_the_base_gives_on_one():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 16)
    with torch.no_grad():
        before = unet(latent, 500, text).sample
        after = widen_conv_in(unet)(torch.cat([latent, latent], 1), 500, text).sample
    assert unet.config.in_channels == 8
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


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
