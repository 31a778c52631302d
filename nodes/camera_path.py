"""Camera Path."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray

from .sockets import CATEGORY, schema

MOTIONS = ["sway", "circle", "push in"]
UP = np.array([0.0, 1.0, 0.0])


class CameraPath(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_CameraPath",
            display_name="Camera Path (Marigold)",
            category=CATEGORY,
            description="Moves a camera a little, for a parallax video: Render Mesh renders one "
            "picture for each camera, Rebatch Images makes them one batch. The path ends where it "
            "began.",
            search_aliases=["marigold", "parallax", "camera motion", "dolly", "orbit", "2.5d"],
            inputs=[
                io.Load3DCamera.Input("camera_info", tooltip="From Mesh from Depth."),
                io.Combo.Input(
                    "motion",
                    options=MOTIONS,
                    default="sway",
                    tooltip="sway: left and right. circle: around the line of sight. push in: "
                    "forward and back.",
                ),
                io.Float.Input(
                    "amount",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the camera moves, as a share of the distance to the middle "
                    "of the scene.",
                ),
                io.Int.Input(
                    "frames", default=48, min=1, max=4096, tooltip="Cameras of one round."
                ),
                io.Float.Input(
                    "crop",
                    default=0.06,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    tooltip="Enlarges the picture by this share, so that its edges stay outside.",
                ),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    "camera_path",
                    display_name="camera_info",
                    is_output_list=True,
                    tooltip="A camera for each frame; the node behind it runs once for each.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, camera_info: dict[str, Any], motion: str, amount: float, frames: int, crop: float
    ) -> io.NodeOutput:
        eye, target = (vector(camera_info[name]) for name in ("position", "target"))
        zoom = float(camera_info.get("zoom") or 1) * (1 + crop)
        return io.NodeOutput(
            [
                camera_info | {"position": point(position), "zoom": zoom}
                for position in eye + moves(target - eye, motion, amount, frames)
            ]
        )


def moves(
    sight: NDArray[np.float64], motion: str, amount: float, frames: int
) -> NDArray[np.float64]:
    """(frames, 3): where the camera is, from where it was. sight: from there to its target."""
    distance = float(np.linalg.norm(sight)) or 1.0
    forward = sight / distance
    right = np.cross(forward, UP)
    # A camera that looks straight up or down has no horizon: any direction is as good.
    right = right / np.linalg.norm(right) if np.linalg.norm(right) > 1e-6 else np.eye(3)[0]
    up = np.cross(right, forward)
    turn = (2 * math.pi / frames * np.arange(frames))[:, None]
    offsets = {
        "sway": np.sin(turn) * right,
        "circle": np.sin(turn) * right + np.cos(turn) * up,
        "push in": (1 - np.cos(turn)) / 2 * forward,
    }
    return np.asarray(offsets[motion] * amount * distance)


def vector(values: dict[str, float]) -> NDArray[np.float64]:
    return np.array([values[axis] for axis in "xyz"], dtype=float)


def point(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip("xyz", values.tolist(), strict=True))
