"""Ensemble Depth."""

from __future__ import annotations

import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray

from ..marigold_core import DepthMap, merge_predictions
from .sockets import CATEGORY, Depth, PredictionBatch, Predictions, schema
from .tensors import image_of, mask_of, same_size

UNCERTAINTY_SCALE = 0.1


class EnsemblePredictions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_Ensemble",
            display_name="Ensemble Depth (Marigold)",
            category=CATEGORY,
            description="Aligns the predictions of each image and merges them into one depth map "
            "and its uncertainty.",
            search_aliases=["marigold", "merge depth", "uncertainty"],
            inputs=[
                Predictions.Input(
                    "predictions", tooltip="From Estimate Depth or Combine Depth Maps."
                ),
                io.Combo.Input(
                    "method",
                    options=["closed form", "paper"],
                    default="closed form",
                    tooltip="How the predictions are aligned. closed form: exact and fast. paper: "
                    "the numerical optimization of the Marigold paper, for comparison.",
                ),
                io.Combo.Input(
                    "reduction",
                    options=["median", "mean"],
                    default="median",
                    tooltip="How the aligned predictions are merged. The median is not affected by "
                    "a single bad one.",
                ),
                io.Float.Input(
                    "uncertainty_scale",
                    default=UNCERTAINTY_SCALE,
                    min=0.001,
                    max=1.0,
                    step=0.005,
                    tooltip="The uncertainty that is white in the outputs, as a share of the "
                    "depth range. The same for all images, so that they can be compared.",
                ),
            ],
            outputs=[
                Depth.Output(
                    "depth",
                    display_name="depth",
                    tooltip="For the nodes that normalize, color, save and mesh depth.",
                ),
                io.Image.Output(
                    "uncertainty",
                    display_name="uncertainty",
                    tooltip="How far the predictions differ: bright where the depth is uncertain. "
                    "Black for a single prediction.",
                ),
                io.Mask.Output(
                    "uncertainty_mask",
                    display_name="uncertainty (mask)",
                    tooltip="The same as a mask, for example for inpainting.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        predictions: PredictionBatch,
        method: str,
        reduction: str,
        uncertainty_scale: float,
    ) -> io.NodeOutput:
        depths = merge(predictions, method, reduction)
        same_size(depths)
        shown = [uncertainty_picture(depth, uncertainty_scale) for depth in depths]
        return io.NodeOutput(depths, image_of(shown), mask_of(shown))


def uncertainty_picture(depth: DepthMap, scale: float) -> NDArray[np.float32]:
    """(H, W) in [0, 1]; 1 is an uncertainty of `scale` times the depth range, or more."""
    if depth.uncertainty is None:
        return np.zeros_like(depth.depth)
    # Relative depth is in [0, 1]; metric depth has a range of its own.
    used = depth.depth if depth.mask is None else depth.depth[depth.mask]
    size = 1.0 if depth.scale_invariant else max(float(np.ptp(used)), 1e-6)
    return (depth.uncertainty / np.float32(scale * size)).clip(0, 1)


def merge(predictions: PredictionBatch, method: str, reduction: str) -> list[DepthMap]:
    """One depth map per picture; `method` and `reduction` are options of the node."""
    return [
        merge_predictions(
            one.members,
            one.size,
            mask=one.mask,
            ensemble_method=method.replace(" ", "_"),
            reduction=reduction,
            scale_invariant=one.scale_invariant,
            shift_invariant=one.shift_invariant,
        )
        for one in predictions
    ]
