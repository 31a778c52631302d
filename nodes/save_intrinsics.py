"""Save Intrinsic Images."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..marigold_core import IntrinsicImages
from .saved_files import prefix_input, saved_workflow
from .sockets import CATEGORY, Intrinsics, IntrinsicsBatch, schema
from .tensors import image_of

LAYERS = "multi-layer EXR"
FORMATS = {"16-bit PNG": ".png", LAYERS: ".exr", "32-bit EXR": ".exr", "NPY": ".npy"}
SPACES = {"auto": None, "linear": "linear", "sRGB": "srgb"}


class SaveIntrinsics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_SaveIntrinsicImages",
            display_name="Save Intrinsic Images (Marigold)",
            category=CATEGORY,
            description="Writes all maps of intrinsic images with full precision into the output "
            "folder: a file for each map, or one EXR with a layer for each.",
            search_aliases=["marigold", "albedo", "pbr", "material", "exr", "roughness", "iid"],
            is_output_node=True,
            inputs=[
                Intrinsics.Input(
                    "intrinsics", tooltip="From Intrinsic Images; one picture or a batch."
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="16-bit PNG",
                    tooltip="multi-layer EXR: one file with all maps and, where several "
                    "predictions were merged, their uncertainty. The others: a file for each map, "
                    "with its name. EXR and NPY hold 32-bit floats. PNG and EXR contain the "
                    "workflow.",
                ),
                io.Combo.Input(
                    "space",
                    options=list(SPACES),
                    default="auto",
                    tooltip="Of the colors in the files. auto: sRGB in PNG and linear in EXR and "
                    "NPY, as programs expect. Roughness and metallicity are data, the same in "
                    "all.",
                ),
                prefix_input("intrinsic/Marigold"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls, intrinsics: IntrinsicsBatch, format: str, space: str, filename_prefix: str
    ) -> io.NodeOutput:
        height, width = intrinsics[0].size
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        for number, one in enumerate(intrinsics, counter):
            save(one, Path(folder), f"{name}_{number:05}_", format, space, saved_workflow(cls))
        shown = torch.cat(
            [image_of([one.picture(name)]) for one in intrinsics for name in one.maps]
        )
        return io.NodeOutput(ui=ui.PreviewImage(shown, cls=cls))


def save(
    images: IntrinsicImages,
    folder: Path,
    stem: str,
    format: str,
    space: str,
    metadata: dict[str, str],
) -> None:
    """Write one picture's maps; format and space are options of the node."""
    suffix = FORMATS[format]
    if format == LAYERS:
        images.save(folder / f"{stem}{suffix}", SPACES[space] or "linear", metadata)
        return
    for name in images.maps:
        images.save_map(name, folder / f"{stem}{name}{suffix}", SPACES[space], metadata)
