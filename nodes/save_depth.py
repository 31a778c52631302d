"""Save Depth."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from .sockets import CATEGORY, Depth, DepthBatch, schema
from .tensors import image_of

FORMATS = {"16-bit PNG": ".png", "32-bit EXR": ".exr", "32-bit TIFF": ".tiff", "NPY": ".npy"}


class SaveDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_SaveDepth",
            display_name="Save Depth (Marigold)",
            category=CATEGORY,
            description="Writes depth with full precision into the output folder: 0 is near, 1 is "
            "far. ComfyUI's Save Image keeps 8 bits, which shows as steps.",
            search_aliases=["marigold", "exr", "16 bit", "tiff", "export depth"],
            is_output_node=True,
            inputs=[
                Depth.Input("depth", tooltip="From Ensemble Depth or Depth from Image."),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="16-bit PNG",
                    tooltip="EXR, TIFF and NPY hold 32-bit floats as they are.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="depth/Marigold",
                    tooltip="Folder and name inside ComfyUI's output folder; %year%, %month%, "
                    "%day%, %width% and %height% are filled in.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, depth: DepthBatch, format: str, filename_prefix: str) -> io.NodeOutput:
        height, width = depth[0].depth.shape
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        for number, one in enumerate(depth, counter):
            one.save(Path(folder) / f"{name}_{number:05}_{FORMATS[format]}")
        shown = image_of(one.normalize().depth if spread(one) else one.depth for one in depth)
        return io.NodeOutput(ui=ui.PreviewImage(shown, cls=cls))


def spread(depth) -> bool:
    return bool(depth.depth.max() > depth.depth.min())
