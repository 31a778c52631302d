"""Depth Map: from an image to a depth picture in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .ensemble import UNCERTAINTY_SCALE
from .estimate_depth import RESOLUTION, SEED, STEPS, predictions_input
from .load_marigold import LoadMarigold
from .model_folders import choices
from .normalize_depth import MODE_TOOLTIP, MODES, NEAR_IS_WHITE, OPTIONS
from .sockets import CATEGORY, schema


class MarigoldDepth(io.ComfyNode):
    """Expands to Load, Estimate, Ensemble and Normalize, which ComfyUI then runs and caches: a new
    seed does not load the checkpoint again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            # The frontend's search lists short ids and titles first: this is the node to try.
            node_id="MarigoldKit_Depth",
            display_name="Depth Map (Marigold)",
            category=CATEGORY,
            description="From an image to a depth picture in one node. The other nodes of this "
            "pack are its parts.",
            search_aliases=["marigold depth", "depth estimation", "controlnet depth"],
            enable_expand=True,
            inputs=[
                # The link is passed on to the nodes inside: ComfyUI caches nothing behind a tensor.
                io.Image.Input("image", raw_link=True, tooltip="One image or a batch."),
                io.Combo.Input(
                    "checkpoint",
                    options=choices("depth"),
                    default="nano",
                    tooltip="nano is bundled and for trying out; v1-1 is the published checkpoint "
                    "(5 GB, downloaded when the node first runs). See Load Marigold.",
                ),
                predictions_input("Merged into one map: more are better and slower."),
                io.Combo.Input(
                    "mode", options=list(MODES), default="min-max", tooltip=MODE_TOOLTIP
                ),
                NEAR_IS_WHITE,
                STEPS,
                RESOLUTION,
                SEED,
            ],
            outputs=[io.Image.Output("image_out", display_name="depth", tooltip="In [0, 1].")],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        return LoadMarigold.validate_inputs(checkpoint)

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
            invert_mask=False,
        )
        ensemble = graph.node(
            "MarigoldKit_Ensemble",
            predictions=estimate.out(0),
            method="closed form",
            reduction="median",
            uncertainty_scale=UNCERTAINTY_SCALE,
        )
        normalize = graph.node(
            "MarigoldKit_Normalize",
            depth=ensemble.out(0),
            mode=mode,
            near_is_white=near_is_white,
            gamma=1.0,
            range="per image",
            sequence=False,
            **{f"mode.{one.id}": one.default for one in OPTIONS[mode]},
        )
        return io.NodeOutput(normalize.out(0), expand=graph.finalize())
