"""Known Depths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray
from torch import Tensor

from ..marigold_core import KnownDepths, MarigoldError, read_known_depths
from ..marigold_core.geometry.points import FOV_DEGREES
from ..marigold_core.metric.hint_files import parse_table
from .load_depth import MOST_FILES
from .sockets import CATEGORY, Known, schema
from .tensors import image_of, pictures

NO_FILE = "none"
SUFFIXES = (".csv", ".txt", ".png", ".tif", ".tiff", ".exr", ".npy", ".ply", ".las", ".laz")


class EnterKnownDepths(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_KnownDepths",
            display_name="Known Depths (Marigold)",
            category=CATEGORY,
            description="What you know of a picture's distances, for Metric Depth and Estimate "
            "Guided Depth: points with their distance, a sparse depth picture or file, lengths, "
            "the camera's height.",
            search_aliases=["marigold", "metric", "lidar", "sparse depth", "metres", "scale"],
            inputs=[
                io.Image.Input("image", tooltip="The picture that the distances belong to."),
                io.String.Input(
                    "points",
                    default="",
                    multiline=True,
                    placeholder="x, y, metres",
                    tooltip="A known point on each line: x, y, metres. x and y are pixels from the "
                    "left and from the top; metres are along the camera's axis.",
                ),
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *input_files(SUFFIXES)],
                    default=NO_FILE,
                    tooltip="Known points from the input folder: a table of x, y, metres (.csv, "
                    ".txt), a sparse depth picture (.png, .tif, .exr, .npy; 0 is unknown) or a "
                    "point cloud of this camera (.ply, .las).",
                ),
                io.Float.Input(
                    "metres_per_unit",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.001,
                    tooltip="Of the numbers in the file. 0: millimetres for 16-bit pictures, else "
                    "metres. For sparse_depth: the metres of white; 0 is 1.",
                ),
                io.String.Input(
                    "lengths",
                    default="",
                    multiline=True,
                    placeholder="x1, y1, x2, y2, metres",
                    tooltip="A known length on each line, such as a door's height: x1, y1, x2, y2, "
                    "metres. Not for Estimate Guided Depth.",
                ),
                io.Float.Input(
                    "camera_height",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.05,
                    tooltip="Metres above the ground that the lower quarter of the picture shows. "
                    "0: unknown. Not for Estimate Guided Depth.",
                ),
                io.Float.Input(
                    "field_of_view",
                    default=FOV_DEGREES,
                    min=1.0,
                    max=170.0,
                    step=0.5,
                    tooltip="The camera's, in degrees across the longer side. For lengths, the "
                    "camera's height and point clouds.",
                ),
                io.Image.Input(
                    "sparse_depth",
                    optional=True,
                    tooltip="A sparse depth picture of the image's shape: black is unknown, white "
                    "is metres_per_unit away. Load Image keeps 8 bits; use file for more.",
                ),
            ],
            outputs=[
                Known.Output(
                    "known",
                    display_name="known",
                    tooltip="For Metric Depth and Estimate Guided Depth.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The picture with the known points: red is near, blue is far.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        if file != NO_FILE and not folder_paths.exists_annotated_filepath(file):
            return f"There is no file {file!r} in the input folder."
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> tuple[str, int]:
        path = Path(folder_paths.get_annotated_filepath(file))
        return file, path.stat().st_mtime_ns if file != NO_FILE and path.is_file() else 0

    @classmethod
    def execute(
        cls,
        image: Tensor,
        points: str,
        file: str,
        metres_per_unit: float,
        lengths: str,
        camera_height: float,
        field_of_view: float,
        sparse_depth: Tensor | None = None,
    ) -> io.NodeOutput:
        picture = only(pictures(image), "image")
        size = picture.shape[0], picture.shape[1]
        parts = [*typed(points, size)]
        if file != NO_FILE:
            parts.append(
                read_known_depths(
                    folder_paths.get_annotated_filepath(file),
                    size,
                    scale=metres_per_unit or None,
                    fov_degrees=field_of_view,
                )
            )
        if sparse_depth is not None:
            gray = only(pictures(sparse_depth), "sparse_depth").mean(axis=2)
            parts.append(sparse(gray * np.float32(metres_per_unit or 1.0), size))
        known = KnownDepths(
            np.concatenate([np.empty((0, 2)), *(one.positions for one in parts)]),
            np.concatenate([np.empty(0), *(one.metres for one in parts)]),
            np.concatenate([np.empty(0), *(np.asarray(one.weights) for one in parts)]),
            size,
            lengths=rows_of(lengths, "lengths", (5,), "x1, y1, x2, y2, metres"),
            camera_height=camera_height or None,
            fov_degrees=field_of_view,
        )
        if not len(known) and not lengths.strip() and not camera_height:
            raise MarigoldError(
                "Nothing is known: type a point (x, y, metres) into points, choose a file, or give "
                "a length or the camera's height."
            )
        return io.NodeOutput(known, image_of([with_points(picture, known)]))


def only(images: list[NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    if len(images) > 1:
        raise MarigoldError(
            f"{name} has {len(images)} pictures; known depths belong to one. Choose it with Image "
            "From Batch."
        )
    return images[0]


def rows_of(
    text: str, name: str, widths: tuple[int, ...], columns: str
) -> NDArray[np.float64] | None:
    """The numbers of a text field; None where it is empty."""
    if not text.strip():
        return None
    try:
        return parse_table(text.splitlines(), widths, columns)
    except MarigoldError as error:
        raise MarigoldError(f"{name}: {str(error).rstrip('.')}.") from error


def typed(text: str, size: tuple[int, int]) -> list[KnownDepths]:
    table = rows_of(text, "points", (3, 4), "x, y, metres")
    if table is None:
        return []
    weights = table[:, 3] if table.shape[1] == 4 else None
    return [KnownDepths(table[:, :2], table[:, 2], weights, size)]


def sparse(metres: NDArray[np.float32], size: tuple[int, int]) -> KnownDepths:
    """The pixels above 0 of a sparse depth map as known points of a picture of `size`."""
    if abs(metres.shape[0] * size[1] / metres.shape[1] - size[0]) > 1 + 0.02 * size[0]:
        raise MarigoldError(
            f"sparse_depth is {metres.shape[1]} x {metres.shape[0]} and the image {size[1]} x "
            f"{size[0]}; they must have the same shape."
        )
    rows, columns = np.nonzero(metres > 0)
    scale = size[1] / metres.shape[1], size[0] / metres.shape[0]
    return KnownDepths(
        (np.column_stack([columns, rows]) + 0.5) * scale, metres[rows, columns], size=size
    )


def with_points(picture: NDArray[np.float32], known: KnownDepths) -> NDArray[np.float32]:
    """The picture with a dot at each known point, red where near and blue where far."""
    shown = picture.clip(0, 1).copy()
    if not len(known):
        return shown
    height, width = shown.shape[:2]
    rows, columns = known.pixels((height, width))
    log = np.log(known.metres)
    share = (log - log.min()) / max(float(np.ptp(log)), 1e-9)
    colors = np.stack([1 - share, np.zeros_like(share), share], axis=1).astype(np.float32)
    reach = 0 if len(known) > 500 else max(1, max(height, width) // 200)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy <= reach * reach:
                y, x = (rows + dy).clip(0, height - 1), (columns + dx).clip(0, width - 1)
                shown[y, x] = colors
    return shown


def input_files(suffixes: tuple[str, ...]) -> list[str]:
    """The files with such names, relative to the input folder."""
    folder = Path(folder_paths.get_input_directory())
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in suffixes]
    return [path.relative_to(folder).as_posix() for path in sorted(paths)][:MOST_FILES]
