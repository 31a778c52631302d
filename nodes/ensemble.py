"""Ensemble Depth."""

from __future__ import annotations

from comfy_api.latest import io

from ..marigold_core import DepthMap, merge_predictions
from .sockets import CATEGORY, Depth, PredictionBatch, Predictions, schema
from .tensors import image_of, mask_of, same_size


class EnsemblePredictions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_Ensemble",
            display_name="Ensemble Depth (Marigold)",
            category=CATEGORY,
            description="Aligns the predictions of each image and merges them to one depth map, "
            "with its uncertainty.",
            search_aliases=["marigold", "merge depth", "uncertainty"],
            inputs=[
                Predictions.Input("predictions", tooltip="From Estimate Depth."),
                io.Combo.Input(
                    "method",
                    options=["closed form", "paper"],
                    default="closed form",
                    tooltip="How the predictions are aligned: in closed form (at once, and as good "
                    "or better), or by the paper's numeric objective.",
                ),
                io.Combo.Input(
                    "reduction",
                    options=["median", "mean"],
                    default="median",
                    tooltip="Of the aligned predictions. The median ignores a bad one.",
                ),
            ],
            outputs=[
                Depth.Output("depth", display_name="depth", tooltip="For Normalize Depth."),
                io.Image.Output(
                    "uncertainty",
                    display_name="uncertainty",
                    tooltip="How far the predictions lie apart; white is the depth's whole range. "
                    "Black for a single prediction.",
                ),
                io.Mask.Output(
                    "uncertainty_mask",
                    display_name="uncertainty (mask)",
                    tooltip="The same as a mask, not clipped.",
                ),
            ],
        )

    @classmethod
    def execute(cls, predictions: PredictionBatch, method: str, reduction: str) -> io.NodeOutput:
        depths = merge(predictions, method, reduction)
        same_size(depths)
        spread = [
            depth.depth * 0 if depth.uncertainty is None else depth.uncertainty for depth in depths
        ]
        return io.NodeOutput(depths, image_of(one.clip(0, 1) for one in spread), mask_of(spread))


def merge(predictions: PredictionBatch, method: str, reduction: str) -> list[DepthMap]:
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
