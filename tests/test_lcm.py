"""The LCM table against diffusers' scheduler, step by step."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import LCM
from diffusers import LCMScheduler
from diffusers.utils.torch_utils import randn_tensor

from marigold_core.diffusion import lcm_table
from marigold_core.errors import MarigoldError

SHAPE = (3, 4, 5, 6)


@pytest.mark.parametrize(("steps", "timesteps"), [(1, [999]), (4, [999, 759, 499, 259])])
def test_timesteps_of_the_published_checkpoint(steps, timesteps):
    assert lcm_table(LCM, steps).timesteps.tolist() == timesteps


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 50])
def test_a_run_with_drawn_ahead_noise_is_the_schedulers_run(steps, prediction_type):
    config = LCM | {"prediction_type": prediction_type}
    scheduler = LCMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    outputs = torch.randn(steps, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    for output, timestep in zip(outputs, scheduler.timesteps, strict=True):
        step = scheduler.step(output, timestep, expected, generator=generator)
        expected = step.prev_sample

    generator = torch.Generator().manual_seed(3)
    table = lcm_table(config, steps)
    noise = [randn_tensor(SHAPE, generator) for _ in range(steps - 1)] + [torch.zeros(SHAPE)]
    for i in range(steps):
        estimate = table.x0[i, 0] * x + table.x0[i, 1] * outputs[i]
        x = table.previous[i, 0] * x + table.previous[i, 1] * outputs[i] + table.noise[i] * noise[i]
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(estimate, step.denoised, rtol=1e-5, atol=1e-5)
    assert table.noise[-1] == 0


@pytest.mark.parametrize("steps", [0, 51])
def test_steps_beyond_the_distillation_are_refused(steps):
    with pytest.raises(MarigoldError, match="1 to 50"):
        lcm_table(LCM, steps)
