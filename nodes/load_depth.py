"""Load Depth."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import numpy as np
from comfy_api.latest import io

from ..marigold_core import DepthMap, MarigoldError, read_depth
from .sockets import CATEGORY, Depth, schema

SUFFIXES = (".png", ".tif", ".tiff", ".exr", ".npy")
MOST_FILES = 1000  # in the list; a folder of frames can hold more
MOST_METRES = 65.535  # what 16 bits of millimetres hold


class LoadDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_LoadDepth",
            display_name="Load Depth (Marigold)",
            category=CATEGORY,
            description="Reads a depth file with full precision: what Save Depth or another "
            "program has written as PNG, TIFF, EXR or NPY.",
            search_aliases=["marigold", "exr", "16 bit", "tiff", "import depth"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files(),
                    tooltip="A file in the input folder, or (marked [output]) in the output "
                    "folder. Refresh the node definitions (R) after adding one.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["depth", "distance"],
                    default="depth",
                    tooltip="depth: relative depth, 0 = near, 1 = far, as Save Depth writes it. "
                    "distance: metres or another unit; in a PNG, millimetres.",
                ),
            ],
            outputs=[
                Depth.Output("depth", display_name="depth", tooltip="As it is in the file."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        if not file or not folder_paths.exists_annotated_filepath(file):
            return f"There is no depth file {file!r} in the input or output folder."
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, kind: str) -> tuple[str, str, int]:
        path = Path(folder_paths.get_annotated_filepath(file))
        return file, kind, path.stat().st_mtime_ns if path.is_file() else 0

    @classmethod
    def execute(cls, file: str, kind: str) -> io.NodeOutput:
        depth = read_depth(folder_paths.get_annotated_filepath(file))
        if kind == "distance":
            return io.NodeOutput([in_metres(depth, file)])
        inside = depth.depth if depth.mask is None else depth.depth[depth.mask]
        if inside.size and not (inside.min() >= 0 and inside.max() <= 1):
            raise MarigoldError(
                f"{file} has values from {inside.min():g} to {inside.max():g}, and relative depth "
                "is 0 to 1; set kind to distance if these are distances."
            )
        return io.NodeOutput([depth])


def in_metres(depth: DepthMap, file: str) -> DepthMap:
    """The map as distances. In a PNG they are millimetres, and 0 is a pixel without one."""
    values, mask = depth.depth, depth.mask
    if Path(file.removesuffix(" [output]")).suffix.lower() == ".png":
        mask = values > 0
        values = values * np.float32(MOST_METRES)
    return DepthMap(values, mask=mask, scale_invariant=False, shift_invariant=False)


def files() -> list[str]:
    """Depth files as ComfyUI names them: relative to the input folder, or with " [output]"."""
    found: list[str] = []
    for folder, mark in (
        (folder_paths.get_input_directory(), ""),
        (folder_paths.get_output_directory(), " [output]"),
    ):
        paths = [path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES]
        found += [f"{path.relative_to(folder).as_posix()}{mark}" for path in sorted(paths)]
    return found[:MOST_FILES]
