"""Pictures of any kind -> float32 arrays (H, W, 3) in [0, 1], within a budget.

Colours are taken as stored: ICC profiles are not applied, as the checkpoints were trained on
pictures read in the same way.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import MarigoldError
from .files import open_regular

# Pillow's formats that are read, and their suffixes. Its others include PostScript, for which it
# starts Ghostscript. TGA is last: it has no signature to know it by.
FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm", ".pnm"),
    "TGA": (".tga",),
}
PICTURE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# The budget of one picture, whatever its format. The largest cameras have 151 megapixels; decoded,
# at most 4 bytes a pixel, which is what Pillow's modes take.
MAX_PIXELS = 160_000_000
MAX_FILE_BYTES = 2**31
# Of decoders whose time is not bounded by the number of pixels; see `_needs_time_limit`.
MAX_SECONDS = 60
MAX_DECODER_BYTES = 2**32

# Resampling overshoots: bicubic and Lanczos reach some tenths beyond the range at hard edges.
_OVERSHOOT = 0.5
# Pixels that are converted at once: the temporary arrays stay small.
_BLOCK_PIXELS = 2**20
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
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# Scans times pixels: what takes a few seconds. Ten scans are usual.
_MOST_SCANNED = 3_000_000_000
# FF is followed by 00 in a scan's data, and by D0 to D7 between its parts.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
# Reads a picture from standard input; writes "MODE WIDTH HEIGHT ORIENTATION PIXELS".
_DECODER = """
import sys
from PIL import Image
try:
    import resource
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
except (ImportError, ValueError, OSError):
    pass
Image.MAX_IMAGE_PIXELS = None
try:
    image = Image.open(sys.stdin.buffer, formats=["JPEG" if sys.argv[1] == "MPO" else sys.argv[1]])
    image.load()
    try:
        turn = int(image.getexif().get(0x0112, 1))
    except Exception:
        turn = 1
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    facts = f"{image.mode} {image.width} {image.height} {turn} "
    sys.stdout.buffer.write(facts.encode() + image.tobytes())
except MemoryError:
    sys.exit("there is not enough memory")
except Exception as error:
    sys.exit(str(error) or type(error).__name__)
"""
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

    Files are PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, JPEG 2000, PPM or TGA. Memory: 12 bytes a
    pixel for the result, and up to 8 more while a file is decoded.

    Raises MarigoldError for anything missing, broken, empty, non-finite, out of range, of
    another shape, or over 160 megapixels.
    """
    return _unit_rgb(_samples(source))


def read_samples(source: Any) -> NDArray[Any]:
    """A picture as `read_image` reads it, RGB (H, W, 3), but in the type that it is stored in.

    uint8 or uint16 where full scale is 255 or 65535, else float32 in [0, 1]: a quarter of the
    memory for a photograph that is only resized. May be the caller's own array; do not change it.
    """
    samples = _samples(source)
    if samples.dtype.kind == "u" and samples.shape[2] in (1, 3):
        return np.broadcast_to(samples, (*samples.shape[:2], 3))
    ready = samples.dtype == np.float32 and samples.shape[2] == 3
    if ready and samples.min() >= 0 and samples.max() <= 1:
        return samples
    return _unit_rgb(samples)


def _unit_rgb(samples: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, C) of any stored type -> float32 (H, W, 3) in [0, 1], a fresh array."""
    height, width, channels = samples.shape
    picture = np.empty((height, width, 3), dtype=np.float32)
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        pixels = unit_range(samples[top : top + rows])
        if channels in (2, 4):
            pixels, alpha = pixels[..., :-1], pixels[..., -1:]
            pixels -= 1
            pixels *= alpha
            pixels += 1
        picture[top : top + rows] = pixels
    return picture


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
    return np.asarray(unit_range(samples).mean(axis=2) > 0.5)


def read_exif(path: str | os.PathLike[str]) -> dict[str, float]:
    """A picture file's EXIF numbers about the lens, by name, for `geometry.field_of_view`.

    Only those that are there and finite; empty for a file without EXIF, or with damaged EXIF, or
    that is no picture: the field of view then has another source. Pixels are not decoded.
    """
    found: dict[str, float] = {}
    try:
        with open_regular(Path(path)) as handle, _limit_lifted():
            with Image.open(handle, formats=tuple(FORMATS)) as image:
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
    broken, over 160 megapixels, or takes longer than a minute.
    """
    file = Path(path)
    name = file.name or str(file)
    if file.is_dir():
        raise MarigoldError(f"{file} is a folder; give a picture file.")
    try:
        # From a handle, as Pillow maps a plain TIFF that it opens by name into memory, where it
        # mixes up width and height if the picture is to be turned.
        with open_regular(file) as handle:
            if handle.seek(0, os.SEEK_END) > MAX_FILE_BYTES:
                raise MarigoldError(f"{name} is larger than 2 GB; save it again as PNG.")
            handle.seek(0)
            with _limit_lifted():
                image = Image.open(handle, formats=tuple(FORMATS))
            check_size(name, image.height, image.width)
            _check_tiles(name, image)
            if _needs_time_limit(image, handle):
                return _decoded_apart(name, image.format, handle)
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
        raise MarigoldError(f"{name} cannot be read: {_reason(error)}.") from error
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__


def _check_tiles(name: str, image: Image.Image) -> None:
    """libtiff takes the memory of a whole tile, however small the picture is."""
    tags = getattr(image, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
    if not all(isinstance(side, int) and side >= 0 for side in (width, length)):
        raise MarigoldError(f"{name} has damaged tile sizes; save it again.")
    if width * length > max(4 * image.width * image.height, 2**20):
        raise MarigoldError(
            f"{name} has tiles of {width}x{length} pixels, larger than itself; save it again."
        )


def _needs_time_limit(image: Image.Image, handle: BinaryIO) -> bool:
    """Whether decoding may take far longer than the number of pixels suggests.

    A progressive JPEG may go over all its pixels once for every few bytes, inside TIFF as well; in
    JPEG 2000, layers and code blocks cost time and memory of their own.
    """
    decoders = {tile[0] for tile in getattr(image, "tile", [])}
    if decoders & {"ppm_plain", "bmp_rle"}:  # written in Python
        return image.width * image.height > 2**22
    if image.format == "TIFF":
        return "jpeg" in str(image.info.get("compression"))
    if image.format in ("JPEG", "MPO"):
        handle.seek(0)
        return _jpeg_scans(handle.read()) * image.width * image.height > _MOST_SCANNED
    return image.format == "JPEG2000"


def _jpeg_scans(data: bytes) -> int:
    """How many scans the first picture of a JPEG file has."""
    scans, at = 0, 2
    while (found := _JPEG_MARKER.search(data, at)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        # A segment has its length; a scan's data, which has none, follows its segment.
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        at = found.end() + length
    return scans


def _decoded_apart(name: str, kind: str | None, handle: BinaryIO) -> Image.Image:
    """The picture, decoded by a process that is ended when it takes too long or too much."""
    handle.seek(0)
    # -I: modules from where Pillow is installed alone, not from the folder the user is in.
    command = [sys.executable, "-I", "-c", _DECODER, str(kind), str(MAX_DECODER_BYTES)]
    try:
        done = subprocess.run(command, stdin=handle, capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise MarigoldError(
            f"{name} takes longer than {MAX_SECONDS} seconds to decode; save it again as PNG."
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise MarigoldError(f"{name} cannot be decoded: {said[-1].rstrip('.')}.")
    mode, width, height, turn, pixels = done.stdout.split(b" ", 4)
    image = Image.frombytes(mode.decode(), (int(width), int(height)), pixels)
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = int(turn)
    image.info["exif"] = exif.tobytes()
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
        check_size(name, source.height, source.width)
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
    check_size(name, *samples.shape[:2])
    if samples.dtype.kind == "f":
        _check_floats(samples, name)
    elif samples.dtype not in (np.uint8, np.uint16, np.bool_):
        raise MarigoldError(
            f"{name} is of type {samples.dtype}; convert it to uint8, uint16, or float in [0, 1]."
        )
    return samples


def unit_range(samples: NDArray[Any]) -> NDArray[np.float32]:
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
        raise MarigoldError(f"{name} cannot be decoded: {_reason(error)}.") from error


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


def check_size(name: str, height: int, width: int) -> None:
    """Raise MarigoldError for a picture without pixels, or with more than MAX_PIXELS."""
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
    else:
        full_scales = [
            scale
            for scale in (255, 65535)
            if scale / 16 < highest <= scale * 1.5 and lowest >= -_OVERSHOOT * scale
        ]
        if full_scales:
            remedy = f"divide by {full_scales[0]}"
        elif lowest < -_OVERSHOOT or highest > 65535:
            remedy = "subtract its minimum and divide by its range"
        else:
            remedy = f"divide by {highest:g}"
    raise MarigoldError(
        f"{name} has values from {lowest:g} to {highest:g}; float pictures are in [0, 1], so"
        f" {remedy}."
    )
