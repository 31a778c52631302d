"""Estimate Guided Depth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..marigold_core import KnownDepths
from ..marigold_core.metric.guided import guided_depth
from ..marigold_core.metric.report import fit_report
from .depth_from_image import INVERT_MASK, MASK
from .estimate_depth import RESOLUTION, SEED, predictions_input
from .known_depths import only
from .managed_model import RESERVED_MEMBERS, ManagedModel
from .metric_depth import REPORT, one_of
from .run_progress import RunProgress, interruptible
from .sockets import CATEGORY, Depth, DepthBatch, Known, Model, schema
from .tensors import masks, pictures


class EstimateGuidedDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_EstimateGuidedDepth",
            display_name="Estimate Guided Depth (Marigold)",
            category=CATEGORY,
            description="Estimates depth in metres that bends to the known points: they steer "
            "every step (Marigold-DC). Slower than Metric Depth; worth it from about 100 points.",
            search_aliases=["marigold", "depth completion", "marigold-dc", "lidar", "sparse depth"],
            inputs=[
                Model.Input("model", tooltip="From Load Marigold: v1-1, v1-0 or nano."),
                io.Image.Input("image", tooltip="One image; alpha is ignored."),
                Known.Input("known", tooltip="From Known Depths: two points or more."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Denoising steps, each about three times as long as a plain one. 0: "
                    "50, as published; its authors take 10 on a CPU.",
                ),
                predictions_input("Merged by their median; several give an uncertainty."),
                RESOLUTION,
                SEED,
                io.Boolean.Input(
                    "save_memory",
                    default=True,
                    tooltip="Computes activations twice instead of keeping them: less memory, and "
                    "a third slower. The result is the same.",
                ),
                INVERT_MASK,
                Depth.Input(
                    "depth",
                    optional=True,
                    tooltip="An earlier depth map of the image, from Ensemble Depth: the scale "
                    "starts from its fit, surely wrong points are left out, and points where its "
                    "predictions differ count less.",
                ),
                MASK,
            ],
            outputs=[
                Depth.Output("metres", display_name="depth", tooltip="In metres."),
                REPORT,
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ManagedModel,
        image: Tensor,
        known: KnownDepths,
        steps: int,
        predictions: int,
        resolution: int,
        seed: int,
        save_memory: bool,
        invert_mask: bool,
        depth: DepthBatch | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        model.marigold.expect("depth")
        images = pictures(image)
        picture = only(images, "image")
        used = masks(mask, images, invert_mask)
        # Gradients take the room of several plain members.
        marigold = model.load(*picture.shape[:2], resolution or None, RESERVED_MEMBERS)
        networks = model.patcher.model
        with gradients_allowed(networks), interruptible(networks):
            result = guided_depth(
                marigold,
                picture,
                known,
                before=None if depth is None else one_of(depth),
                mask=used[0] if used else None,
                callback=RunProgress(),
                checkpointing=save_memory,
                num_inference_steps=steps or None,
                ensemble_size=predictions,
                processing_resolution=resolution or None,
                seed=seed,
            )
        return io.NodeOutput([result], "\n".join(fit_report(result, known)))


@contextmanager
def gradients_allowed(networks: nn.Module) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode; what it loads there can take no part in gradients, and
    is replaced by a copy, one weight at a time."""
    with torch.inference_mode(False):
        for module in networks.modules():
            for name, weight in module.named_parameters(recurse=False):
                if weight.is_inference():
                    setattr(module, name, nn.Parameter(weight.clone(), requires_grad=False))
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_inference():
                    setattr(module, name, buffer.clone())
        yield
