"""Estimate Depth."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..marigold_core.options import MOST_SEED
from .depth_from_image import INVERT_MASK, MASK
from .managed_model import ManagedModel
from .run_progress import RunProgress, interruptible
from .sockets import CATEGORY, Model, PicturePredictions, Predictions, schema
from .tensors import image_of, masks, pictures

IMAGE = io.Image.Input("image", tooltip="One image or a batch; alpha is ignored.")
STEPS = io.Int.Input(
    "steps",
    default=0,
    min=0,
    max=1000,
    tooltip="Denoising steps. 0: the checkpoint's default (4 for v1-1, 1 for e2e).",
)
RESOLUTION = io.Int.Input(
    "resolution",
    default=0,
    min=0,
    max=4096,
    step=8,
    tooltip="Longer side in pixels while the model runs. 0: the checkpoint's default (768 for the "
    "published ones). More gives finer detail and can lose the layout. The result always has the "
    "image's size.",
)
SEED = io.Int.Input(
    "seed",
    default=0,
    min=0,
    max=MOST_SEED,
    control_after_generate=True,
    tooltip="The same seed gives the same result, in a batch of any size.",
)


def predictions_input(tooltip: str) -> io.Int.Input:
    """How many predictions are made; what becomes of them differs from node to node."""
    return io.Int.Input("predictions", default=1, min=1, max=64, tooltip=tooltip)


class EstimateDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_EstimateDepth",
            display_name="Estimate Depth (Marigold)",
            category=CATEGORY,
            description="Runs a Marigold checkpoint on each image. The result is raw predictions; "
            "Ensemble Depth merges them into a depth map.",
            search_aliases=["marigold", "depth", "depth map", "monocular depth"],
            inputs=[
                Model.Input("model", tooltip="From Load Marigold."),
                IMAGE,
                STEPS,
                predictions_input(
                    "Predictions per image. Ensemble Depth merges several (5 to 10) into a "
                    "better map and measures its uncertainty."
                ),
                RESOLUTION,
                SEED,
                INVERT_MASK,
                MASK,
            ],
            outputs=[
                Predictions.Output(
                    "predictions_out",
                    display_name="predictions",
                    tooltip="Raw and unaligned, for Ensemble Depth.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The first prediction of each image, unchanged; near is black.",
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
            "depth", model, image, steps, predictions, resolution, seed, mask, invert_mask
        )
        return io.NodeOutput(batch, image_of(one.members[0].numpy() for one in batch))


def estimate(
    target: str,
    model: ManagedModel,
    image: Tensor,
    steps: int,
    members: int,
    resolution: int,
    seed: int,
    mask: Tensor | None = None,
    invert_mask: bool = False,
) -> list[PicturePredictions]:
    """The predictions of each picture, as many pictures at once as fit. Raises MarigoldError for a
    checkpoint of another target.

    Every picture starts from the same noise: frames of a clip stay alike, and a picture's result
    does not depend on its place in the batch.
    """
    model.marigold.expect(target)
    images = pictures(image)
    used = masks(mask, images, invert_mask)
    height, width = images[0].shape[:2]
    marigold = model.load(height, width, resolution or None, members * len(images))
    with interruptible(model.patcher.model):
        predictions = marigold.predict_frames(
            images,
            num_inference_steps=steps or None,
            ensemble_size=members,
            processing_resolution=resolution or None,
            seed=seed,
            callback=RunProgress(),
        )
        return [
            PicturePredictions(
                one.cpu(),
                (height, width),
                used[number] if used else None,
                marigold.scale_invariant,
                marigold.shift_invariant,
            )
            for number, one in enumerate(predictions)
        ]
