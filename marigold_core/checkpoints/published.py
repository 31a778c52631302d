"""The checkpoints that have names: bundled and published. Needs the standard library alone, so that
the interfaces of programs without torch can list them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A repository on the hub. licence: as published. size_bytes: a download in float32.

    target: what it estimates, as in `CheckpointInfo`.
    """

    repo_id: str
    licence: str
    size_bytes: int
    target: str = "depth"


BUNDLED: dict[str, Path] = {"nano": Path(__file__).parents[1] / "assets" / "nano"}
BUNDLED_LICENCE = "Apache-2.0"
PUBLISHED: dict[str, Published] = {
    "v1-1": Published("prs-eth/marigold-depth-v1-1", "OpenRAIL++-M", 5_200_000_000),
    "v1-0": Published("prs-eth/marigold-depth-v1-0", "Apache-2.0", 5_200_000_000),
    "lcm": Published("prs-eth/marigold-depth-lcm-v1-0", "Apache-2.0", 5_200_000_000),
    "e2e": Published("GonzaloMG/marigold-e2e-ft-depth", "Apache-2.0", 5_200_000_000),
    "normals-v1-1": Published(
        "prs-eth/marigold-normals-v1-1", "OpenRAIL++-M", 5_200_000_000, "normals"
    ),
    "normals-lcm": Published(
        "prs-eth/marigold-normals-lcm-v0-1", "Apache-2.0", 5_200_000_000, "normals"
    ),
    "normals-e2e": Published(
        "GonzaloMG/marigold-e2e-ft-normals", "Apache-2.0", 5_200_000_000, "normals"
    ),
    "iid-appearance": Published(
        "prs-eth/marigold-iid-appearance-v1-1", "OpenRAIL++-M", 5_200_000_000, "intrinsics"
    ),
    "iid-lighting": Published(
        "prs-eth/marigold-iid-lighting-v1-1", "OpenRAIL++-M", 5_200_000_000, "intrinsics"
    ),
}
# A VAE of 2.4 M parameters (https://github.com/madebyollin/taesd), for `vae=` and --tiny-vae.
TINY_VAE: dict[str, Published] = {"tiny": Published("madebyollin/taesd", "MIT", 10_000_000)}
