"""Point clouds: PLY and LAS files -> points, and the depths of those that a camera sees."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MarigoldError
from ..geometry.points import project
from .hints import KnownDepths

_MAX_POINTS = 100_000_000
_MAX_HEADER = 64 * 1024
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip


def read_points(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """The points of a .ply (ASCII or binary), .las or .laz file, (N, 3) float64.

    Non-finite points are left out. LAS takes the `laspy` package. Raises MarigoldError, with the
    file's name, where it is broken, empty, of another kind, or over 100 million points.
    """
    path = Path(path)
    points = _read_ply(path) if path.suffix.lower() == ".ply" else _read_las(path)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise MarigoldError(f"{path.name} has no points.")
    return points


def visible_depths(
    points: NDArray[np.float64],
    size: tuple[int, int],
    fov_degrees: float,
    pose: ArrayLike | None = None,
) -> KnownDepths:
    """The depths of the points (N, 3) that the camera of a picture of `size` (height, width) sees.

    pose: (4, 4), world to camera, in OpenCV axes; None = identity. Points behind the camera or
    outside the picture are left out, and so are those that nearer points hide: a cloud has gaps
    that a camera does not look through, so a point more than 5 % behind the nearest within about
    the cloud's own spacing counts as hidden. Raises MarigoldError where none is left.
    """
    if pose is not None:
        pose = np.asarray(pose, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all() or abs(np.linalg.det(pose)) < 1e-9:
            raise MarigoldError(
                f"The camera's pose has the shape {pose.shape}; it must be a (4, 4) matrix that"
                " takes the cloud's coordinates to the camera's."
            )
        points = points @ pose[:3, :3].T + pose[:3, 3]
    ahead = points[points[:, 2] > 0]
    positions = project(ahead, *size, fov_degrees=fov_degrees)
    inside = ((positions >= 0) & (positions < (size[1], size[0]))).all(axis=1)
    positions, z = positions[inside], ahead[inside, 2]
    if not len(z):
        raise MarigoldError(
            f"None of the cloud's {len(points)} points is in front of the camera and in the"
            f" picture ({len(ahead)} are in front): check the pose; axes are x right, y down,"
            " z forward."
        )
    seen = ~_hidden(positions, z, size)
    return KnownDepths(positions[seen], z[seen], size=size, fov_degrees=fov_degrees)


def _hidden(
    positions: NDArray[np.float64], z: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """A z-buffer of cells as wide as the cloud is sparse, and a cell's eight neighbours."""
    side = min(max(math.sqrt(size[0] * size[1] / len(z)), 1.0), max(size) / 16)
    columns = (positions[:, 0] / side).astype(np.int64)
    rows = (positions[:, 1] / side).astype(np.int64)
    nearest = np.full((rows.max() + 3, columns.max() + 3), np.inf)
    np.minimum.at(nearest, (rows + 1, columns + 1), z)
    across = np.minimum(np.minimum(nearest[:, :-2], nearest[:, 1:-1]), nearest[:, 2:])
    around = np.minimum(np.minimum(across[:-2], across[1:-1]), across[2:])
    return np.asarray(z > around[rows, columns] * 1.05)


def _read_ply(path: Path) -> NDArray[np.float64]:
    """The vertex element's x, y, z; http://paulbourke.net/dataformats/ply/."""
    with path.open("rb") as file:
        encoding, elements = _ply_header(path.name, file)
        names = [name for name, _, _ in elements]
        if "vertex" not in names:
            raise MarigoldError(f"{path.name} has no vertices.")
        place = names.index("vertex")
        _, count, properties = elements[place]
        fields = [name for name, _ in properties]
        if not {"x", "y", "z"} <= set(fields) or len(set(fields)) != len(fields):
            raise MarigoldError(f"{path.name} has no points x, y, z.")
        before = elements[:place]
        if any(kind == "list" for _, _, props in elements[: place + 1] for _, kind in props):
            raise MarigoldError(
                f"{path.name} has lists before or in its vertices, which are not read."
            )
        if count > _MAX_POINTS:
            raise MarigoldError(f"{path.name} has {count} points, more than {_MAX_POINTS} allowed.")
        remaining = path.stat().st_size - file.tell()
        # An ASCII number takes two bytes or more, with what parts it from the next.
        least = sum(
            n * len(props) * 2 if encoding == "ascii" else n * _dtype(props, "<").itemsize
            for _, n, props in elements[: place + 1]
        )
        if least - (encoding == "ascii") > remaining:
            raise MarigoldError(f"{path.name} ends before its {count} points do; it is torn.")
        if encoding == "ascii":
            for _ in range(sum(n for _, n, _ in before)):
                file.readline()
            columns = [fields.index(axis) for axis in "xyz"]
            try:
                return np.loadtxt(file, max_rows=count, usecols=columns, ndmin=2, dtype=np.float64)
            except ValueError as error:
                raise MarigoldError(f"{path.name} has a vertex that is not numbers.") from error
        order = "<" if encoding == "binary_little_endian" else ">"
        file.seek(sum(n * _dtype(props, order).itemsize for _, n, props in before), os.SEEK_CUR)
        vertices = np.fromfile(file, _dtype(properties, order), count)
        return np.column_stack([vertices[axis].astype(np.float64) for axis in "xyz"])


def _ply_header(name: str, file: Any) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]]]:
    """(encoding, [(element, count, [(property, type or "list")])]), the file after the header."""
    encoding = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    if file.readline(8).strip() != b"ply":
        raise MarigoldError(f"{name} is not a PLY file.")
    while file.tell() < _MAX_HEADER:
        line = file.readline(1024)
        words = line.decode("latin-1").split()
        if words == ["end_header"]:
            if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
                raise MarigoldError(f"{name} has the PLY format {encoding!r}, which is not known.")
            return encoding, elements
        if words[:1] == ["format"] and len(words) == 3:
            encoding = words[1]
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal():
            elements.append((words[1], int(words[2][:18]), []))
        elif words[:1] == ["property"] and len(words) >= 3 and elements:
            kind = words[1]
            if kind != "list" and kind not in _TYPES:
                break
            elements[-1][2].append((words[-1], kind))
        elif words[:1] not in (["comment"], ["obj_info"]):
            break
    raise MarigoldError(f"{name} has a broken PLY header.")


def _dtype(properties: list[tuple[str, str]], order: str) -> np.dtype[Any]:
    return np.dtype([(name, order + _TYPES[kind]) for name, kind in properties])


def _read_las(path: Path) -> NDArray[np.float64]:
    try:
        import laspy
    except ImportError:
        raise MarigoldError(
            f"{path.name}: LAS and LAZ files need the laspy package (pip install laspy[lazrs]);"
            " or save the cloud as .ply."
        ) from None
    try:
        with laspy.open(path) as file:
            count = int(file.header.point_count)
            if count > _MAX_POINTS:
                raise MarigoldError(
                    f"{path.name} has {count} points, more than the {_MAX_POINTS} allowed."
                )
            cloud = file.read()
            return np.asarray(cloud.xyz, dtype=np.float64)
    except MarigoldError:
        raise
    except Exception as error:  # laspy's own, struct's, the decompressor's
        raise MarigoldError(f"{path.name} cannot be read as a LAS file.") from error
