"""Import Depth Image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from numpy.typing import NDArray
from torch import Tensor

from ..marigold_core import MarigoldError, normalize_depth
from .ensemble import merge
from .sockets import CATEGORY, Depth, PicturePredictions, Predictions, schema
from .tensors import masks, pictures

Maps = Sequence[NDArray[np.float32]]
MASK = io.Mask.Input(
    "mask", optional=True, tooltip="White pixels are used, black ones are ignored."
)
INVERT_MASK = io.Boolean.Input(
    "invert_mask",
    default=False,
    tooltip="On: black pixels of the mask are used. Load Image's mask needs it: it is white where "
    "the file is transparent.",
)
DISTANCES = [
    io.Float.Input(
        "near_distance",
        default=1.0,
        min=0.001,
        max=100000.0,
        step=0.1,
        tooltip="The distance of the nearest value, in any unit.",
    ),
    io.Float.Input(
        "far_distance",
        default=5.0,
        min=0.001,
        max=100000.0,
        step=0.1,
        tooltip="The distance of the farthest value, in the same unit.",
    ),
]


class DepthFromImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_DepthFromImage",
            display_name="Import Depth Image (Marigold)",
            category=CATEGORY,
            description="Takes a depth picture of any other node or model, so that this pack can "
            "merge, normalize, color, save and mesh it.",
            search_aliases=["marigold", "depth from image", "image to depth", "depth anything"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="A gray depth picture; of colors, the mean is taken."
                ),
                io.Boolean.Input(
                    "near_is_white",
                    default=True,
                    tooltip="On if near is white in the picture. Ignored for distance.",
                ),
                io.DynamicCombo.Input(
                    "kind",
                    options=[
                        io.DynamicCombo.Option("depth", []),
                        io.DynamicCombo.Option("disparity", DISTANCES),
                        io.DynamicCombo.Option("distance", []),
                    ],
                    tooltip="depth: relative depth. disparity: inverse depth, as from MiDaS and "
                    "Depth Anything V2. distance: metres or another unit; the values are kept. "
                    "Relative values outside [0, 1] are scaled to it, with one scale for the "
                    "whole batch.",
                ),
                io.Combo.Input(
                    "batch",
                    options=["pictures", "predictions of one picture"],
                    default="pictures",
                    tooltip="Whether the batch holds different pictures, or several estimates of "
                    "one picture, which are then aligned and merged.",
                ),
                INVERT_MASK,
                MASK,
            ],
            outputs=[
                Depth.Output("depth", display_name="depth", tooltip="One depth map per picture."),
                Predictions.Output(
                    "predictions",
                    display_name="predictions",
                    tooltip="For Ensemble Depth, to choose how they are merged.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        near_is_white: bool,
        kind: dict[str, Any],
        batch: str,
        invert_mask: bool,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        images = pictures(image)
        used = masks(mask, images, invert_mask)
        maps = [gray(picture) for picture in images]
        is_metric = kind["kind"] == "distance"
        if not is_metric:
            maps = [one if near_is_white else 1 - one for one in unit_range(maps, used)]
            if kind["kind"] == "disparity":
                maps = depth_of_disparity(maps, kind["near_distance"], kind["far_distance"])
            else:
                maps = [1 - one for one in maps]
        members = torch.stack([torch.from_numpy(one) for one in maps])
        size = maps[0].shape
        groups = [members] if batch != "pictures" else list(members.split(1))
        predictions = [
            PicturePredictions(
                group, size, used[number] if used else None, not is_metric, not is_metric
            )
            for number, group in enumerate(groups)
        ]
        return io.NodeOutput(merge(predictions, "closed form", "median"), predictions)


def gray(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) -> (H, W); the values of a gray picture, bit by bit, and the mean of colors."""
    first = picture[..., 0]
    return first if (picture == first[..., None]).all() else picture.mean(2)


def unit_range(maps: Maps, used: Sequence[NDArray[np.bool_]]) -> Maps:
    """Maps of any range in [0, 1]: as they are, or, where they leave it, scaled all alike."""
    inside = [one[mask] for one, mask in zip(maps, used, strict=True)] if used else maps
    low = min(float(one.min()) for one in inside)
    high = max(float(one.max()) for one in inside)
    if low < 0 or high > 1:
        if not high > low:
            raise MarigoldError(
                f"The depth picture is constant ({low:g}) and outside [0, 1], so it cannot be "
                "scaled to it; set kind to distance if these are distances."
            )
        maps = [(one - low) / (high - low) for one in maps]
    return [one.clip(0, 1) for one in maps]


def depth_of_disparity(maps: Maps, near: float, far: float) -> Maps:
    """Disparity in [0, 1], 1 = near, as depth in [0, 1], 0 = near."""
    if not near < far:
        raise MarigoldError(
            f"near_distance is {near:g} and far_distance is {far:g}; the far distance must be the "
            "greater one."
        )
    # 1/z mapped to [0, 1] and z mapped to [0, 1] go into each other by one formula.
    return [normalize_depth(one, mode="inverse", near=near, far=far) for one in maps]
