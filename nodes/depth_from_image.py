"""Depth from Image."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..marigold_core import normalize_depth
from .ensemble import merge
from .sockets import CATEGORY, Depth, PicturePredictions, Predictions, schema
from .tensors import masks, pictures


class DepthFromImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_DepthFromImage",
            display_name="Depth from Image (Marigold)",
            category=CATEGORY,
            description="Takes a depth picture from any other node or file, for the nodes that "
            "merge, normalise, colour, save and mesh depth.",
            search_aliases=["marigold", "import depth", "image to depth"],
            inputs=[
                io.Image.Input("image", tooltip="Grey depth; of colours, the mean is taken."),
                io.Boolean.Input(
                    "near_is_white", default=True, tooltip="Which way the picture counts."
                ),
                io.Combo.Input(
                    "kind",
                    options=["depth", "disparity"],
                    default="depth",
                    tooltip="disparity (inverse depth) is what MiDaS and Depth Anything give.",
                ),
                io.Combo.Input(
                    "batch",
                    options=["pictures", "predictions of one picture"],
                    default="pictures",
                    tooltip="Whether the batch is several pictures, or several estimates of one, "
                    "which are then aligned and merged.",
                ),
                io.Float.Input(
                    "near_distance",
                    default=1.0,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="For disparity: the distance of the nearest value, in any unit.",
                ),
                io.Float.Input(
                    "far_distance",
                    default=5.0,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="For disparity: the distance of the farthest value, in the same unit.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="White = use this pixel."),
            ],
            outputs=[
                Depth.Output("depth", display_name="depth", tooltip="One map a picture."),
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
        kind: str,
        batch: str,
        near_distance: float,
        far_distance: float,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        images = pictures(image)
        maps = [picture.mean(2) for picture in images]
        if kind == "disparity":
            # 1/z mapped to [0, 1] and depth mapped to [0, 1] go into each other by one formula.
            maps = [one if near_is_white else 1 - one for one in maps]
            maps = [
                normalize_depth(one, mode="inverse", near=near_distance, far=far_distance)
                for one in maps
            ]
        elif near_is_white:
            maps = [1 - one for one in maps]
        used = masks(mask, images)
        members = torch.stack([torch.from_numpy(one) for one in maps])
        size = maps[0].shape
        groups = [members] if batch != "pictures" else list(members.split(1))
        predictions = [
            PicturePredictions(group, size, used[number] if used else None, True, True)
            for number, group in enumerate(groups)
        ]
        return io.NodeOutput(merge(predictions, "closed form", "median"), predictions)
