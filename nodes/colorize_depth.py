"""Colorize Depth."""

from __future__ import annotations

from comfy_api.latest import io

from ..marigold_core import MarigoldError, colorize
from ..marigold_core.depth import COLORMAPS
from .ensemble import uncertainty_picture
from .sockets import CATEGORY, Depth, DepthBatch, schema
from .tensors import image_of, in_unit_range, same_size


class ColorizeDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_Colorize",
            display_name="Colorize Depth (Marigold)",
            category=CATEGORY,
            description="Shows depth, or its uncertainty, in colors.",
            search_aliases=["marigold", "color map", "spectral", "heat map"],
            inputs=[
                Depth.Input("depth", tooltip="A depth map, or a batch of them."),
                io.Combo.Input(
                    "show",
                    options=["depth", "uncertainty"],
                    default="depth",
                    tooltip="uncertainty needs two or more predictions per image.",
                ),
                io.Combo.Input(
                    "colormap",
                    options=list(COLORMAPS),
                    default="Spectral",
                    tooltip="Spectral is the Marigold paper's: near is red, far is blue.",
                ),
                io.Float.Input(
                    "uncertainty_scale",
                    default=0.1,
                    min=0.001,
                    max=1.0,
                    step=0.005,
                    tooltip="For uncertainty: the value at the end of the color map, as a share of "
                    "the depth range. The same for all images, so that they can be compared.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="In color.")],
        )

    @classmethod
    def execute(
        cls, depth: DepthBatch, show: str, colormap: str, uncertainty_scale: float
    ) -> io.NodeOutput:
        same_size(depth)
        if show == "depth":
            return io.NodeOutput(image_of(colorize(in_unit_range(one), colormap) for one in depth))
        if any(one.uncertainty is None for one in depth):
            raise MarigoldError(
                "This depth has no uncertainty: set predictions to 2 or more in Estimate Depth."
            )
        return io.NodeOutput(
            image_of(
                colorize(uncertainty_picture(one, uncertainty_scale), colormap) for one in depth
            )
        )
