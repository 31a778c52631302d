"""Published AbsRel and delta1 on the evaluation sets, for comparison with our own.

Source of every number: Martin Garcia et al., "Fine-Tuning Image-Conditional Diffusion Models is
Easier than You Think", WACV 2025 (arXiv 2409.11355v2), table 1, all by the evaluation scripts of
Marigold's authors. Its two rows of plain Marigold are table 1 of Ke et al., CVPR 2024 (arXiv
2312.02145); the AbsRel of E2E-FT are in the README of VisualComputingInstitute/diffusion-e2e-ft.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One row: AbsRel and delta1 as fractions, after a least-squares scale and shift in depth."""

    method: str
    abs_rel: float
    delta1: float


SETS = ("nyuv2", "kitti", "eth3d", "scannet", "diode")
# Per cent as printed, AbsRel and delta1 of each set. "Trailing" is that paper's "DDIM fix".
PRINTED = {
    "Marigold v1-0, 50 steps x 1 (paper)": (
        6.0, 95.9, 10.5, 90.4, 7.1, 95.1, 6.9, 94.5, 31.0, 77.2,
    ),
    "Marigold v1-0, 50 steps x 10 (paper)": (
        5.5, 96.4, 9.9, 91.6, 6.5, 96.0, 6.4, 95.1, 30.8, 77.3,
    ),
    "Marigold v1-0, 1 trailing step x 1 (E2E-FT paper)": (
        5.7, 96.2, 10.8, 89.6, 6.9, 95.5, 6.6, 95.2, 31.1, 76.8,
    ),
    "Marigold LCM, 1 step x 1 (E2E-FT paper)": (
        6.5, 95.4, 10.7, 89.9, 7.5, 94.5, 7.6, 93.8, 31.5, 76.3,
    ),
    "Marigold LCM, 4 steps x 5 (E2E-FT paper)": (
        6.2, 95.6, 9.9, 91.7, 6.9, 95.5, 7.0, 94.5, 30.9, 77.6,
    ),
    "Marigold + E2E-FT, 1 step x 1 (paper)": (
        5.2, 96.6, 9.6, 91.9, 6.2, 95.9, 5.8, 96.2, 30.2, 77.9,
    ),
    "Stable Diffusion + E2E-FT, 1 step x 1 (paper)": (
        5.4, 96.5, 9.6, 92.1, 6.4, 95.9, 5.8, 96.5, 30.3, 77.6,
    ),
}  # fmt: skip
PUBLISHED = {
    name: tuple(
        Published(method, round(row[2 * i] / 100, 4), round(row[2 * i + 1] / 100, 4))
        for method, row in PRINTED.items()
    )
    for i, name in enumerate(SETS)
}
