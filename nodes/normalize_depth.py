"""Normalize Depth."""

from __future__ import annotations

from typing import Any

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
MODE_TOOLTIP = (
    "What becomes black and white. min-max: the whole range. percentile: the range without its "
    "extremes. fixed near/far: two values of your choice. inverse depth: disparity, which "
    "ControlNet's depth models were trained on."
)
NEAR_IS_WHITE = io.Boolean.Input(
    "near_is_white",
    default=True,
    tooltip="On: near is white, as ControlNet expects. Off: near is black, as in a Z pass.",
)
# What one mode needs and the others do not show.
PERCENTILES = [
    io.Float.Input(
        "low_percentile",
        default=2.0,
        min=0.0,
        max=49.0,
        step=0.5,
        tooltip="The percentage of pixels that may be nearer than the range.",
    ),
    io.Float.Input(
        "high_percentile",
        default=98.0,
        min=51.0,
        max=100.0,
        step=0.5,
        tooltip="100 minus the percentage of pixels that may be farther than the range.",
    ),
]
FIXED_RANGE = [
    io.Float.Input(
        "near_value",
        default=0.0,
        min=-1000.0,
        max=100000.0,
        step=0.01,
        tooltip="The depth that counts as nearest, in the depth map's own unit.",
    ),
    io.Float.Input(
        "far_value",
        default=1.0,
        min=-1000.0,
        max=100000.0,
        step=0.01,
        tooltip="The depth that counts as farthest, in the depth map's own unit.",
    ),
]
FAR_TO_NEAR = io.Float.Input(
    "far_to_near",
    default=5.0,
    min=1.01,
    max=10000.0,
    step=0.1,
    tooltip="How many times as far away the farthest point is as the nearest: 5 for a room from "
    "1 m to 5 m. Relative depth does not contain this. Ignored for depth in metres.",
)
OPTIONS = {
    "min-max": [],
    "percentile": PERCENTILES,
    "fixed near/far": FIXED_RANGE,
    "inverse depth (ControlNet)": [FAR_TO_NEAR],
}


class NormalizeDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_Normalize",
            display_name="Normalize Depth (Marigold)",
            category=CATEGORY,
            description="Converts depth to a gray picture in [0, 1].",
            search_aliases=["marigold", "remap depth", "invert depth", "disparity", "controlnet"],
            inputs=[
                Depth.Input("depth", tooltip="A depth map, or a batch of them."),
                io.DynamicCombo.Input(
                    "mode",
                    options=[
                        io.DynamicCombo.Option(mode, inputs) for mode, inputs in OPTIONS.items()
                    ],
                    tooltip=MODE_TOOLTIP,
                ),
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
                    tooltip="per image: each image has its own range. whole batch: all images "
                    "share one.",
                ),
                io.Boolean.Input(
                    "sequence",
                    default=False,
                    tooltip="For the frames of one clip: aligns each frame to the one before and "
                    "uses one range for all of them, so that the depth does not flicker.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Gray, in [0, 1]."),
                io.Mask.Output("mask", display_name="mask", tooltip="The same as a mask."),
            ],
        )

    @classmethod
    def execute(
        cls,
        depth: DepthBatch,
        mode: dict[str, Any],
        near_is_white: bool,
        gamma: float,
        range: str,
        sequence: bool,
    ) -> io.NodeOutput:
        same_size(depth)
        used = valid_masks(depth)
        maps = np.stack([one.depth for one in depth])
        if sequence:
            maps = aligned(depth, maps, used)
        together = sequence or range == "whole batch"
        groups = [slice(None)] if together else [slice(n, n + 1) for n in np.arange(len(maps))]
        arguments = arguments_of(mode)
        # Disparity is large where it is near; every other mode is small there.
        invert = near_is_white != (arguments["mode"] == "inverse")
        is_metric = not depth[0].scale_invariant
        gray = [
            normalized(
                maps[group],
                None if used is None else used[group],
                is_metric,
                invert=invert,
                gamma=gamma,
                **arguments,
            )
            for group in groups
        ]
        shown = np.concatenate(gray)
        return io.NodeOutput(image_of(shown), mask_of(shown))


def arguments_of(mode: dict[str, Any]) -> dict[str, Any]:
    """The `normalize_depth` arguments for a mode and its own settings."""
    name = MODES[mode["mode"]]
    if name == "percentile":
        return {"mode": name, "percentiles": (mode["low_percentile"], mode["high_percentile"])}
    if name == "fixed":
        near, far = mode["near_value"], mode["far_value"]
        # ComfyUI gives the inputs of a dynamic combo's option only to a `validate_inputs` with
        # **kwargs, and then drops its own checks of all other inputs.
        if near == far:
            raise MarigoldError(
                f"near_value and far_value are both {near:g}, so there is no range between them; "
                "choose two different values."
            )
        return {"mode": name, "near": near, "far": far}
    if name == "inverse":
        return {"mode": name, "near": 1.0, "far": mode["far_to_near"]}
    return {"mode": name}


def normalized(
    maps: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    is_metric: bool,
    **arguments: Any,
) -> NDArray[np.float32]:
    """Depth maps (B, H, W) that share one range, as gray values (B, H, W) in [0, 1]."""
    if arguments["mode"] != "inverse":
        return normalize_depth(maps, mask=mask, **arguments)
    # The engine's inverse mode takes a map in [0, 1] and the distances of its two ends.
    inside = maps if mask is None else maps[mask]
    low, high = float(inside.min()), float(inside.max())
    if is_metric and 0 < low < high:
        arguments |= {"near": low, "far": high}
    if high > low and (is_metric or low < 0 or high > 1):
        maps = ((maps - low) / (high - low)).clip(0, 1)
    return normalize_depth(maps, mask=mask, **arguments)


def aligned(
    depth: DepthBatch, maps: NDArray[np.float32], used: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """The frames of a clip, (B, H, W), on one scale."""
    kinds = {(one.scale_invariant, one.shift_invariant) for one in depth}
    if len(kinds) > 1:
        raise MarigoldError(
            "The batch mixes metric and relative depth, so it is not the frames of one clip; "
            "switch sequence off."
        )
    first: DepthMap = depth[0]
    return align_sequence(
        maps,
        scale_invariant=first.scale_invariant,
        shift_invariant=first.shift_invariant,
        mask=used,
    )
