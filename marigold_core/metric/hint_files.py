"""Known depths from files: a table, a sparse depth picture, a COLMAP model, a point cloud."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..depth_files import read_array
from ..errors import MarigoldError
from ..images import open_picture
from .colmap import read_colmap
from .hints import MAX_POINTS, KnownDepths
from .point_cloud import read_points, visible_depths

# Of the pictures that hold integers: millimetres, as depth cameras write them.
PICTURE_SCALE = 0.001
_MAX_TABLE_BYTES = 512 * 2**20


def read_known_depths(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    picture_name: str | None = None,
    scale: float | None = None,
    fov_degrees: float | None = None,
    pose: ArrayLike | None = None,
) -> KnownDepths:
    """The known depths of a picture of `size` (height, width), from a file or folder:

    .csv, .txt: a table with the columns x, y, metres, and a weight if there is a fourth; a
        heading is allowed; commas, semicolons, tabs or blanks between.
    .png, .tif, .tiff, .exr, .npy: a sparse depth picture in the picture's shape; 0 and NaN are
        unknown. Integers are taken times `scale`, metres per unit (None = 0.001, millimetres;
        KITTI's are 1 / 256); floats too where it is given. A .npy of (N, 3) or (N, 4) is a table.
    A folder: a COLMAP model (see `read_colmap`), of which `picture_name` is wanted. Its depths
        are metres only where `scale`, metres per model unit, is given.
    .ply, .las, .laz: a point cloud in metres (or times `scale`), seen by a camera of
        `fov_degrees` across the longer side at `pose`, the (4, 4) world-to-camera matrix in
        OpenCV axes (None = the cloud is in camera axes already).

    Raises MarigoldError, with the file's name, where it is missing, broken, too large, or holds
    nothing that this picture sees.
    """
    path = Path(path)
    if not path.exists():
        raise MarigoldError(f"There is no file or folder {path}.")
    suffix = path.suffix.lower()
    if path.is_dir():
        known = read_colmap(path, picture_name or "", size)
        return known if scale is None else known.scaled(scale)
    try:
        if suffix in (".ply", ".las", ".laz"):
            if fov_degrees is None:
                raise MarigoldError("a point cloud needs the camera's field of view")
            points = read_points(path) * (1.0 if scale is None else scale)
            return visible_depths(points, size, fov_degrees, pose)
        if suffix in (".csv", ".txt"):
            return _from_table(_read_table(path), size)
        values = _read_picture(path, scale)
        if suffix == ".npy" and values.shape[1] in (3, 4) and size[1] > 4:
            return _from_table(values.astype(np.float64), size)
        return _from_picture(values, size)
    except MarigoldError as error:
        text = str(error)
        if path.name in text:
            raise
        raise MarigoldError(f"{path.name}: {text.rstrip('.')}.") from error


def _read_table(path: Path) -> NDArray[np.float64]:
    if path.stat().st_size > _MAX_TABLE_BYTES:
        raise MarigoldError(f"the table is larger than {_MAX_TABLE_BYTES // 2**20} MiB")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise MarigoldError(
            "this is not a text file; a table has the columns x, y, metres"
        ) from None
    return parse_table(lines)


def parse_table(
    lines: Sequence[str], widths: tuple[int, ...] = (3, 4), names: str = "x, y, metres"
) -> NDArray[np.float64]:
    """(N, columns) of a table's lines: numbers between commas, semicolons, tabs or blanks.

    A heading, empty lines and lines after # are left out. widths: how many columns it may have, the
    last for a weight too; names: of the first. Raises MarigoldError that names the line.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        for separator in (",", ";", "\t"):
            if separator in line:
                cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
                break
        else:
            cells = line.split()
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if not rows and not any(_is_number(cell) for cell in cells):
                continue  # the heading
            raise MarigoldError(
                f"line {number} is {line[:60]!r}; write numbers with a decimal point, {names}"
            ) from None
        if len(row) not in widths or (rows and len(row) != len(rows[0])):
            more = ", or all a weight too" if len(widths) > 1 else ""
            raise MarigoldError(f"line {number} has {len(row)} columns; all have {names}{more}")
        rows.append(row)
        if len(rows) > MAX_POINTS:
            raise MarigoldError(f"the table has more than {MAX_POINTS} points; leave some out")
    if not rows:
        raise MarigoldError(f"the table has no points; its columns are {names}")
    return np.array(rows)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _from_table(table: NDArray[np.float64], size: tuple[int, int]) -> KnownDepths:
    weights = table[:, 3] if table.shape[1] == 4 else None
    return KnownDepths(table[:, :2], table[:, 2], weights, size)


def _read_picture(path: Path, scale: float | None) -> NDArray[np.float32]:
    if scale is not None and not 0 < scale < np.inf:
        raise MarigoldError(f"the scale is {scale}; it must be above 0, in metres per unit")
    if path.suffix.lower() in (".png", ".tif", ".tiff"):
        picture = open_picture(path)
        if picture.mode.startswith("I"):
            return np.asarray(picture).astype(np.float32) * (
                np.float32(PICTURE_SCALE if scale is None else scale)
            )
        if picture.mode != "F":
            raise MarigoldError(
                f"a sparse depth picture has 16 bits or floats, and this one is {picture.mode},"
                " which has too few steps"
            )
        values: NDArray[np.float32] = np.asarray(picture)
    elif path.suffix.lower() in (".exr", ".npy"):
        values = read_array(path)
    else:
        raise MarigoldError(
            "known depths are read from .csv, .txt, .png, .tif, .exr, .npy, .ply, .las or a folder"
            " of COLMAP's"
        )
    return values * np.float32(1.0 if scale is None else scale)


def _from_picture(values: NDArray[np.float32], size: tuple[int, int]) -> KnownDepths:
    height, width = values.shape
    if abs(height / width * size[1] - size[0]) > 1 + 0.02 * size[0]:
        raise MarigoldError(
            f"it has {width}x{height} pixels and the picture {size[1]}x{size[0]}: their shapes"
            " differ, so they do not belong together"
        )
    known = np.isfinite(values) & (values != 0)
    rows, columns = np.nonzero(known)
    if not len(rows):
        raise MarigoldError("no pixel has a known depth; all are 0 or NaN")
    positions = np.column_stack([columns + 0.5, rows + 0.5]) * (size[1] / width, size[0] / height)
    return KnownDepths(positions, values[known].astype(np.float64), size=size)
