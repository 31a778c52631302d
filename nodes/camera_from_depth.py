"""Camera from Depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..marigold_core.geometry.camera_estimate import NOTHING, estimate_camera
from ..marigold_core.geometry.points import field_of_view
from ..marigold_core.images import read_exif
from .known_depths import NO_FILE, input_files
from .sockets import CATEGORY, Depth, DepthBatch, schema

SUFFIXES = (".jpg", ".jpeg", ".tif", ".tiff", ".png", ".webp")  # that hold a camera's record


class CameraFromDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_CameraFromDepth",
            display_name="Camera from Depth (Marigold)",
            category=CATEGORY,
            description="Finds the field of view, near and far that Mesh from Depth and the other "
            "3D nodes need: from the photo's own record, else from planes and right angles in the "
            "depth, else the usual values. Its report says which.",
            search_aliases=["marigold", "focal length", "fov", "field of view", "exif", "lens"],
            inputs=[
                Depth.Input("depth", tooltip="A depth map; of a batch, the first."),
                io.Combo.Input(
                    "photo",
                    options=[NO_FILE, *input_files(SUFFIXES)],
                    default=NO_FILE,
                    tooltip="The photo's file in the input folder, for the focal length that the "
                    "camera wrote into it. Images inside ComfyUI no longer contain it.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "field_of_view",
                    display_name="field_of_view",
                    tooltip="In degrees across the longer side.",
                ),
                io.Float.Output(
                    "near", display_name="near", tooltip="Distance of the nearest depth (0)."
                ),
                io.Float.Output(
                    "far", display_name="far", tooltip="Distance of the farthest depth (1)."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The values, and where each is from. Connect Preview as Text.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, photo: str) -> bool | str:
        if photo != NO_FILE and not folder_paths.exists_annotated_filepath(photo):
            return f"There is no file {photo!r} in the input folder."
        return True

    @classmethod
    def fingerprint_inputs(cls, photo: str, **_: Any) -> tuple[str, int]:
        path = Path(folder_paths.get_annotated_filepath(photo))
        return photo, path.stat().st_mtime_ns if photo != NO_FILE and path.is_file() else 0

    @classmethod
    def execute(cls, depth: DepthBatch, photo: str) -> io.NodeOutput:
        one = depth[0]
        # Depth in metres has no near and far to find, and its planes need no relief.
        camera = estimate_camera(one.depth, one.mask) if one.shift_invariant else NOTHING
        exif = {} if photo == NO_FILE else read_exif(folder_paths.get_annotated_filepath(photo))
        height, width = one.depth.shape
        fov = field_of_view(height, width, exif=exif, estimate=camera.fov_degrees)
        near, far = camera.near_far
        source = {
            "EXIF": f"the camera's record in {photo}",
            "estimate": "estimated from right angles in the depth",
            "default": "the usual value; neither a photo's record nor right angles show it",
        }[fov.source]
        distances = f"Near {near:g}, far {far:.3g}: " + (
            "estimated from planes in the depth"
            if camera.relief
            else "the usual values; no large planes show them"
        )
        if not one.shift_invariant:
            distances = "Near and far: this depth has distances of its own"
        report = f"Field of view {fov.degrees:.1f} degrees: {source}.\n{distances}."
        return io.NodeOutput(fov.degrees, near, far, report)
