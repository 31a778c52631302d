"""Files of normals and intrinsic images, as tensors: what else a sample can have beside depth.

Colours (albedo, base_colour, shading, residual): EXR with R, G, B and NPY hold linear light;
pictures (PNG, JPEG, ...) have the curve of sRGB. Grey maps (roughness, metallicity) are data, never
curved: pictures in [0, 1], EXR (Y, V or R), NPY, TIFF. This is what `IntrinsicImages.save_map`,
`render_dataset.py` and texture sets have.

Normals: the camera's x right, y up, z towards the viewer, as `marigold normals` writes them: EXR
with R, G, B, NPY (H, W, 3), or a picture of (n + 1) / 2. EXR with X, Y, Z, as `render_dataset.py`
writes them, has OpenCV's axes instead: y down, z away. `normals_y: "down"` in a manifest is
DirectX's sign of y. Vectors that are not near length 1 (zeros: nothing is known) do not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marigold_core.images import PICTURE_SUFFIXES
from marigold_core.intrinsics import srgb_to_linear

from .depth_arrays import MOST_VALUES, read_hdf5, read_picture, read_values
from .sample import DataError

COLOURS = ("albedo", "base_colour", "shading", "residual")
GREYS = ("roughness", "metallicity")
MAPS = ("normals", *COLOURS, *GREYS)
# Files of normals may have 8 bits; zeros and blurred edges are further from length 1.
LENGTHS = 0.9, 1.1


def read_map(kind: str, path: Path, normals_y: str = "up") -> Tensor:
    """float32 (3, H, W), or (1, H, W) for a grey map; NaN where nothing is known.

    kind: one of MAPS. Colours in linear light; normals of unit length in the axes above. Raises
    DataError that names the file.
    """
    if kind in GREYS:
        values = read_grey(path)[None]
    else:
        array = read_normals(path, normals_y) if kind == "normals" else read_colours(path)
        values = np.moveaxis(array, 2, 0)
    return torch.from_numpy(np.array(values, np.float32, order="C"))


def read_grey(path: Path) -> NDArray[Any]:
    if path.suffix.lower() == ".exr":
        return read_exr(path, ("Y", "V", "R"))[0][..., 0]
    values = read_values(path)
    if values.dtype.kind == "f":
        return values
    # A 16-bit PNG can be in 32-bit integers once it is read.
    return values / (255 if values.dtype.itemsize == 1 else 65535)


def read_colours(path: Path) -> NDArray[Any]:
    """(H, W, 3), linear."""
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return srgb_to_linear(read_picture(path))
    return read_triples(path, ("RGB",))[0]


def read_normals(path: Path, normals_y: str = "up") -> NDArray[Any]:
    """(H, W, 3) of unit length, NaN where there is none."""
    axes = np.array([1, -1 if normals_y == "down" else 1, 1], np.float32)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        normals = read_picture(path) * 2 - 1
    else:
        normals, channels = read_triples(path, ("RGB", "XYZ"))
        if channels == "XYZ":
            axes = np.array([1, -1, -1], np.float32)
    return unit_or_nan(normals) * axes


def unit_or_nan(normals: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3) at unit length; NaN where the length is not near 1."""
    length = np.linalg.norm(normals.astype(np.float32), axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        known = (length > LENGTHS[0]) & (length < LENGTHS[1])
        return np.where(known, normals / length, np.nan).astype(np.float32)


def read_triples(path: Path, layouts: tuple[str, ...]) -> tuple[NDArray[Any], str]:
    """(H, W, 3) floats of .exr, .npy or .hdf5; and which of the channel layouts an .exr has."""
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return read_exr(path, layouts)
    if suffix == ".npy":
        values = read_npy(path)
    elif suffix in (".hdf5", ".h5"):
        values = read_hdf5(path)
    else:
        raise DataError(path, "such a map is read from a picture, .exr, .npy or .hdf5.")
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype.kind != "f":
        raise DataError(path, f"it holds {values.dtype} {values.shape}, not floats (H, W, 3).")
    return values, layouts[0]


def read_npy(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(path, "there is no such file.")
    try:
        # Mapped: a header that promises more than the file holds takes no memory.
        stored = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # ValueError, EOFError, SyntaxError: all mean a broken file.
        raise DataError(path, f"it cannot be read; it may be broken ({error}).") from error
    check_values(path, stored.size)
    return np.asarray(stored)


def read_exr(path: Path, layouts: tuple[str, ...]) -> tuple[NDArray[np.float32], str]:
    """(H, W, C) of the first layout, a letter a channel, that the file has; and the layout."""
    if not path.is_file():
        raise DataError(path, "there is no such file.")
    try:
        import OpenEXR
    except ImportError:
        raise DataError(path, "EXR files need OpenEXR (pip install OpenEXR).") from None
    try:
        header = OpenEXR.File(str(path), header_only=True).header()
        (left, top), (right, bottom) = (corner.tolist() for corner in header["dataWindow"])
        names = [channel.name for channel in header["channels"]]
        layout = next((one for one in layouts if set(one) <= set(names)), None)
        if layout is None:
            raise DataError(path, f"it has the channels {', '.join(names)}, not {layouts[0]}.")
        check_values(path, (right - left + 1) * (bottom - top + 1) * len(names))
        with OpenEXR.File(str(path), separate_channels=True) as opened:
            channels = opened.channels()
            planes = [np.asarray(channels[name].pixels, np.float32) for name in layout]
    except DataError:
        raise
    except Exception as error:  # RuntimeError for another format, ValueError for a torn file
        raise DataError(path, f"it cannot be read; it may be broken ({error}).") from error
    return np.stack(planes, 2), layout


def check_values(path: Path, count: int) -> None:
    if count > 16 * MOST_VALUES:
        raise DataError(path, f"it holds {count} values; a picture has {MOST_VALUES} pixels.")
