"""Intrinsic Images."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from .depth_from_image import INVERT_MASK, MASK
from .estimate_depth import IMAGE, RESOLUTION, SEED, STEPS, estimate, predictions_input
from .managed_model import ManagedModel
from .sockets import CATEGORY, Intrinsics, IntrinsicsBatch, Model, schema
from .tensors import image_of

OUTPUTS = {
    "albedo": "The color of the surfaces without light and shadow: the base color of a material.",
    "roughness": "0 is a mirror, 1 is matte. From a checkpoint for appearance.",
    "metallicity": "0 is no metal, 1 is metal. From a checkpoint for appearance.",
    "shading": "The light on the surfaces. From a checkpoint for lighting.",
    "residual": "What is neither: highlights and mirror images. From a checkpoint for lighting.",
}


class EstimateIntrinsics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_IntrinsicImages",
            display_name="Intrinsic Images (Marigold)",
            category=CATEGORY,
            description="Separates each image into what it is made of: albedo, roughness and "
            "metallicity, or albedo, shading and residual, by the checkpoint.",
            search_aliases=["marigold", "iid", "albedo", "delight", "pbr", "material", "shading"],
            inputs=[
                Model.Input(
                    "model",
                    tooltip="From Load Marigold, with a checkpoint for intrinsic images: "
                    "iid-appearance or iid-lighting.",
                ),
                IMAGE,
                STEPS,
                predictions_input(
                    "Predictions per image, merged into one result; more are better and slower."
                ),
                io.Combo.Input(
                    "reduction",
                    options=["median", "mean"],
                    default="median",
                    tooltip="How the predictions are merged. The median is not affected by a "
                    "single bad one.",
                ),
                io.Combo.Input(
                    "space",
                    options=["sRGB", "linear"],
                    default="sRGB",
                    tooltip="Of the colors. sRGB: to look at and to save as pictures. linear: for "
                    "calculation; albedo * shading + residual is the image in linear light. "
                    "Roughness and metallicity are data, the same in both.",
                ),
                RESOLUTION,
                SEED,
                INVERT_MASK,
                MASK,
            ],
            outputs=[
                io.Image.Output(name, display_name=name, tooltip=tooltip)
                for name, tooltip in OUTPUTS.items()
            ]
            + [
                Intrinsics.Output(
                    "intrinsics",
                    display_name="intrinsics",
                    tooltip="All maps, unrounded, for Save Intrinsic Images.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ManagedModel,
        image: Tensor,
        steps: int,
        predictions: int,
        reduction: str,
        space: str,
        resolution: int,
        seed: int,
        invert_mask: bool,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        batch = estimate(
            "intrinsics", model, image, steps, predictions, resolution, seed, mask, invert_mask
        )
        merge = model.marigold.target.merge
        results: IntrinsicsBatch = [
            merge(one.members, one.size, mask=one.mask, reduction=reduction) for one in batch
        ]
        maps = (output(name, results, space, model.name) for name in OUTPUTS)
        return io.NodeOutput(*maps, results)


def output(
    name: str, results: IntrinsicsBatch, space: str, checkpoint: str
) -> Tensor | ExecutionBlocker:
    """A map of all pictures as IMAGE. One that the checkpoint does not estimate stops the nodes
    that are connected to it, with this message, and no others."""
    if name not in results[0].maps:
        estimated = ", ".join(results[0].maps)
        return ExecutionBlocker(
            f"{checkpoint} estimates {estimated} and no {name}; disconnect this output, or choose "
            "another checkpoint in Load Marigold."
        )
    return image_of(one.srgb(name) if space == "sRGB" else one.linear(name) for one in results)
