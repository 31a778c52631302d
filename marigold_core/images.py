"""Pictures of any kind -> float32 arrays (H, W, 3) in [0, 1].

Colours are taken as stored: ICC profiles are not applied, as the checkpoints were trained on
pictures read in the same way.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import MarigoldError

# What the command line picks from a folder; read_image opens whatever else Pillow can.
PICTURE_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jfif .webp .avif .tif .tiff .bmp .gif .jp2 .tga .ppm .pgm .pnm".split()
)
MAX_PIXELS = 200_000_000

# Resampling overshoots: bicubic and Lanczos reach some tenths beyond the range at hard edges.
_OVERSHOOT = 0.5
# EXIF tag 0x0112: how to turn the stored picture upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EXIF's numbers about the lens, by the names that Pillow and the standard give them.
_LENS_TAGS = (
    ExifTags.Base.FocalLength,
    ExifTags.Base.FocalLengthIn35mmFilm,
    ExifTags.Base.FocalPlaneXResolution,
    ExifTags.Base.FocalPlaneResolutionUnit,
    ExifTags.Base.ExifImageWidth,
    ExifTags.Base.ExifImageHeight,
)
_pillow_limit = threading.Lock()


def read_image(source: Any) -> NDArray[np.float32]:
    """A picture -> float32 (H, W, 3), RGB in [0, 1], a fresh array.

    source: a path; a PIL image of any mode; a numpy array (H, W) or (H, W, C), C = 1 grey,
    2 grey and alpha, 3 RGB, 4 RGBA; or a torch tensor (H, W) or (C, H, W). Arrays are uint8,
    uint16, bool, or float in [0, 1].

    EXIF rotation is applied. 16-bit grey keeps its 65,536 levels (Pillow itself reduces 16-bit
    RGB to 8). Of an animation the first frame is read. Transparency is laid over white: the
    colours below alpha 0 are whatever the program left there, and white is what a page shows.
    Floats up to 0.5 outside [0, 1] (resampling overshoot) are clipped.

    Raises MarigoldError for anything missing, broken, empty, non-finite, out of range, of
    another shape, or over 200 megapixels.
    """
    pixels = _unit_range(_samples(source))
    if pixels.shape[2] in (2, 4):
        colour, alpha = pixels[..., :-1], pixels[..., -1:]
        colour -= 1
        colour *= alpha
        colour += 1
        pixels = colour
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def read_mask(source: Any) -> NDArray[np.bool_]:
    """A picture or array, as for `read_image` -> bool (H, W), True = use this pixel.

    A pixel is used where the mean of its colour channels is above 0.5; transparency is ignored.
    Integer masks that hold nothing but 0 and 1 are taken as labels, not as nearly black.
    Raises MarigoldError as `read_image` does.
    """
    samples = _samples(source)
    if samples.shape[2] in (2, 4):
        samples = samples[..., :-1]
    if samples.dtype.kind == "u" and samples.max() <= 1:
        samples = samples.astype(bool)
    return np.asarray(_unit_range(samples).mean(axis=2) > 0.5)


def read_exif(path: str | os.PathLike[str]) -> dict[str, float]:
    """A picture file's EXIF numbers about the lens, by name, for `geometry.field_of_view`.

    Only those that are there and finite; empty for a file without EXIF, or with damaged EXIF, or
    that is no picture: the field of view then has another source. Pixels are not decoded.
    """
    found: dict[str, float] = {}
    try:
        with Path(path).open("rb") as handle, _limit_lifted(), Image.open(handle) as image:
            exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
    except Exception:  # Anything from OSError to struct.error: no EXIF that can be used.
        return found
    for tag in _LENS_TAGS:
        try:
            value = float(exif[tag])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            continue
        if np.isfinite(value):
            found[tag.name] = value
    return found


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The decoded first frame of a picture file, as Pillow gives it: any mode, not yet upright.

    Raises MarigoldError, with the file's name, where it is missing, a folder, not a picture,
    broken, or over 200 megapixels.
    """
    file = Path(path)
    name = file.name or str(file)
    if file.is_dir():
        raise MarigoldError(f"{file} is a folder; give a picture file.")
    try:
        # From a handle, as Pillow maps a plain TIFF that it opens by name into memory, where it
        # mixes up width and height if the picture is to be turned.
        with file.open("rb") as handle:
            with _limit_lifted():
                image = Image.open(handle)
            _check_size(name, image.height, image.width)
            # TIFF asks again as it decodes. Smaller pictures need not wait for one another.
            large = image.height * image.width > 80_000_000
            with _limit_lifted() if large else nullcontext():
                image.load()
    except MarigoldError:
        raise
    except FileNotFoundError:
        raise MarigoldError(f"There is no file {file}.") from None
    except UnidentifiedImageError:
        raise MarigoldError(
            f"{name} is not a picture that can be read; convert it to 8-bit RGB or 16-bit grey"
            " PNG or TIFF, or to JPEG."
        ) from None
    except Exception as error:  # Broken files raise anything, from OSError to struct.error.
        reason = getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__
        raise MarigoldError(f"{name} cannot be read: {reason}.") from error
    return image


@contextmanager
def _limit_lifted() -> Iterator[None]:
    """Without Pillow's own limit, a global: it takes 90 megapixels for an attack, warns, and
    refuses 179. One thread at a time, so that none keeps it lifted."""
    with _pillow_limit:
        previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = previous


def _samples(source: Any) -> NDArray[Any]:
    """Any source -> (H, W, C) uint8, uint16, bool or float, C in 1..4, alpha last and straight."""
    name = "The picture"
    if isinstance(source, (str, os.PathLike)):
        name = Path(source).name
        source = open_picture(source)
    if isinstance(source, Image.Image):
        _check_size(name, source.height, source.width)
        samples = _from_pillow(source, name)
    elif hasattr(source, "detach"):
        samples = _from_tensor(source)
    elif isinstance(source, np.ndarray):
        samples = source
        if samples.ndim == 3 and samples.shape[2] not in (1, 2, 3, 4) and samples.shape[0] <= 4:
            raise MarigoldError(
                f"The picture's shape is {samples.shape}; numpy pictures are (H, W, C), so"
                " transpose it with array.transpose(1, 2, 0)."
            )
    else:
        raise MarigoldError(
            "A picture is a path, a PIL image, a numpy array or a torch tensor, not"
            f" {type(source).__name__}; give several one at a time."
        )

    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4):
        raise MarigoldError(
            f"{name} has shape {samples.shape}; one picture is (H, W) or (H, W, C) with 1 to 4"
            " channels, (C, H, W) as a tensor."
        )
    _check_size(name, *samples.shape[:2])
    if samples.dtype.kind == "f":
        _check_floats(samples, name)
    elif samples.dtype not in (np.uint8, np.uint16, np.bool_):
        raise MarigoldError(
            f"{name} is of type {samples.dtype}; convert it to uint8, uint16, or float in [0, 1]."
        )
    return samples


def _unit_range(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Full scale -> 1.0; a fresh array. Divided in float32, which holds all 16-bit levels apart."""
    pixels = samples.astype(np.float32)
    if samples.dtype.kind == "u":
        pixels /= np.float32(np.iinfo(samples.dtype).max)
    elif samples.dtype.kind == "f":
        np.clip(pixels, 0, 1, out=pixels)
    return pixels


def _from_pillow(image: Image.Image, name: str) -> NDArray[Any]:
    try:
        image.load()
        image = _upright(image)
        if image.mode == "F":
            return np.asarray(image)
        if image.mode.startswith("I"):
            return _deep_grey(image, name)
        if image.mode == "La":
            image = image.convert("LA")
        if image.has_transparency_data:
            return np.asarray(image.convert("RGBA"))
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except MarigoldError:
        raise
    except Exception as error:  # A PIL image decodes lazily, so a broken file can surface here.
        raise MarigoldError(f"{name} cannot be decoded: {str(error).rstrip('.')}.") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # Damaged EXIF is no reason to refuse a sound picture.
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _deep_grey(image: Image.Image, name: str) -> NDArray[np.uint16]:
    """Modes I;16, I;16B and the like, and I, as which Pillow reads 16-bit PGM and 32-bit TIFF."""
    grey = np.asarray(image)
    if grey.size and (grey.min() < 0 or grey.max() > 65535):
        raise MarigoldError(
            f"{name} holds integers from {grey.min()} to {grey.max()}; 16-bit grey is 0 to 65535,"
            " so convert it, or pass it as a float array in [0, 1]."
        )
    grey = grey.astype(np.uint16)
    # PNG's tRNS chunk: one grey level that counts as see-through, hence white here.
    if (transparent := image.info.get("transparency")) is not None:
        grey[grey == transparent] = 65535
    return grey


def _from_tensor(tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy knows no bfloat16
    array: NDArray[Any] = tensor.numpy()
    if array.ndim != 3:
        return array
    if array.shape[0] not in (1, 2, 3, 4):
        raise MarigoldError(
            f"The picture's shape is {array.shape}; tensor pictures are (C, H, W), so reorder it"
            " with tensor.permute(2, 0, 1)."
        )
    return array.transpose(1, 2, 0)


def _check_size(name: str, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise MarigoldError(f"{name} is empty: {width}x{height} pixels.")
    if height * width > MAX_PIXELS:
        raise MarigoldError(
            f"{name} has {width}x{height} = {height * width / 1e6:.0f} megapixels, more than the"
            f" {MAX_PIXELS // 10**6} allowed; make it smaller first."
        )


def _check_floats(samples: NDArray[np.floating[Any]], name: str) -> None:
    lowest, highest = float(samples.min()), float(samples.max())
    if not np.isfinite([lowest, highest]).all():
        raise MarigoldError(f"{name} has values that are NaN or infinite; replace them first.")
    if lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT:
        return
    if lowest >= -1 - _OVERSHOOT and highest <= 1 + _OVERSHOOT:
        remedy = "add 1 and divide by 2 if it was scaled to [-1, 1]"
    elif lowest < -_OVERSHOOT * 255 or highest > 65535 * 1.5:
        remedy = "subtract its minimum and divide by its range"
    else:
        full_scales = [scale for scale in (255, 65535) if scale / 16 < highest <= scale * 1.5]
        remedy = f"divide by {full_scales[0] if full_scales else highest:g}"
    raise MarigoldError(
        f"{name} has values from {lowest:g} to {highest:g}; float pictures are in [0, 1], so"
        f" {remedy}."
    )
