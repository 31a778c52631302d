"""How close intrinsic images are to the truth: PSNR, SSIM, LPIPS, as the authors measure them.

Ke et al. 2025 (arXiv 2505.09358) and the authors' released script/iid/eval.py.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from marigold_core.errors import MarigoldError
from marigold_core.intrinsics import IntrinsicImages

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
# What the authors compare colours at; see `comparable`.
GAMMA = 2.2
# The 90th percentile of the truth's brightness is brought to this before light is compared.
BRIGHT = 0.8
# torchmetrics' defaults, which the authors use: a Gaussian window, and the constants of the paper.
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
ALEXNET = "alexnet-owt-7be5be79.pth"
WEIGHTS_URL = "https://download.pytorch.org/models/"  # torchvision's


class MapScore(NamedTuple):
    """Of one map of one picture, or a mean. psnr: dB, of values in [0, 1], infinite for a perfect
    map. ssim: in [-1, 1]. lpips: 0 is alike; NaN where its weights are not here."""

    psnr: float
    ssim: float
    lpips: float


def map_score(prediction: Floats, truth: Floats, valid: Mask) -> MapScore:
    """Of values (H, W) or (H, W, 3) in [0, 1] against the truth's where valid (H, W).

    PSNR is of the valid pixels; SSIM and LPIPS are of the whole picture, the others set to 0 in
    both. Raises MarigoldError where no pixel is valid or the prediction is not finite there.
    """
    if not valid.any():
        raise MarigoldError("No pixel of the true maps is valid.")
    if not np.isfinite(prediction[valid]).all():
        raise MarigoldError("The prediction holds NaN or infinity.")
    p, g = (channels(np.where(channels(valid), channels(v), 0)) for v in (prediction, truth))
    return MapScore(psnr(p[valid], g[valid]), ssim(p, g), lpips(p, g))


def channels(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.ndim == 3 else values[..., None]


def psnr(prediction: Floats, truth: Floats) -> float:
    error = np.mean((prediction.astype(np.float64) - truth) ** 2)
    return float(-10 * np.log10(error)) if error > 0 else float("inf")


def ssim(prediction: Floats, truth: Floats) -> float:
    """Structural similarity of (H, W, C) in [0, 1] (Wang et al. 2004), over whole windows."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    line = line / line.sum()

    def blurred(values: torch.Tensor) -> torch.Tensor:
        rows = F.conv2d(values, line.reshape(1, 1, -1, 1))
        return F.conv2d(rows, line.reshape(1, 1, 1, -1))

    if min(truth.shape[:2]) < WINDOW:
        return float("nan")
    x, y = (torch.from_numpy(v.astype(np.float64)).permute(2, 0, 1)[:, None] for v in
            (prediction, truth))  # fmt: skip
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    both = blurred(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    likeness = likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(likeness.mean())


def lpips(prediction: Floats, truth: Floats) -> float:
    """Perceptual distance (Zhang et al. 2018, AlexNet) of (H, W, C); NaN without its weights."""
    network = lpips_network()
    if network is None:
        return float("nan")
    pictures = (torch.from_numpy(np.broadcast_to(v, (*v.shape[:2], 3)).astype(np.float32).copy())
                for v in (prediction, truth))  # fmt: skip
    with torch.inference_mode():
        x, y = (p.permute(2, 0, 1)[None] * 2 - 1 for p in pictures)
        return float(network(x, y))


@cache
def lpips_network() -> Any:
    """The `lpips` package's network, or None where `why_no_lpips` says why."""
    if why_no_lpips():
        return None
    import lpips as package  # type: ignore[import-not-found]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return package.LPIPS(net="alex", verbose=False).eval()


def why_no_lpips() -> str | None:
    """What is missing on this machine for LPIPS, as one message; None where nothing is.

    Nothing is downloaded: the package would fetch AlexNet's weights by itself.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if find_spec("lpips") is None:
        return "LPIPS is not measured: the package is missing, `pip install lpips`."
    if not weights.is_file():
        return f"LPIPS is not measured: put {WEIGHTS_URL}{ALEXNET} into {weights.parent}."
    return None


def comparable(
    name: str, prediction: IntrinsicImages, truth: IntrinsicImages, valid: Mask
) -> tuple[Floats, Floats]:
    """A map of both as the authors compare them, in [0, 1].

    Colours at the power 1 / 2.2 of linear light, or as they are where the checkpoint has them
    display-encoded; maps known up to a scale after the scale of least squares, exposed by the
    truth; grey maps as they are.
    """
    p, g = prediction.maps[name], truth.maps[name]
    if name in truth.up_to_scale:
        scale = least_squares_scale(p[valid], g[valid])
        exposure = exposure_of(g[valid])
        return (p * scale * exposure).clip(0, 1), (g * exposure).clip(0, 1)
    if p.ndim == 3:
        power = {"srgb": 1.0, "linear": 1 / GAMMA}
        return (
            p.clip(0, 1) ** power[prediction.spaces[name]],
            g.clip(0, 1) ** power[truth.spaces[name]],
        )
    return p.clip(0, 1), g.clip(0, 1)


def least_squares_scale(prediction: Floats, truth: Floats) -> float:
    """s of the least squared error of s * prediction - truth; 0 for a black prediction."""
    p, g = prediction.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    energy = p @ p
    return float(p @ g / energy) if energy > 0 else 0.0


def exposure_of(truth: Floats) -> float:
    """What brings the 90th percentile of the brightness of colours (N, 3) to 0.8; 0 for black."""
    brightness = float(np.percentile(truth @ np.array([0.3, 0.59, 0.11]), 90))
    return BRIGHT / brightness if brightness >= 1e-4 else 0.0
