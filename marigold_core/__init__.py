"""Depth, normals and intrinsic images from one picture with Marigold's diffusion checkpoints.

    from marigold_core import Marigold
    Marigold.from_pretrained("nano")("photo.jpg").save("depth.png")

Names load when they are first used: importing the package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints.inspection import CheckpointInfo, inspect_checkpoint
    from .checkpoints.loading import Checkpoint, load_checkpoint
    from .depth import DepthMap, colorize, normalize_depth, read_depth
    from .engine import Marigold
    from .ensemble.depth import ensemble_depth
    from .ensemble.intrinsics import ensemble_intrinsics
    from .ensemble.normals import ensemble_normals
    from .ensemble.sequence import align_sequence
    from .errors import Cancelled, CheckpointError, MarigoldError
    from .geometry.grid import depth_to_mesh
    from .geometry.mesh import Mesh, PointCloud
    from .geometry.points import depth_to_normals
    from .images import read_image
    from .intrinsics import IntrinsicImages
    from .metric.fit import MetricFit, fit_metric
    from .metric.hint_files import read_known_depths
    from .metric.hints import KnownDepths
    from .normals import NormalMap
    from .options import Options
    from .panorama import panorama_depth
    from .progress import Progress
    from .targets import merge_predictions

__version__ = "0.1.0"

_HOMES = {
    "Cancelled": "errors",
    "Checkpoint": "checkpoints.loading",
    "CheckpointError": "errors",
    "CheckpointInfo": "checkpoints.inspection",
    "DepthMap": "depth",
    "IntrinsicImages": "intrinsics",
    "KnownDepths": "metric.hints",
    "Marigold": "engine",
    "MarigoldError": "errors",
    "Mesh": "geometry.mesh",
    "MetricFit": "metric.fit",
    "NormalMap": "normals",
    "Options": "options",
    "PointCloud": "geometry.mesh",
    "Progress": "progress",
    "align_sequence": "ensemble.sequence",
    "colorize": "depth",
    "depth_to_mesh": "geometry.grid",
    "depth_to_normals": "geometry.points",
    "ensemble_depth": "ensemble.depth",
    "ensemble_intrinsics": "ensemble.intrinsics",
    "ensemble_normals": "ensemble.normals",
    "fit_metric": "metric.fit",
    "inspect_checkpoint": "checkpoints.inspection",
    "load_checkpoint": "checkpoints.loading",
    "merge_predictions": "targets",
    "normalize_depth": "depth",
    "panorama_depth": "panorama",
    "read_depth": "depth",
    "read_image": "images",
    "read_known_depths": "metric.hint_files",
}

__all__ = [
    "Cancelled",
    "Checkpoint",
    "CheckpointError",
    "CheckpointInfo",
    "DepthMap",
    "IntrinsicImages",
    "KnownDepths",
    "Marigold",
    "MarigoldError",
    "Mesh",
    "MetricFit",
    "NormalMap",
    "Options",
    "PointCloud",
    "Progress",
    "align_sequence",
    "colorize",
    "depth_to_mesh",
    "depth_to_normals",
    "ensemble_depth",
    "ensemble_intrinsics",
    "ensemble_normals",
    "fit_metric",
    "inspect_checkpoint",
    "load_checkpoint",
    "merge_predictions",
    "normalize_depth",
    "panorama_depth",
    "read_depth",
    "read_image",
    "read_known_depths",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
