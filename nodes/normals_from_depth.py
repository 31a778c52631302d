"""Normals from Depth."""

from __future__ import annotations

from comfy_api.latest import io

from ..marigold_core import DepthMap, NormalMap
from ..marigold_core.geometry.points import NEAR
from .depth_to_mesh import FAR_DISTANCE, FIELD_OF_VIEW, in_order
from .ensemble_normals import CONVENTION, CONVENTIONS
from .sockets import CATEGORY, Depth, DepthBatch, Normals, schema
from .tensors import image_of, same_size


class NormalsFromDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_NormalsFromDepth",
            display_name="Normals from Depth (Marigold)",
            category=CATEGORY,
            description="Computes the normals of the surface that a depth map describes. Works "
            "with the depth of any model.",
            search_aliases=["marigold", "depth to normal", "normal map", "controlnet normal"],
            inputs=[
                Depth.Input("depth", tooltip="A depth map, or a batch of them."),
                FIELD_OF_VIEW,
                io.Float.Input(
                    "near",
                    default=NEAR,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="Distance of the nearest depth (0). Relative depth does not contain "
                    "it: near and far decide how steep the surfaces are. Ignored for depth in "
                    "metres.",
                ),
                FAR_DISTANCE,
                CONVENTION,
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
            ],
        )

    @classmethod
    def validate_inputs(cls, near: float | None, far: float | None) -> bool | str:
        return in_order(near, far)

    @classmethod
    def execute(
        cls, depth: DepthBatch, field_of_view: float, near: float, far: float, convention: str
    ) -> io.NodeOutput:
        same_size(depth)
        maps = [normals_of(one, field_of_view, near, far) for one in depth]
        return io.NodeOutput(maps, image_of(one.encoded(CONVENTIONS[convention]) for one in maps))


def normals_of(depth: DepthMap, field_of_view: float, near: float, far: float) -> NormalMap:
    """The normals of a map whose 0 and 1 lie at near and far, or that holds distances."""
    if not depth.shift_invariant:
        return depth.normals(fov_degrees=field_of_view)
    return depth.normals(fov_degrees=field_of_view, near=near, far=far)
