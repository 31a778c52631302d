"""The five evaluation sets of the paper (section 4.1, table 1), as the authors' lists name them.

`open_benchmark("nyuv2:ROOT")` needs ROOT to hold the extracted files and a list of them, a line
"picture depth [mask]" each. The authors' lists (in their repository under data_split/) are found
in ROOT under their own names; any other by "nyuv2:ROOT#LIST".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marigold_core.errors import MarigoldError
from marigold_core.images import open_picture, read_image

from .depth_arrays import read_values
from .kitti_crops import HEIGHT, WIDTH, benchmark_crop, evaluated_part
from .sample import DataError, Sample, SampleDataset, as_sample, read_list

ETH3D_SIZE = 4032, 6048


@dataclass(frozen=True)
class Protocol:
    """How a set is evaluated.

    lists: names of the authors' lists. count: pictures with truth there. depth_range: metres;
    truth outside it is invalid and predictions are clipped to it. per_metre: stored units.
    processing_resolution: of the longer side, 0 is the picture's own. crop: rows and columns that
    count. kitti: the part of a cropped KITTI frame that counts. fit_columns: see `metrics.fitted`.
    masked: validity is the third file of a line, not the range.
    """

    name: str
    lists: tuple[str, ...]
    count: int
    depth_range: tuple[float, float]
    per_metre: float
    processing_resolution: int
    crop: tuple[slice, slice] | None = None
    kitti: str | None = None
    fit_columns: int | None = None
    masked: bool = False


KITTI_LIST = ("eigen_test_files_with_gt.txt",)
PROTOCOLS = {
    "nyuv2": Protocol(
        "NYUv2",
        ("filename_list_test.txt",),
        654,
        (1e-3, 10.0),
        1000,
        0,
        crop=(slice(45, 471), slice(41, 601)),
    ),
    "kitti": Protocol("KITTI", KITTI_LIST, 652, (1e-5, 80.0), 256, 0, kitti="eigen"),
    "kitti-garg": Protocol(
        "KITTI (Garg crop)", KITTI_LIST, 652, (1e-5, 80.0), 256, 0, kitti="garg"
    ),
    # The authors mean to fit at 1024 pixels, but only the width shrinks (spec, section 5).
    "eth3d": Protocol(
        "ETH3D", ("eth3d_filename_list.txt",), 454, (1e-5, np.inf), 1, 756, fit_columns=1024
    ),
    "scannet": Protocol(
        "ScanNet", ("scannet_val_sampled_list_800_1.txt",), 800, (1e-3, 10.0), 1000, 0
    ),
    "diode": Protocol(
        "DIODE", ("diode_val_all_filename_list.txt",), 771, (0.6, 350.0), 1, 640, masked=True
    ),
}


class BenchmarkSet(SampleDataset):
    """An evaluation set, whole pictures at their own size (KITTI: the benchmark crop)."""

    def __init__(self, protocol: Protocol, root: str | Path, listed: str | Path | None = None):
        self.protocol, self.root = protocol, Path(root)
        if not self.root.is_dir():
            raise DataError(self.root, "there is no such folder.")
        found = [Path(listed)] if listed else [self.root / name for name in protocol.lists]
        file = next((f for f in found if f.is_file()), None)
        if file is None:
            raise DataError(
                found[0],
                "there is no such list; copy the authors' one there (their repository, under"
                f" data_split/), or name another as {protocol.name.lower()}:FOLDER#LIST.",
            )
        self.rows = read_list(file)
        if not self.rows:
            raise DataError(file, "the list names no picture with depth.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row, protocol = self.rows[index], self.protocol
        picture, depth = self.root / row[0], self.root / row[1]
        image = self._picture(picture)
        metres = self._depth(depth)
        low, high = protocol.depth_range
        with np.errstate(invalid="ignore"):
            valid = np.isfinite(metres) & (metres > low) & (metres < high)
        if protocol.masked:
            valid = self._mask(row, depth)
        if protocol.kitti:
            try:
                rows, columns = benchmark_crop(*metres.shape)
            except ValueError as error:
                raise DataError(depth, str(error)) from None
            image, metres, valid = image[rows, columns], metres[rows, columns], valid[rows, columns]
            valid = valid & evaluated_part(HEIGHT, WIDTH, protocol.kitti)
        if protocol.crop:
            counts = np.zeros(valid.shape, bool)
            counts[protocol.crop] = True
            valid = valid & counts
        return as_sample(image, metres, valid, row[0], depth)

    def name(self, index: int) -> str:
        return self.rows[index][0]

    def _picture(self, file: Path) -> NDArray[np.float32]:
        """(H, W, 3) as stored, to which the depth beside it is aligned: the authors' loader ignores
        EXIF rotation, which a camera may have written (ETH3D)."""
        try:
            return read_image(np.asarray(open_picture(file)))
        except MarigoldError as error:
            raise DataError(file, str(error)) from error

    def _depth(self, file: Path) -> NDArray[np.float32]:
        if self.protocol.name != "ETH3D":
            return (read_values(file) / self.protocol.per_metre).astype(np.float32)
        # Raw float32, row by row, under a picture's suffix (eth3d.net, documentation).
        count = ETH3D_SIZE[0] * ETH3D_SIZE[1]
        if not file.is_file() or file.stat().st_size != 4 * count:
            raise DataError(file, f"it is not {ETH3D_SIZE[1]} x {ETH3D_SIZE[0]} raw float32.")
        try:
            values = np.fromfile(file, "<f4", count)
        except OSError as error:
            raise DataError(file, f"it cannot be read ({error}).") from error
        return values.reshape(ETH3D_SIZE)

    def _mask(self, row: tuple[str, ...], depth: Path) -> NDArray[np.bool_]:
        if len(row) < 3:
            raise DataError(depth, "its line in the list names no mask.")
        return read_values(self.root / row[2]).astype(bool)


def is_benchmark(spec: str) -> bool:
    return spec.partition(":")[0] in PROTOCOLS


def open_benchmark(spec: str) -> BenchmarkSet:
    """spec: "nyuv2:ROOT" or "nyuv2:ROOT#LIST"; nyuv2, kitti, kitti-garg, eth3d, scannet, diode."""
    kind, _, where = spec.partition(":")
    if kind not in PROTOCOLS or not where:
        raise MarigoldError(f"There is no evaluation set {spec!r}; use {', '.join(PROTOCOLS)}.")
    root, _, listed = where.partition("#")
    return BenchmarkSet(PROTOCOLS[kind], root, listed or None)
