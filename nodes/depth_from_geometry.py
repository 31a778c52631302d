"""Import Depth Geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
from comfy_api.latest import io

from ..marigold_core import DepthMap, MarigoldError
from .sockets import CATEGORY, Depth, schema
from .tensors import image_of

# ComfyUI takes several types, separated by commas, for one input.
AnyGeometry = io.Custom("MOGE_GEOMETRY,DA3_GEOMETRY")
SKY = 0.5  # probability from which ComfyUI's own nodes count a pixel as sky


class DepthFromGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_DepthFromGeometry",
            display_name="Import Depth Geometry (Marigold)",
            category=CATEGORY,
            description="Takes the geometry of ComfyUI's MoGe and Depth Anything 3 nodes, so that "
            "this pack can merge, normalize, color, save and mesh its depth.",
            search_aliases=["marigold", "moge", "depth anything", "da3", "geometry to depth"],
            inputs=[
                AnyGeometry.Input(
                    "geometry", tooltip="From Run MoGe Inference or Run Depth Anything 3."
                ),
                io.Combo.Input(
                    "unit",
                    options=["metres", "relative"],
                    default="metres",
                    tooltip="metres: the values are kept. relative: they are scaled to 0 to 1, for "
                    "models that do not estimate metres (Depth Anything 3 Small, Base, Mono).",
                ),
            ],
            outputs=[
                Depth.Output(
                    "depth",
                    display_name="depth",
                    tooltip="One depth map per image; sky and invalid pixels are masked out.",
                ),
                io.Image.Output("image", display_name="image", tooltip="The image it belongs to."),
            ],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], unit: str) -> io.NodeOutput:
        if not isinstance(geometry, dict) or "depth" not in geometry or "image" not in geometry:
            raise MarigoldError(
                "The geometry contains no depth or no image; connect MoGe's or Depth Anything 3's."
            )
        values = geometry["depth"].float().cpu().numpy()
        used = usable(geometry, values)
        maps = [
            depth_map(one, mask, number, unit == "metres")
            for number, (one, mask) in enumerate(zip(values, used, strict=True), 1)
        ]
        image = geometry["image"].float().cpu().numpy()
        return io.NodeOutput(maps, image_of(image))


def usable(geometry: dict[str, Any], depth: np.ndarray) -> np.ndarray:
    """bool (B, H, W): the pixels with a distance, that are not sky."""
    used = np.isfinite(depth) & (depth > 0)
    if "mask" in geometry:
        used &= geometry["mask"].cpu().numpy() > 0.5
    if "sky" in geometry:
        used &= geometry["sky"].float().cpu().numpy() < SKY
    return used


def depth_map(depth: np.ndarray, used: np.ndarray, number: int, is_metric: bool) -> DepthMap:
    """Distances (H, W) and their mask as a depth map, finite everywhere."""
    if not used.any():
        raise MarigoldError(
            f"Image {number} has no pixel with a depth: all of it is sky or masked."
        )
    low, high = float(depth[used].min()), float(depth[used].max())
    # Masked pixels count as farthest, as elsewhere in this pack.
    values = np.where(used, depth, high)
    if not is_metric:
        values = (values - low) / max(high - low, 1e-6)
    mask = None if used.all() else used
    return DepthMap(
        values.astype(np.float32),
        mask=mask,
        scale_invariant=not is_metric,
        shift_invariant=not is_metric,
    )
