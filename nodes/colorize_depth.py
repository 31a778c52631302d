"""Colorize Depth."""

from __future__ import annotations

from comfy_api.latest import io

from ..marigold_core import MarigoldError, colorize
from ..marigold_core.depth import COLORMAPS
from .sockets import CATEGORY, Depth, DepthBatch, schema
from .tensors import image_of, same_size


class ColorizeDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_Colorize",
            display_name="Colorize Depth (Marigold)",
            category=CATEGORY,
            description="Depth, or its uncertainty, in colours, to look at.",
            search_aliases=["marigold", "color map", "spectral", "heat map"],
            inputs=[
                Depth.Input("depth", tooltip="From Ensemble Depth or Depth from Image."),
                io.Combo.Input(
                    "show",
                    options=["depth", "uncertainty"],
                    default="depth",
                    tooltip="uncertainty takes two or more predictions.",
                ),
                io.Combo.Input(
                    "colormap",
                    options=list(COLORMAPS),
                    default="Spectral",
                    tooltip="Spectral is the paper's: near is red, far is blue.",
                ),
                io.Float.Input(
                    "uncertainty_scale",
                    default=0.1,
                    min=0.001,
                    max=1.0,
                    step=0.005,
                    tooltip="The uncertainty at the end of the colour map, as a share of the depth "
                    "range. The same for all, so that pictures can be compared.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="In colour.")],
        )

    @classmethod
    def execute(
        cls, depth: DepthBatch, show: str, colormap: str, uncertainty_scale: float
    ) -> io.NodeOutput:
        same_size(depth)
        if show == "depth":
            return io.NodeOutput(image_of(one.colorize(colormap) for one in depth))
        spreads = [one.uncertainty for one in depth if one.uncertainty is not None]
        if len(spreads) < len(depth):
            raise MarigoldError(
                "This depth has no uncertainty: set predictions to 2 or more in Estimate Depth."
            )
        return io.NodeOutput(
            image_of(colorize(one / uncertainty_scale, colormap) for one in spreads)
        )
