"""Depth metrics of the affine-invariant protocol (paper, section 4.1), on numpy arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Score(NamedTuple):
    """abs_rel: mean |p - g| / g. delta1: share of pixels with max(p / g, g / p) < 1.25."""

    abs_rel: float
    delta1: float


def align_least_squares(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The prediction after the scale and shift that fit it best to the truth's valid pixels."""
    x = prediction[valid].astype(np.float64)
    design = np.stack([x, np.ones_like(x)], 1)
    scale, shift = np.linalg.lstsq(design, truth[valid].astype(np.float64), rcond=None)[0]
    return prediction * scale + shift


def score(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> Score:
    """Metrics of a prediction (H, W) that is affine-invariant against metric truth (H, W) > 0.

    After the fit the prediction is clipped to the truth's valid range, as the published protocol
    clips to the range of the data set.
    """
    g = truth[valid].astype(np.float64)
    p = align_least_squares(prediction, truth, valid)[valid].clip(g.min(), g.max())
    return Score(float(np.mean(np.abs(p - g) / g)), float(np.mean(np.maximum(p / g, g / p) < 1.25)))


def vertical_ramp(height: int, width: int) -> np.ndarray:
    """The trivial guess that depth grows towards the top of the picture, (H, W) in [0, 1]."""
    return np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], width, axis=1)
