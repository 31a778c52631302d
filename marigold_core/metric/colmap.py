"""COLMAP models: the depths of the points that one picture saw, from text or binary files.

The files are those of https://colmap.github.io/format.html: cameras, images and points3D, .txt or
.bin, in a folder or its sparse/0.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from .hints import KnownDepths

# Model id -> (name, number of parameters, one focal length for both axes).
_CAMERAS = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5),
    4: ("OPENCV", 8), 5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4), 9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}  # fmt: skip
_PARAMETERS = dict(_CAMERAS.values())
_FISHEYE = ("FISHEYE", "FOV")
_NO_POINT = 2**64 - 1
_MAX_BYTES = 16 * 2**30
_MAX_LINE = 2**28
# Reprojection errors below this are luck rather than precision.
_LEAST_ERROR = 0.5
_MOST_ERROR = 1e3


@dataclass(frozen=True)
class _Picture:
    name: str
    camera: int
    quaternion: tuple[float, ...]  # w, x, y, z: world to camera
    translation: tuple[float, ...]
    positions: NDArray[np.float64]  # (N, 2), of the pixels that have a point
    points: NDArray[np.uint64]  # (N,), their points' ids


def read_colmap(
    folder: str | os.PathLike[str], picture_name: str, size: tuple[int, int]
) -> KnownDepths:
    """The depths of the 3D points that the picture `picture_name` saw, where it saw them.

    In the model's own units (`in_metres` is False): a reconstruction from pictures has no scale.
    Positions are the picture's own observations, which hold for every camera model, scaled where
    the picture of `size` (height, width) is smaller or larger than the one COLMAP had. A point's
    weight is 1 / its mean reprojection error squared, at least half a pixel. `fov_degrees` is the
    camera's, except a fisheye's.

    Pictures are named by their path in the model; a last part that only one of them has will do.
    Raises MarigoldError for a folder without a model, a broken or torn file, a picture that is
    not in it, and one without points.
    """
    folder = Path(folder)
    for place in (folder, folder / "sparse" / "0", folder / "sparse", folder / "0"):
        for suffix in (".bin", ".txt"):
            files = [place / f"{stem}{suffix}" for stem in ("cameras", "images", "points3D")]
            if all(file.is_file() for file in files):
                return _read_model(files, picture_name, size)
    raise MarigoldError(
        f"{folder} is no COLMAP model: a folder with cameras, images and points3D, as .bin or .txt."
    )


def _read_model(files: list[Path], picture_name: str, size: tuple[int, int]) -> KnownDepths:
    for file in files:
        if file.stat().st_size > _MAX_BYTES:
            raise MarigoldError(f"{file.name} is larger than {_MAX_BYTES // 2**30} GiB.")
    binary = files[0].suffix == ".bin"
    cameras_file, images_file, points_file = files
    picture = _find(images_file, binary, picture_name)
    if not len(picture.points):
        raise MarigoldError(f"{picture.name} has no points in {images_file.parent}.")
    camera = _read(cameras_file, binary, _cameras).get(picture.camera)
    if camera is None:
        raise MarigoldError(f"{cameras_file.name} has no camera {picture.camera}.")
    model, width, height, parameters = camera
    if not (width > 0 and height > 0):
        raise MarigoldError(f"{cameras_file.name} has a camera of {width}x{height} pixels.")
    if abs(height / width * size[1] - size[0]) > 1 + 0.02 * size[0]:
        raise MarigoldError(
            f"COLMAP had {picture.name} in {width}x{height} and the picture has"
            f" {size[1]}x{size[0]}: their shapes differ, so it was cropped or turned since."
        )
    wanted = np.unique(picture.points)
    ids, xyz, errors = _read(points_file, binary, lambda f, b: _points(f, b, wanted))
    order = np.argsort(ids)
    ids, xyz, errors = ids[order], xyz[order], errors[order]
    found = np.isin(picture.points, ids)
    at = np.searchsorted(ids, picture.points[found])
    camera_points = xyz[at] @ _rotation(picture.quaternion).T + np.array(picture.translation)
    positions = picture.positions[found] * (size[1] / width, size[0] / height)
    usable = np.isfinite(camera_points).all(axis=1) & (camera_points[:, 2] > 0)
    usable &= ((positions >= 0) & (positions <= (size[1], size[0]))).all(axis=1)
    if not usable.any():
        raise MarigoldError(
            f"{picture.name}: none of its points is in {points_file.name} and in front of it."
        )
    error = np.nan_to_num(errors[at], nan=4.0, posinf=4.0).clip(_LEAST_ERROR, _MOST_ERROR)
    fov = None
    if not any(word in model for word in _FISHEYE) and parameters[0] > 0:
        fov = math.degrees(2 * math.atan(max(width, height) / 2 / parameters[0]))
    return KnownDepths(
        positions[usable],
        camera_points[usable, 2],
        1 / error[usable] ** 2,
        size,
        fov_degrees=fov,
        in_metres=False,
    )


def _read(file: Path, binary: bool, parse):  # type: ignore[no-untyped-def]
    """`parse(open file, binary)`; anything that a broken file raises names the file."""
    try:
        with file.open("rb") as handle:
            return parse(handle, binary)
    except MarigoldError:
        raise
    except (struct.error, ValueError, IndexError, KeyError, OverflowError) as error:
        raise MarigoldError(f"{file.name} is broken or not COLMAP's.") from error


def _find(file: Path, binary: bool, name: str) -> _Picture:
    wanted = name.replace("\\", "/").split("/")

    def search(handle: BinaryIO, binary: bool) -> _Picture:
        matches: dict[str, _Picture] = {}
        names: list[str] = []
        for picture in _pictures(handle, binary, wanted[-1]):
            names.append(picture.name)
            parts = picture.name.replace("\\", "/").split("/")
            if parts == wanted:
                return picture
            if parts[-1] == wanted[-1]:
                matches[picture.name] = picture
        if len(matches) == 1:
            return next(iter(matches.values()))
        if matches:
            raise MarigoldError(f"The model has several {name}: {', '.join(list(matches)[:3])}.")
        known = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise MarigoldError(f"The model has no picture {name!r}; it has {known or 'none'}.")

    picture: _Picture = _read(file, binary, search)
    return picture


def _pictures(file: BinaryIO, binary: bool, last: str) -> Iterator[_Picture]:
    """All pictures, with the points of those alone whose name ends in `last`."""
    if binary:
        yield from _binary_pictures(file, last)
        return
    lines = _lines(file, keep_empty=True)
    for line in lines:
        words = line.split(maxsplit=9)
        if not words:
            continue
        numbers = tuple(map(float, words[1:8]))
        name = words[9].strip()
        table = np.empty((0, 3))
        ids = np.empty(0, np.uint64)
        observed = next(lines, "").split()
        if name.endswith(last) and observed:
            if len(observed) % 3:
                raise ValueError("observations are x, y, point")
            table = np.array([observed[0::3], observed[1::3]], dtype=np.float64).T
            # -1 is none, and 64-bit ids do not fit a float.
            ids = np.array([int(word) & _NO_POINT for word in observed[2::3]], np.uint64)
        yield _picture(name, int(words[8]), numbers, table, ids)


def _binary_pictures(file: BinaryIO, last: str) -> Iterator[_Picture]:
    end = _size(file)
    (count,) = struct.unpack("<Q", file.read(8))
    for _ in range(count):
        _, *numbers, camera = struct.unpack("<I7dI", file.read(64))
        name = _zero_ended(file)
        (observed,) = struct.unpack("<Q", file.read(8))
        if observed > (end - file.tell()) // 24:
            raise ValueError("more observations than the file holds")
        table, ids = np.empty((0, 2)), np.empty(0, np.uint64)
        if name.endswith(last):
            kind = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
            rows = np.frombuffer(file.read(24 * observed), kind)
            table, ids = rows["xy"].astype(np.float64), rows["point"].astype(np.uint64)
        else:
            file.seek(24 * observed, io.SEEK_CUR)
        yield _picture(name, camera, tuple(numbers), table, ids)


def _picture(
    name: str,
    camera: int,
    numbers: tuple[float, ...],
    table: NDArray[np.float64],
    ids: NDArray[np.uint64],
) -> _Picture:
    if len(numbers) != 7:
        raise ValueError("a pose is a quaternion and a translation")
    seen = ids != np.uint64(_NO_POINT)
    return _Picture(name, camera, numbers[:4], numbers[4:], table[seen, :2], ids[seen])


def _cameras(file: BinaryIO, binary: bool) -> dict[int, tuple[str, int, int, tuple[float, ...]]]:
    cameras = {}
    if binary:
        (count,) = struct.unpack("<Q", file.read(8))
        for _ in range(count):
            number, model, width, height = struct.unpack("<IiQQ", file.read(24))
            name, length = _CAMERAS[model]
            values = struct.unpack(f"<{length}d", file.read(8 * length))
            cameras[number] = (name, width, height, values)
        return cameras
    for line in _lines(file):
        words = line.split()
        parameters = tuple(map(float, words[4:]))
        if len(parameters) != _PARAMETERS[words[1]]:
            raise ValueError("wrong number of camera parameters")
        cameras[int(words[0])] = (words[1], int(words[2]), int(words[3]), parameters)
    return cameras


def _points(
    file: BinaryIO, binary: bool, wanted: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float64]]:
    """(ids, xyz, errors) of the `wanted` points, which are sorted."""
    chosen = set(wanted.tolist())
    ids: list[int] = []
    rows: list[tuple[float, ...]] = []
    if binary:
        end = _size(file)
        (count,) = struct.unpack("<Q", file.read(8))
        for _ in range(count):
            number, x, y, z, _, _, _, error, track = struct.unpack("<Q3d3BdQ", file.read(51))
            if number in chosen:
                ids.append(number)
                rows.append((x, y, z, error))
            if track > end // 8:
                raise ValueError("a longer track than the file holds")
            file.seek(8 * track, io.SEEK_CUR)
    else:
        for line in _lines(file):
            words = line.split(maxsplit=8)
            if int(words[0]) in chosen:
                ids.append(int(words[0]))
                rows.append((*map(float, words[1:4]), float(words[7])))
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return np.array(ids, np.uint64), table[:, :3], table[:, 3]


def _lines(file: BinaryIO, keep_empty: bool = False) -> Iterator[str]:
    while line := file.readline(_MAX_LINE):
        text = line.decode("utf-8").rstrip("\r\n")
        if not text.startswith("#") and (keep_empty or text.strip()):
            yield text


def _zero_ended(file: BinaryIO) -> str:
    name = bytearray()
    while (byte := file.read(1)) != b"\0":
        if not byte or len(name) > 4096:
            raise ValueError("a name without an end")
        name += byte
    return name.decode("utf-8")


def _size(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end


def _rotation(quaternion: tuple[float, ...]) -> NDArray[np.float64]:
    length = math.sqrt(sum(number * number for number in quaternion))
    if not 0 < length < math.inf:
        raise MarigoldError("The picture's pose in the COLMAP model has no rotation.")
    w, x, y, z = (number / length for number in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
