"""Depth files of any data set as the numbers they hold, without units."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marigold_core.depth_files import read_array
from marigold_core.errors import MarigoldError
from marigold_core.images import MAX_PIXELS, open_picture, read_image

from .sample import DataError

SUFFIXES = (".png", ".tif", ".tiff", ".exr", ".npy", ".npz", ".pfm", ".hdf5", ".h5")
# Of one array, as of one picture.
MOST_VALUES = MAX_PIXELS


def read_values(path: Path, key: str | None = None) -> NDArray[Any]:
    """(H, W) numbers as stored, with the file's own dtype.

    .png, .tif: grey, integers unscaled. .exr: channel Y, Z or R. .npy; .npz and .hdf5: the array
    `key`, or the only one there. .pfm. Raises DataError that names the file.
    """
    if not path.is_file():
        raise DataError(path, "there is no such file.")
    suffix = path.suffix.lower()
    try:
        if suffix in (".npz", ".pfm"):
            _check_budget(path, path.stat().st_size // 4)
        if suffix == ".npy":
            values = _read_npy(path)
        elif suffix == ".npz":
            values = _from_archive(path, key)
        elif suffix in (".hdf5", ".h5"):
            values = read_hdf5(path, key)
        elif suffix == ".exr":
            values = read_array(path)
        elif suffix == ".pfm":
            values = _read_pfm(path)
        elif suffix in SUFFIXES:
            values = np.asarray(open_picture(path))
        else:
            raise DataError(path, f"depth is read from {', '.join(SUFFIXES)}.")
    except DataError:
        raise
    except MarigoldError as error:
        raise DataError(path, str(error)) from error
    except Exception as error:  # A broken file raises anything: OSError, ValueError, zlib's own.
        raise DataError(path, f"it cannot be read; it may be broken ({error}).") from error
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fui" or not values.size:
        raise DataError(path, f"it holds {values.dtype} {values.shape}, not numbers (H, W).")
    return values


def read_hdf5(path: Path, key: str | None = "dataset") -> NDArray[Any]:
    """One array of an HDF5 file. Raises DataError where the file, the key or h5py is missing."""
    try:
        import h5py
    except ImportError:
        raise DataError(path, "HDF5 files need the h5py package (pip install h5py).") from None
    if not path.is_file():
        raise DataError(path, "there is no such file.")
    try:
        with h5py.File(path, "r") as file:
            stored = file[_only(path, list(file), key)]
            _check_budget(path, stored.size)
            return np.asarray(stored)
    except DataError:
        raise
    except Exception as error:
        raise DataError(path, f"it cannot be read; it may be broken ({error}).") from error


def read_picture(path: Path) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1] by `read_image`, with DataError for what goes wrong."""
    try:
        return read_image(path)
    except MarigoldError as error:
        raise DataError(path, str(error)) from error


def _read_npy(path: Path) -> NDArray[Any]:
    # Mapped: a header that promises more than the file holds takes no memory.
    stored = np.lib.format.open_memmap(path, mode="r")
    _check_budget(path, stored.size)
    return np.asarray(stored)


def _from_archive(path: Path, key: str | None) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        name = _only(path, archive.files, key)
        # What the archive says that it unpacks to: zipfile reads no more than that.
        _check_budget(path, archive.zip.getinfo(f"{name}.npy").file_size // 8)
        return np.asarray(archive[name])


def _check_budget(path: Path, values: int) -> None:
    if values > MOST_VALUES:
        raise DataError(path, f"it holds {values} values; a picture has {MOST_VALUES} at most.")


def _only(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        raise DataError(path, f"it holds {', '.join(names)}; name one of them, not {key!r}.")
    return key


def _read_pfm(path: Path) -> NDArray[np.float32]:
    """Portable float map: rows from the bottom up; a negative scale means little-endian."""
    data = path.read_bytes()
    header = re.match(rb"Pf\s+(?:#[^\n]*\n)*(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)[ \t\r]*\n", data)
    if header is None:
        raise DataError(path, "it is not a grey PFM file.")
    width, height = int(header[1]), int(header[2])
    order = "<f4" if float(header[3]) < 0 else ">f4"
    pixels = np.frombuffer(data, order, width * height, header.end())
    return np.flipud(pixels.reshape(height, width)).astype(np.float32)
