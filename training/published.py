"""Published AbsRel and delta1 on the evaluation sets, to stand beside our own."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One row: AbsRel and delta1 as fractions; None where the source does not give it."""

    method: str
    abs_rel: float
    delta1: float | None


# All after a least-squares scale and shift in depth. Marigold: Ke et al., CVPR 2024, table 1 (50
# steps). E2E-FT: Martin Garcia et al., WACV 2025 (one step, no ensemble).
PAPER = "Marigold v1-0, 50 steps x 1 (paper)"
PAPER_10 = "Marigold v1-0, 50 steps x 10 (paper)"
SD_E2E = "Stable Diffusion + E2E-FT (paper)"
MARIGOLD_E2E = "Marigold + E2E-FT (paper)"
PUBLISHED = {
    "nyuv2": (
        Published(PAPER, 0.060, 0.959),
        Published(PAPER_10, 0.055, 0.964),
        Published(SD_E2E, 0.054, None),
        Published(MARIGOLD_E2E, 0.052, None),
    ),
    "kitti": (
        Published(PAPER, 0.105, 0.904),
        Published(PAPER_10, 0.099, 0.916),
        Published(SD_E2E, 0.096, None),
        Published(MARIGOLD_E2E, 0.096, None),
    ),
    "eth3d": (
        Published(PAPER, 0.071, 0.951),
        Published(PAPER_10, 0.065, 0.960),
        Published(SD_E2E, 0.064, None),
        Published(MARIGOLD_E2E, 0.062, None),
    ),
    "scannet": (
        Published(PAPER, 0.069, 0.945),
        Published(PAPER_10, 0.064, 0.951),
        Published(SD_E2E, 0.058, None),
        Published(MARIGOLD_E2E, 0.058, None),
    ),
    "diode": (
        Published(PAPER, 0.310, 0.772),
        Published(PAPER_10, 0.308, 0.773),
        Published(SD_E2E, 0.303, None),
        Published(MARIGOLD_E2E, 0.302, None),
    ),
}
