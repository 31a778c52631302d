"""Combine Depth Maps."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..marigold_core import DepthMap, MarigoldError
from .sockets import CATEGORY, Depth, DepthBatch, PicturePredictions, Predictions, schema
from .tensors import full


class CombineDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_CombineDepth",
            display_name="Combine Depth Maps (Marigold)",
            category=CATEGORY,
            description="Takes depth maps of the same images from different models or settings, so "
            "that Ensemble Depth can align and merge them.",
            search_aliases=["marigold", "merge depth", "ensemble models", "blend depth"],
            inputs=[
                Depth.Input("depth_1", tooltip="From any node that gives depth."),
                Depth.Input("depth_2", tooltip="The same images, from another model or setting."),
                Depth.Input("depth_3", optional=True, tooltip="As depth_2."),
                Depth.Input("depth_4", optional=True, tooltip="As depth_2."),
            ],
            outputs=[
                Predictions.Output(
                    "predictions",
                    display_name="predictions",
                    tooltip="For Ensemble Depth; metric only if all of the depth maps are.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        depth_1: DepthBatch,
        depth_2: DepthBatch,
        depth_3: DepthBatch | None = None,
        depth_4: DepthBatch | None = None,
    ) -> io.NodeOutput:
        batches = [one for one in (depth_1, depth_2, depth_3, depth_4) if one is not None]
        counts = [len(one) for one in batches]
        if len(set(counts)) > 1:
            raise MarigoldError(
                f"The inputs have {', '.join(map(str, counts))} depth maps; connect batches of the "
                "same images."
            )
        return io.NodeOutput([members(group) for group in zip(*batches, strict=True)])


def members(maps: tuple[DepthMap, ...]) -> PicturePredictions:
    """Depth maps of one picture as the members of an ensemble."""
    sizes = {one.depth.shape for one in maps}
    if len(sizes) > 1:
        shown = ", ".join(sorted(f"{width} x {height}" for height, width in sizes))
        raise MarigoldError(
            f"The depth maps of one image have different sizes ({shown}); estimate all of them on "
            "the same image."
        )
    mask = np.logical_and.reduce([full(one) for one in maps])
    if not mask.any():
        raise MarigoldError("No pixel is inside the masks of all depth maps.")
    return PicturePredictions(
        torch.from_numpy(np.stack([one.depth for one in maps])),
        maps[0].depth.shape,
        None if mask.all() else mask,
        any(one.scale_invariant for one in maps),
        any(one.shift_invariant for one in maps),
    )
