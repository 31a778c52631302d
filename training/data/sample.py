"""One training or test picture with its truth, whichever data set it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from marigold_core.errors import MarigoldError

# The depth of a pixel that has none. Normalised, it is near, as in the authors' Hypersim files.
HOLE = 0.0


class Sample(NamedTuple):
    """image: float32 (3, H, W), RGB in [0, 1]. depth: float32 (H, W), planar metres (or up to
    scale, where a folder's manifest says so). valid: bool (H, W), the pixels that count in a loss
    or a metric. name: the picture's, unique within its data set. maps: other truth, by its kind of
    `map_files.MAPS`: float32 (3, H, W) or (1, H, W), 0 where it is not known.

    Where `valid` is False, depth is what the file has, since it is in the picture that the VAE
    encodes: 655.35 m or infinity in the sky, which is far; 0 where nothing is known (`HOLE`), and
    everywhere in a sample that was read for its maps.
    """

    image: Tensor
    depth: Tensor
    valid: Tensor
    name: str
    maps: Mapping[str, Tensor] = {}


class DataError(MarigoldError):
    """A data set or one of its files that cannot be used; the message names the file."""

    def __init__(self, file: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = Path(file)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DataError], tuple[Path, str]]:
        # A DataLoader's worker sends its exception to the training process.
        return type(self), (self.file, self.reason)


class SampleDataset(Dataset[Sample]):
    """A data set of samples: `len`, and one sample by its number, the same every time.

    Raises DataError for a sample that cannot be read, and leaves the others usable.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The name of that sample without decoding it."""
        raise NotImplementedError


def as_sample(
    image: NDArray[np.floating[Any]],
    depth: NDArray[Any],
    valid: NDArray[np.bool_],
    name: str,
    file: str | os.PathLike[str],
) -> Sample:
    """Check and convert arrays: image (H, W, 3) in [0, 1], depth and valid (H, W).

    `file` is what a DataError names where they disagree. Non-finite and non-positive depth is
    never valid; NaN, 0 and below become `HOLE`, and infinity stays: it is far.
    """
    if image.shape[:2] != depth.shape or depth.shape != valid.shape:
        sizes = [" x ".join(map(str, a.shape[1::-1])) for a in (image, depth, valid)]
        raise DataError(
            file,
            "picture, depth and mask are of {}, {} and {} pixels, not of one size.".format(*sizes),
        )
    with np.errstate(invalid="ignore"):
        depth = np.where(depth > 0, depth, HOLE).astype(np.float32)  # NaN is not above 0
    valid = valid & np.isfinite(depth) & (depth > 0)
    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)
    return Sample(pixels.contiguous(), torch.from_numpy(depth), torch.from_numpy(valid), name)


def mapped_sample(
    image: NDArray[np.floating[Any]],
    maps: Mapping[str, Tensor],
    valid: NDArray[np.bool_] | None,
    name: str,
    file: str | os.PathLike[str],
) -> Sample:
    """A sample of maps without depth: image (H, W, 3), valid (H, W) or None for all pixels.

    Pixels where a map is not finite are not valid, and 0 there. Raises DataError, as `as_sample`.
    """
    height, width = image.shape[:2]
    sizes = {kind: tuple(values.shape[1:]) for kind, values in maps.items()}
    if valid is not None:
        sizes["mask"] = tuple(valid.shape)
    for kind, size in sizes.items():
        if size != (height, width):
            raise DataError(file, f"the picture is {width} x {height} pixels and its {kind} is "
                            f"{size[1]} x {size[0]}.")  # fmt: skip
    counts = torch.ones(height, width, dtype=torch.bool)
    if valid is not None:
        counts = torch.from_numpy(valid.copy())
    for values in maps.values():
        counts &= values.isfinite().all(0)
    known = {kind: values.nan_to_num(0.0, 0.0, 0.0) for kind, values in maps.items()}
    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)
    return Sample(pixels.contiguous(), torch.full((height, width), HOLE), counts, name, known)


def read_list(path: Path) -> list[tuple[str, ...]]:
    """Lines of "picture depth [mask]", relative paths, as the authors' lists have them.

    A line whose depth is "None" (KITTI frames without truth) is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"the list cannot be read ({error}).") from error
    rows = [tuple(line.split()) for line in lines if line.strip()]
    for row in rows:
        if len(row) < 2:
            raise DataError(path, f"a line names a picture and its depth, not {' '.join(row)!r}.")
    return [row for row in rows if row[1] != "None"]


def resized_shape(
    height: int, width: int, resolution: int | tuple[int, int] | None
) -> tuple[int, int]:
    """(H, W) of a sample at `resolution`: pixels of the longer side, (H, W), or None: as it is.

    A longer side keeps the proportions to the nearest multiple of 8 pixels, the latent's cell.
    """
    if resolution is None:
        return height, width
    if not isinstance(resolution, int):
        return resolution
    scale = resolution / max(height, width)
    return max(8, round(height * scale / 8) * 8), max(8, round(width * scale / 8) * 8)


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """To (H, W). The picture antialiased; depth and mask by the nearest pixel, as any average
    over an edge is a depth that nothing in the scene has. Maps are averaged over valid pixels, and
    normals brought to unit length again.

    (The authors resize the picture by the nearest pixel too, which aliases it: spec, section 3.)
    """
    if tuple(sample.depth.shape) == size:
        return sample
    image = F.interpolate(sample.image[None], size, mode="bilinear", antialias=True)[0]
    depth = F.interpolate(sample.depth[None, None], size, mode="nearest-exact")[0, 0]
    valid = F.interpolate(sample.valid[None, None].float(), size, mode="nearest-exact")[0, 0]
    maps = {kind: resize_values(kind, v, sample.valid, size) for kind, v in sample.maps.items()}
    return Sample(image.clamp(0, 1), depth, valid > 0, sample.name, maps)


def resize_values(kind: str, values: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) of a map to (C, *size); 0 where none of the pixels is valid."""

    def smaller(tensor: Tensor) -> Tensor:
        return F.interpolate(tensor[None], size, mode="bilinear", antialias=True)[0]

    weight = valid[None].float()
    mean = smaller(values * weight) / smaller(weight).clamp(min=1e-6)
    return F.normalize(mean, dim=0) if kind == "normals" else mean
