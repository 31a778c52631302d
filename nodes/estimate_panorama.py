"""Estimate Panorama Depth."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..marigold_core import panorama_depth
from ..marigold_core.panorama import VIEWS, view_side
from .ensemble import UNCERTAINTY_SCALE, uncertainty_picture
from .estimate_depth import RESOLUTION, SEED, STEPS, predictions_input
from .managed_model import ManagedModel
from .run_progress import RunProgress, interruptible
from .sockets import CATEGORY, Depth, Model, schema
from .tensors import image_of, pictures


class EstimatePanorama(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_EstimatePanorama",
            display_name="Estimate Panorama Depth (Marigold)",
            category=CATEGORY,
            description="Estimates the depth of a 360 degree panorama: six views all around, "
            "merged without a seam. The depth is the distance from the camera.",
            search_aliases=["marigold", "equirectangular", "360", "skybox", "hdri depth"],
            inputs=[
                Model.Input("model", tooltip="From Load Marigold."),
                io.Image.Input(
                    "image",
                    tooltip="An equirectangular panorama, twice as wide as high, or a batch.",
                ),
                STEPS,
                predictions_input(
                    "Predictions for each of the six views: more are better and slower."
                ),
                RESOLUTION,
                SEED,
            ],
            outputs=[
                Depth.Output(
                    "depth",
                    display_name="depth",
                    tooltip="For Normalize, Colorize and Save Depth. Mesh from Depth is for "
                    "perspective pictures.",
                ),
                io.Image.Output(
                    "uncertainty",
                    display_name="uncertainty",
                    tooltip="Bright where the views, or the predictions of a view, differ.",
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
    ) -> io.NodeOutput:
        images = pictures(image)
        side = view_side(images[0].shape[1])
        marigold = model.load(side, side, resolution or None, VIEWS * predictions)
        progress = RunProgress(len(images))
        depths = []
        for progress.picture, picture in enumerate(images):
            with interruptible(model.patcher.model):
                depths.append(
                    panorama_depth(
                        marigold,
                        picture,
                        num_inference_steps=steps or None,
                        ensemble_size=predictions,
                        processing_resolution=resolution or None,
                        seed=seed,
                        callback=progress,
                    )
                )
        shown = image_of(uncertainty_picture(one, UNCERTAINTY_SCALE) for one in depths)
        return io.NodeOutput(depths, shown)
