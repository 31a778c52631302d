"""Maps and pictures of them on disk; every file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .colormaps import colorize
from .errors import MarigoldError
from .files import atomic_path, open_regular
from .geometry.mesh import encode_png
from .images import check_size, open_picture

# The longest side that the format can hold.
_PICTURE_SIDES = {".png": 2**31 - 1, ".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
_EXR_CHANNELS = ("Y", "Z", "R")
_EXR_TYPES: dict[int, Any] = {0: np.uint32, 1: np.float16, 2: np.float32}


def write_picture(
    path: str | os.PathLike[str], picture: NDArray[Any], metadata: Mapping[str, str] | None = None
) -> None:
    """uint16 (H, W) or (H, W, 3) as 16-bit .png, or uint8 (H, W, 3) as .png, .jpg, .jpeg, .webp.

    metadata: name -> ASCII text, written as text chunks of a .png; other formats ignore it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _PICTURE_SIDES:
        raise MarigoldError(
            f"{path.name}: colour pictures are written as {', '.join(_PICTURE_SIDES)}."
        )
    if max(picture.shape[:2]) > _PICTURE_SIDES[suffix]:
        raise MarigoldError(
            f"{path.name}: {suffix} pictures have at most {_PICTURE_SIDES[suffix]} pixels a side;"
            " choose .png."
        )
    options: dict[str, Any] = {"quality": 95}
    if suffix == ".png":
        options = {"pnginfo": PngInfo()}
        for name, text in (metadata or {}).items():
            options["pnginfo"].add_text(name, text)
    with atomic_path(path) as temporary:
        if picture.dtype == np.uint16 and picture.ndim == 3:
            temporary.write_bytes(encode_png(picture, metadata))
        else:
            Image.fromarray(picture).save(temporary, **options)


def write_uncertainty(
    path: str | os.PathLike[str],
    uncertainty: NDArray[np.float32],
    mask: NDArray[np.bool_] | None = None,
    colormap: str | None = None,
    scale: float | None = None,
) -> float:
    """Write an uncertainty (H, W); returns the scale. See `DepthMap.save_uncertainty`."""
    if colormap is None and Path(path).suffix.lower() != ".png":
        write_array(path, uncertainty)
        return 1.0
    if scale is None:
        used = uncertainty if mask is None else uncertainty[mask]
        used = used[np.isfinite(used)]
        # Where all members agree everywhere, all is sure, whatever the scale.
        scale = float(np.percentile(used, 98) or used.max() or 1) if used.size else 1.0
    elif not 0 < scale < np.inf:
        raise MarigoldError(f"The uncertainty's scale is {scale}; it must be above 0.")
    shown = np.nan_to_num(uncertainty / scale, nan=1.0).clip(0, 1)
    write_picture(path, to_16_bit(shown) if colormap is None else colorize(shown, colormap))
    return scale


def to_16_bit(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """[0, 1] -> 0 to 65535, rounded."""
    return np.rint(values.astype(np.float64) * 65535).astype(np.uint16)


def write_array(
    path: str | os.PathLike[str],
    values: NDArray[np.float32],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """float32 (H, W), bit for bit, as .tif, .tiff, .exr (channel Y) or .npy.

    metadata: name -> ASCII text, written as attributes of an .exr; other formats ignore it.

    Raises MarigoldError for another suffix and where OpenEXR is missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    values = np.ascontiguousarray(values, dtype=np.float32)
    if suffix in (".tif", ".tiff"):
        with atomic_path(path) as temporary:
            Image.fromarray(values).save(temporary, compression="tiff_adobe_deflate")
    elif suffix == ".exr":
        write_exr(path, {"Y": values}, metadata)
    elif suffix == ".npy":
        write_npy(path, values)
    else:
        raise MarigoldError(
            f"{path.name}: depth is written as .png (16-bit), .tif, .tiff, .exr or .npy (float32);"
            " 8-bit pictures (.png, .jpg, .jpeg, .webp) take a colour map."
        )


def write_exr(
    path: str | os.PathLike[str],
    channels: Mapping[str, NDArray[np.float32]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """float32 (H, W), or (H, W, 3) for three channels R, G, B, by name: one OpenEXR file.

    A name with a dot is of a layer ("albedo.R"). metadata: name -> ASCII text, written as
    attributes. Raises MarigoldError where OpenEXR is missing.
    """
    openexr = _openexr()
    header = {
        **(metadata or {}),
        "compression": openexr.ZIP_COMPRESSION,
        "type": openexr.scanlineimage,
    }
    stored = {name: np.ascontiguousarray(v, dtype=np.float32) for name, v in channels.items()}
    with atomic_path(path) as temporary:
        openexr.File(header, stored).write(str(temporary))


def write_npy(path: str | os.PathLike[str], values: NDArray[np.float32]) -> None:
    """A float32 array of any shape as .npy."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def read_array(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """What the writers wrote, except colours, as float32 (H, W); integers are scaled to [0, 1]."""
    path = Path(path)
    if not path.is_file():
        raise MarigoldError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(path)
    if suffix == ".exr":
        return _read_exr(path)
    if suffix not in (".png", ".tif", ".tiff"):
        raise MarigoldError(f"{path.name}: depth is read from .png, .tif, .tiff, .exr or .npy.")
    image = open_picture(path)
    if image.mode == "F":
        return np.array(image)
    full_scale = {"L": 255, "I;16": 65535, "I;16B": 65535, "I": 65535}.get(image.mode)
    values = np.asarray(image)
    if full_scale is None or values.min() < 0 or values.max() > full_scale:
        raise MarigoldError(
            f"{path.name} is not a depth map: a grey picture of 8 or 16 bits, or a float TIFF"
            f" (its mode is {image.mode})."
        )
    return values.astype(np.float32) / np.float32(full_scale)


def _read_npy(path: Path) -> NDArray[np.float32]:
    try:
        with open_regular(path) as file:
            # NumPy would also open zip archives, and pickles.
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("another format")
        # Mapped, a shape that the file does not have is an error, before any memory is taken.
        values = np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # ValueError, EOFError, SyntaxError: all mean a broken file.
        raise MarigoldError(f"{path.name} cannot be read as a NumPy array.") from error
    if values.ndim != 2 or values.dtype.kind != "f":
        raise MarigoldError(f"{path.name} is not a depth map: a float array of shape (H, W).")
    check_size(path.name, *values.shape)
    return np.array(values, dtype=np.float32)


def _read_exr(path: Path) -> NDArray[np.float32]:
    """One channel of the first part: the others are not decompressed."""
    openexr = _openexr()
    try:
        open_regular(path).close()
        header = openexr.File(str(path), header_only=True).header()
        (left, top), (right, bottom) = (corner.tolist() for corner in header["dataWindow"])
        names = [channel.name for channel in header["channels"]]
    except MarigoldError:
        raise
    except Exception as error:  # RuntimeError for another format, ValueError for a torn file.
        raise MarigoldError(f"{path.name} cannot be read as OpenEXR; it may be broken.") from error
    if header["type"] in (openexr.deepscanline, openexr.deeptile):
        raise MarigoldError(
            f"{path.name} is a deep EXR, with any number of depths a pixel; flatten it to one depth"
            " a pixel first (in Nuke: DeepToImage)."
        )
    wanted = [name for name in _EXR_CHANNELS if name in names]
    if not wanted:
        shown = ", ".join(names[:8]) + (" and more" if len(names) > 8 else "")
        raise MarigoldError(f"{path.name} has the channels {shown}; depth is read from Y, Z or R.")
    size = bottom - top + 1, right - left + 1
    check_size(path.name, *size)
    try:
        file = openexr.InputFile(str(path))
        kind = _EXR_TYPES[file.header()["channels"][wanted[0]].type.v]
        values = np.frombuffer(file.channel(wanted[0]), kind).reshape(size)
    except Exception as error:
        raise MarigoldError(f"{path.name} cannot be read as OpenEXR; it may be broken.") from error
    return values.astype(np.float32)


def _openexr() -> Any:
    try:
        import OpenEXR
    except ImportError:
        raise MarigoldError(
            "EXR files need the OpenEXR package (pip install OpenEXR); .tif and .npy hold the same"
            " numbers without it."
        ) from None
    return OpenEXR
