"""Save Normals."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from .ensemble_normals import CONVENTION, CONVENTIONS
from .saved_files import prefix_input, saved_workflow
from .sockets import CATEGORY, Normals, NormalsBatch, schema
from .tensors import image_of

FORMATS = {"16-bit PNG": ".png", "32-bit EXR": ".exr", "NPY": ".npy"}


class SaveNormals(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_SaveNormals",
            display_name="Save Normals (Marigold)",
            category=CATEGORY,
            description="Writes normal maps with full precision into the output folder. ComfyUI's "
            "Save Image keeps 8 bits, which show as bands on smooth surfaces.",
            search_aliases=["marigold", "normal map", "exr", "16 bit", "directx", "opengl"],
            is_output_node=True,
            inputs=[
                Normals.Input("normals", tooltip="A normal map, or a batch of them."),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="16-bit PNG",
                    tooltip="PNG holds the colors, (n + 1) / 2. EXR and NPY hold the vectors "
                    "themselves, -1 to 1, as 32-bit floats. PNG and EXR contain the workflow.",
                ),
                CONVENTION,
                prefix_input("normals/Marigold"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls, normals: NormalsBatch, format: str, convention: str, filename_prefix: str
    ) -> io.NodeOutput:
        height, width = normals[0].normals.shape[:2]
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        chosen = CONVENTIONS[convention]
        for number, one in enumerate(normals, counter):
            file = Path(folder) / f"{name}_{number:05}_{FORMATS[format]}"
            one.save(file, chosen, metadata=saved_workflow(cls))
        shown = image_of(one.encoded(chosen) for one in normals)
        return io.NodeOutput(ui=ui.PreviewImage(shown, cls=cls))
