"""From scene-linear light to a picture, as a camera makes it; numpy alone, for Blender too."""

from __future__ import annotations

import numpy as np

# What the logarithmic mean of a picture's luminance is exposed to, in linear light.
MIDDLE_GREY = 0.17


def develop(
    radiance: np.ndarray, stops: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Linear light (H, W, 3) -> sRGB uint8, metered as a camera does, then off by N(0, stops);
    also the stops above the meter. The white balance and the tone curve vary."""
    light = np.clip(np.nan_to_num(radiance), 0, 1e4)
    luminance = light @ np.array([0.2126, 0.7152, 0.0722])
    # Half of the meter is the log mean, half keeps the brighter parts from burning out.
    log_mean = np.exp(np.mean(np.log(luminance + 1e-4)))
    bright = np.quantile(luminance, 0.9) + 1e-4
    metered = np.sqrt(MIDDLE_GREY / log_mean * 0.7 / bright)
    offset = float(rng.normal(0, stops))
    light = light * metered * 2**offset * np.exp(rng.normal(0, 0.06, 3))
    if rng.random() < 0.5:  # a film's shoulder and toe: Narkowicz's fit of ACES
        x = light * 0.7
        light = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    light = np.clip(light, 0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8), offset
