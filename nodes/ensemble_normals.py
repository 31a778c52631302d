"""Ensemble Normals."""

from __future__ import annotations

import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray

from ..marigold_core import NormalMap
from ..marigold_core.targets import merge_normals
from .sockets import CATEGORY, NormalPredictions, Normals, PredictionBatch, schema
from .tensors import image_of, mask_of

# As nodes show them -> as the engine names them.
CONVENTIONS = {"OpenGL": "opengl", "DirectX": "directx", "ControlNet": "controlnet"}
CONVENTION = io.Combo.Input(
    "convention",
    options=list(CONVENTIONS),
    default="OpenGL",
    tooltip="The colors of the image. OpenGL: green points up (Blender, Unity). DirectX: green "
    "points down (Unreal). ControlNet: as OpenGL, but red points left, as the normal ControlNets "
    "were trained.",
)


class EnsembleNormals(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_EnsembleNormals",
            display_name="Ensemble Normals (Marigold)",
            category=CATEGORY,
            description="Merges the predictions of each image into one normal map and its "
            "uncertainty.",
            search_aliases=["marigold", "merge normals", "normal map", "controlnet normal"],
            inputs=[
                NormalPredictions.Input("predictions", tooltip="From Estimate Normals."),
                io.Combo.Input(
                    "reduction",
                    options=["closest", "mean"],
                    default="closest",
                    tooltip="closest: in each pixel, the prediction that is nearest to the mean "
                    "direction, which keeps edges sharp. mean: the mean direction itself.",
                ),
                CONVENTION,
                io.Float.Input(
                    "uncertainty_degrees",
                    default=30.0,
                    min=0.1,
                    max=180.0,
                    step=1.0,
                    tooltip="The mean angle between the predictions and the result that is white "
                    "in the outputs. The same for all images, so that they can be compared.",
                ),
            ],
            outputs=[
                Normals.Output(
                    "normals", display_name="normals", tooltip="For Save Normals, unrounded."
                ),
                io.Image.Output(
                    "image",
                    display_name="image",
                    tooltip="The normal map as colors, for previews and ControlNet.",
                ),
                io.Image.Output(
                    "uncertainty",
                    display_name="uncertainty",
                    tooltip="How far the predictions differ: bright where the normals are "
                    "uncertain. Black for a single prediction.",
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
        reduction: str,
        convention: str,
        uncertainty_degrees: float,
    ) -> io.NodeOutput:
        maps: list[NormalMap] = [
            merge_normals(one.members, one.size, mask=one.mask, reduction=reduction)
            for one in predictions
        ]
        white = float(np.radians(uncertainty_degrees))
        shown = [uncertainty_picture(one, white) for one in maps]
        colors = image_of(one.encoded(CONVENTIONS[convention]) for one in maps)
        return io.NodeOutput(maps, colors, image_of(shown), mask_of(shown))


def uncertainty_picture(normals: NormalMap, white: float) -> NDArray[np.float32]:
    """(H, W) in [0, 1]; 1 is an uncertainty of `white` radians, or more."""
    if normals.uncertainty is None:
        return np.zeros(normals.normals.shape[:2], np.float32)
    return (normals.uncertainty / np.float32(white)).clip(0, 1)
