"""Estimate Normals."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from .depth_from_image import INVERT_MASK, MASK
from .estimate_depth import IMAGE, RESOLUTION, SEED, STEPS, estimate, predictions_input
from .managed_model import ManagedModel
from .sockets import CATEGORY, Model, NormalPredictions, schema
from .tensors import image_of


class EstimateNormals(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_EstimateNormals",
            display_name="Estimate Normals (Marigold)",
            category=CATEGORY,
            description="Runs a Marigold checkpoint for surface normals on each image. The result "
            "is raw predictions; Ensemble Normals merges them into a normal map.",
            search_aliases=["marigold", "normals", "normal map", "surface normals"],
            inputs=[
                Model.Input("model", tooltip="From Load Marigold, with a checkpoint for normals."),
                IMAGE,
                STEPS,
                predictions_input(
                    "Predictions per image. Ensemble Normals merges several (5 to 10) into "
                    "a better map and measures its uncertainty."
                ),
                RESOLUTION,
                SEED,
                INVERT_MASK,
                MASK,
            ],
            outputs=[
                NormalPredictions.Output(
                    "predictions_out",
                    display_name="predictions",
                    tooltip="Raw unit vectors, for Ensemble Normals.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The first prediction of each image as OpenGL colors, at the size that "
                    "the model worked at.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ManagedModel,
        image: Tensor,
        steps: int,
        predictions: int,
        resolution: int,
        seed: int,
        invert_mask: bool,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        batch = estimate(
            "normals", model, image, steps, predictions, resolution, seed, mask, invert_mask
        )
        first = ((one.members[0] + 1).div(2).clamp(0, 1) for one in batch)
        return io.NodeOutput(batch, image_of(one.permute(1, 2, 0).numpy() for one in first))
