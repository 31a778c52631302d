"""Marigold Depth: the whole way in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..marigold_core import MarigoldError
from .estimate_depth import RESOLUTION, SEED, STEPS
from .model_folders import choices, resolve
from .normalize_depth import MODE, NEAR_IS_WHITE
from .sockets import CATEGORY, schema


class MarigoldDepth(io.ComfyNode):
    """Stands for Load, Estimate, Ensemble and Normalize, which ComfyUI then runs and caches: a new
    seed does not load the checkpoint again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_MarigoldDepth",
            display_name="Marigold Depth (all in one)",
            category=CATEGORY,
            description="Image to depth picture in one node. The other nodes of this pack are its "
            "parts.",
            search_aliases=["marigold", "depth", "depth map", "controlnet depth"],
            enable_expand=True,
            inputs=[
                # The wire itself goes on into the graph: ComfyUI caches nothing behind a tensor.
                io.Image.Input("image", raw_link=True, tooltip="One image or a batch."),
                io.Combo.Input(
                    "checkpoint",
                    options=choices(),
                    default="nano",
                    tooltip="See Load Marigold. nano is bundled and for trying out; v1-1 is the "
                    "published one (5 GB, downloaded when first run).",
                ),
                io.Int.Input(
                    "predictions",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Merged to one map: more is better and slower.",
                ),
                MODE,
                NEAR_IS_WHITE,
                STEPS,
                RESOLUTION,
                SEED,
            ],
            outputs=[io.Image.Output("image_out", display_name="depth", tooltip="In [0, 1].")],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        try:
            resolve(checkpoint)
        except MarigoldError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        image: list[Any],
        checkpoint: str,
        predictions: int,
        mode: str,
        near_is_white: bool,
        steps: int,
        resolution: int,
        seed: int,
    ) -> io.NodeOutput:
        graph = GraphBuilder()
        load = graph.node(
            "MarigoldKit_LoadMarigold", checkpoint=checkpoint, precision="auto", vae="standard"
        )
        estimate = graph.node(
            "MarigoldKit_EstimateDepth",
            model=load.out(0),
            image=image,
            steps=steps,
            predictions=predictions,
            resolution=resolution,
            seed=seed,
        )
        ensemble = graph.node(
            "MarigoldKit_Ensemble",
            predictions=estimate.out(0),
            method="closed form",
            reduction="median",
        )
        normalize = graph.node(
            "MarigoldKit_Normalize",
            depth=ensemble.out(0),
            mode=mode,
            near_is_white=near_is_white,
            gamma=1.0,
            range="per image",
            sequence=False,
            low_percentile=2.0,
            high_percentile=98.0,
            fixed_near=0.0,
            fixed_far=1.0,
            near_distance=1.0,
            far_distance=5.0,
        )
        return io.NodeOutput(normalize.out(0), expand=graph.finalize())
