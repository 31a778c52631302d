"""Save Depth."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import io, ui
from numpy.typing import NDArray

from ..marigold_core import colorize
from .saved_files import prefix_input, saved_workflow
from .sockets import CATEGORY, Depth, DepthBatch, schema
from .tensors import image_of, in_unit_range

FORMATS = {"16-bit PNG": ".png", "32-bit EXR": ".exr", "32-bit TIFF": ".tiff", "NPY": ".npy"}


class SaveDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_SaveDepth",
            display_name="Save Depth (Marigold)",
            category=CATEGORY,
            description="Writes depth with full precision into the output folder: 0 is near, 1 is "
            "far. ComfyUI's Save Image keeps 8 bits, which show as steps.",
            search_aliases=["marigold", "exr", "16 bit", "tiff", "export depth"],
            is_output_node=True,
            inputs=[
                Depth.Input("depth", tooltip="A depth map, or a batch of them."),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="16-bit PNG",
                    tooltip="EXR, TIFF and NPY keep 32-bit floats unchanged. PNG holds 0 to 1, or "
                    "metres as millimetres up to 65 m. PNG and EXR contain the workflow.",
                ),
                prefix_input("depth/Marigold"),
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
            file = Path(folder) / f"{name}_{number:05}_{FORMATS[format]}"
            one.save(file, metadata=saved_workflow(cls))
        # In color, so that nobody takes it for a picture of the other polarity.
        shown = image_of(colorize(stretched(in_unit_range(one))) for one in depth)
        return io.NodeOutput(ui=ui.PreviewImage(shown, cls=cls))


def stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of a map over the whole of [0, 1]; a constant map stays as it is."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values
