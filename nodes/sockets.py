"""What runs along the wires that are this pack's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from comfy_api.latest import Types, io
from numpy.typing import NDArray
from torch import Tensor

from ..marigold_core import DepthMap, IntrinsicImages, NormalMap

Model = io.Custom("MARIGOLD_MODEL")
Predictions = io.Custom("MARIGOLD_PREDICTIONS")
Depth = io.Custom("MARIGOLD_DEPTH")
NormalPredictions = io.Custom("MARIGOLD_NORMAL_PREDICTIONS")
Normals = io.Custom("MARIGOLD_NORMALS")
Intrinsics = io.Custom("MARIGOLD_INTRINSICS")
Known = io.Custom("MARIGOLD_KNOWN_DEPTHS")
# What ComfyUI's own geometry nodes exchange: a dictionary with depth, image, mask, intrinsics.
Geometry = io.Custom("DA3_GEOMETRY")
# Newer versions have these types; to older ones, which have no nodes for them, they are new.
File3D = getattr(io, "File3DAny", None) or io.Custom("FILE_3D")
PointFile = getattr(io, "File3DPLY", None) or io.Custom("FILE_3D_PLY")

CATEGORY = "image/geometry estimation"


@dataclass(frozen=True)
class PicturePredictions:
    """The ensemble of one picture, raw, as `Marigold.predict` returns it: members float32, depth
    (N, h, w) in [0, 1] or normals (N, 3, h, w), on the CPU, never clamped or quantised.

    size: the picture's (H, W). mask: bool (H, W), True = use. The invariances are of depth; see
    `DepthMap`."""

    members: Tensor
    size: tuple[int, int]
    mask: NDArray[np.bool_] | None
    scale_invariant: bool
    shift_invariant: bool


PredictionBatch = Sequence[PicturePredictions]
DepthBatch = Sequence[DepthMap]
NormalsBatch = Sequence[NormalMap]
IntrinsicsBatch = Sequence[IntrinsicImages]


def file_3d(path: Path) -> Any:
    """A written file as ComfyUI's 3D nodes take it; None where the running version has none."""
    known = getattr(Types, "File3D", None)
    return None if known is None else known(str(path))


def schema(**arguments: Any) -> io.Schema:
    """`io.Schema` without the arguments that the running ComfyUI does not know yet: an unknown one
    would lose the whole pack."""
    known = io.Schema.__dataclass_fields__
    return io.Schema(**{name: value for name, value in arguments.items() if name in known})
