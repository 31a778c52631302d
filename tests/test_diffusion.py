"""The noise process against the paper's numbers and against diffusers' schedulers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.diffusion import NoiseSchedule, ddim_timesteps
from marigold_core.errors import MarigoldError

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


# The published figures were printed from float32 tables; ours are float64, hence 1e-6.
def test_alpha_bar_table_of_stable_diffusion():
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    expected = [0.67543209, 0.27766943, 0.05662345, 0.00466010]
    np.testing.assert_allclose(
        schedule.alphas_cumprod[[249, 499, 749, 999]], expected, rtol=0, atol=1e-6
    )
    assert schedule.final_alpha_cumprod == pytest.approx(0.99914998, abs=1e-7)


def test_alpha_bar_table_rescaled_to_zero_snr():
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | ZERO_SNR)
    expected = [0.65418887, 0.24235900, 0.03317145, 0.0]
    np.testing.assert_allclose(
        schedule.alphas_cumprod[[249, 499, 749, 999]], expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("trailing", 1, [999]),
        ("trailing", 2, [999, 499]),
        ("trailing", 4, [999, 749, 499, 249]),
        ("leading", 1, [1]),
        ("leading", 2, [501, 1]),
        ("leading", 4, [751, 501, 251, 1]),
    ],
)
def test_timesteps_of_the_paper_and_of_the_leading_bug(spacing, steps, expected):
    assert ddim_timesteps(steps, spacing).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 999), st.sampled_from(["trailing", "leading", "linspace"]))
def test_timesteps_are_those_of_diffusers(steps, spacing):
    scheduler = DDIMScheduler.from_config(STABLE_DIFFUSION | {"timestep_spacing": spacing})
    scheduler.set_timesteps(steps)
    assert ddim_timesteps(steps, spacing).tolist() == scheduler.timesteps.tolist()[:steps]


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 50])
@pytest.mark.parametrize(
    ("prediction_type", "rescale"),
    [("v_prediction", True), ("v_prediction", False), ("epsilon", False), ("sample", False)],
)
def test_ddim_steps_are_those_of_diffusers(prediction_type, rescale, steps, spacing):
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": rescale,
        "timestep_spacing": spacing,
    }
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    table = NoiseSchedule.from_config(config).ddim(steps, spacing)
    random = torch.Generator().manual_seed(steps)
    latent = torch.randn(1, 4, 5, 6, generator=random)
    for i, t in enumerate(scheduler.timesteps):
        output = torch.randn(1, 4, 5, 6, generator=random)
        reference = scheduler.step(output, t, latent)
        mine = table.previous[i, 0] * latent + table.previous[i, 1] * output
        x0 = table.x0[i, 0] * latent + table.x0[i, 1] * output
        # epsilon at t = 999 divides by sqrt(abar) = 0.068, so float32 differs by a little more.
        torch.testing.assert_close(x0, reference.pred_original_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine, reference.prev_sample, rtol=1e-4, atol=1e-4)
        latent = reference.prev_sample


def test_one_zero_snr_step_keeps_three_percent_of_the_noise():
    table = NoiseSchedule.from_config(STABLE_DIFFUSION | ZERO_SNR).ddim(1)
    assert table.x0.tolist() == [[0.0, -1.0]]
    np.testing.assert_allclose(table.previous, [[0.02915513, -0.99957490]], atol=1e-6)


def test_default_spacing_is_trailing_even_where_the_file_says_leading():
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | {"timestep_spacing": "leading"})
    assert schedule.ddim(1).timesteps.tolist() == [999]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["v_prediction", "sample"]), st.booleans())
def test_target_and_prediction_are_inverse(timestep, prediction_type, rescale):
    config = STABLE_DIFFUSION | {
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": rescale,
    }
    schedule = NoiseSchedule.from_config(config)
    random = torch.Generator().manual_seed(timestep)
    x0, noise = torch.randn(2, 2, 4, 3, 3, generator=random)
    t = torch.full((2,), timestep)
    noisy = schedule.add_noise(x0, noise, t)
    target = schedule.training_target(x0, noise, t)
    torch.testing.assert_close(schedule.predict_x0(target, noisy, t), x0, rtol=1e-4, atol=1e-4)


def test_noising_and_velocity_are_those_of_diffusers():
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | ZERO_SNR)
    scheduler = DDPMScheduler.from_config(STABLE_DIFFUSION | ZERO_SNR)
    x0, noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 250, 998, 999])
    torch.testing.assert_close(
        schedule.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), rtol=0, atol=2e-5
    )
    torch.testing.assert_close(
        schedule.training_target(x0, noise, t),
        scheduler.get_velocity(x0, noise, t),
        rtol=0,
        atol=2e-5,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "undefined"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"clip_sample": True}, "clip_sample"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule"),
        ({"timestep_spacing": "random"}, "timestep_spacing"),
        ({"beta_end": -1.0}, "beta_end is -1; it lies between 0 and 1"),
        ({"beta_start": float("nan")}, "beta_start is nan"),
        ({"num_train_timesteps": -5}, "num_train_timesteps is -5; use 1 to 100000"),
        ({"num_train_timesteps": 1e300}, "num_train_timesteps is 1e\\+300"),
    ],
)
def test_what_has_no_meaning_is_refused(change, words):
    with pytest.raises(MarigoldError, match=words):
        NoiseSchedule.from_config(STABLE_DIFFUSION | change)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_outside_the_schedule_are_refused(steps):
    with pytest.raises(MarigoldError, match="from 1 to 1000"):
        NoiseSchedule.from_config(STABLE_DIFFUSION).ddim(steps)
