"""Normalize Depth."""

from __future__ import annotations

import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray

from ..marigold_core import DepthMap, MarigoldError, align_sequence, normalize_depth
from .sockets import CATEGORY, Depth, DepthBatch, schema
from .tensors import image_of, mask_of, same_size, valid_masks

MODES = {
    "min-max": "minmax",
    "percentile": "percentile",
    "fixed near/far": "fixed",
    "inverse depth (ControlNet)": "inverse",
}
MODE = io.Combo.Input(
    "mode",
    options=list(MODES),
    default="min-max",
    tooltip="What becomes black and white. min-max: the whole range. percentile: without the "
    "outermost values. fixed near/far: two given values of the map. inverse depth: disparity, what "
    "ControlNet's depth models were trained on, with depth 0 and 1 placed at the two distances.",
)
NEAR_IS_WHITE = io.Boolean.Input(
    "near_is_white",
    default=True,
    tooltip="On: near is white, as ControlNet wants it. Off: near is black, as in a Z pass.",
)


class NormalizeDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_Normalize",
            display_name="Normalize Depth (Marigold)",
            category=CATEGORY,
            description="Turns depth into a picture in [0, 1].",
            search_aliases=["marigold", "remap depth", "invert depth", "disparity", "controlnet"],
            inputs=[
                Depth.Input("depth", tooltip="From Ensemble Depth or Depth from Image."),
                MODE,
                NEAR_IS_WHITE,
                io.Float.Input(
                    "gamma",
                    default=1.0,
                    min=0.05,
                    max=10.0,
                    step=0.05,
                    tooltip="Applied last: above 1 darkens the middle, below 1 brightens it.",
                ),
                io.Combo.Input(
                    "range",
                    options=["per image", "whole batch"],
                    default="per image",
                    tooltip="Whether each image has a range of its own, or all have one.",
                ),
                io.Boolean.Input(
                    "sequence",
                    default=False,
                    tooltip="For frames of one clip: each is aligned to the one before, and all "
                    "get one range, so that the depth does not flicker.",
                ),
                io.Float.Input(
                    "low_percentile",
                    default=2.0,
                    min=0.0,
                    max=49.0,
                    step=0.5,
                    tooltip="For percentile: the share in % that is nearer than the range.",
                ),
                io.Float.Input(
                    "high_percentile",
                    default=98.0,
                    min=51.0,
                    max=100.0,
                    step=0.5,
                    tooltip="For percentile: 100 % minus the share that is farther than the range.",
                ),
                io.Float.Input(
                    "fixed_near",
                    default=0.0,
                    min=-1000.0,
                    max=100000.0,
                    step=0.01,
                    tooltip="For fixed near/far: the value of the map that is nearest.",
                ),
                io.Float.Input(
                    "fixed_far",
                    default=1.0,
                    min=-1000.0,
                    max=100000.0,
                    step=0.01,
                    tooltip="For fixed near/far: the value of the map that is farthest.",
                ),
                io.Float.Input(
                    "near_distance",
                    default=1.0,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="For inverse depth: the distance of depth 0, in any unit.",
                ),
                io.Float.Input(
                    "far_distance",
                    default=5.0,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="For inverse depth: the distance of depth 1, in the same unit.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Grey, in [0, 1]."),
                io.Mask.Output("mask", display_name="mask", tooltip="The same as a mask."),
            ],
        )

    @classmethod
    def execute(
        cls,
        depth: DepthBatch,
        mode: str,
        near_is_white: bool,
        gamma: float,
        range: str,
        sequence: bool,
        low_percentile: float,
        high_percentile: float,
        fixed_near: float,
        fixed_far: float,
        near_distance: float,
        far_distance: float,
    ) -> io.NodeOutput:
        fixed = MODES[mode] == "fixed"
        near, far = (fixed_near, fixed_far) if fixed else (near_distance, far_distance)
        # Disparity is large where it is near; every other mode is small there.
        invert = near_is_white != (MODES[mode] == "inverse")
        same_size(depth)
        maps = np.stack([one.depth for one in depth])
        used = valid_masks(depth)
        if sequence:
            maps = aligned(depth, maps, used)

        def normalized(values: NDArray[np.float32], mask: NDArray[np.bool_] | None):
            return normalize_depth(
                values,
                mode=MODES[mode],
                percentiles=(low_percentile, high_percentile),
                near=near,
                far=far,
                invert=invert,
                gamma=gamma,
                mask=mask,
            )

        if sequence or range == "whole batch":
            grey = list(normalized(maps, used))
        else:
            grey = [
                normalized(one, None if used is None else used[number])
                for number, one in enumerate(maps)
            ]
        return io.NodeOutput(image_of(grey), mask_of(grey))


def aligned(
    depth: DepthBatch, maps: NDArray[np.float32], used: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """The frames of a clip on one scale."""
    kinds = {(one.scale_invariant, one.shift_invariant) for one in depth}
    if len(kinds) > 1:
        raise MarigoldError(
            "The depth maps come from checkpoints of different kinds (metric and relative), so "
            "they are not frames of one clip; switch sequence off."
        )
    first: DepthMap = depth[0]
    return align_sequence(
        maps,
        scale_invariant=first.scale_invariant,
        shift_invariant=first.shift_invariant,
        mask=used,
    )
