"""The evaluation sets of normals, in the layouts and lists of Marigold's authors.

`open_normals("nyuv2:ROOT")` needs ROOT to hold the extracted files and the authors' list of them
(in their repository under data_split/, such as nyu_normals/nyuv2_test.txt), a line
"picture normals" each; any other list by "nyuv2:ROOT#LIST". Normals are .npy, float (H, W, 3), x
right, y up, z towards the viewer; a zero vector does not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from marigold_core.errors import MarigoldError
from marigold_core.images import open_picture, read_image

from .map_files import read_triples
from .sample import DataError, Sample, SampleDataset, mapped_sample, read_list


class NormalsProtocol(NamedTuple):
    """listed: the authors' list. pictures: how many are in it. processing_resolution: of the longer
    side. The authors run 4 steps and 10 members."""

    name: str
    listed: str
    pictures: int
    processing_resolution: int


NORMALS_PROTOCOLS = {
    "nyuv2": NormalsProtocol("NYUv2", "nyuv2_test.txt", 654, 640),
    "scannet": NormalsProtocol("ScanNet", "scannet_test.txt", 300, 640),
    "ibims": NormalsProtocol("iBims-1", "ibims_test.txt", 100, 640),
    "diode": NormalsProtocol("DIODE", "diode_test.txt", 771, 768),
    "oasis": NormalsProtocol("OASIS", "oasis_test.txt", 9999, 768),
}


class NormalsSet(SampleDataset):
    """An evaluation set, whole pictures at their own size."""

    def __init__(self, protocol: NormalsProtocol, root: Path, listed: Path | None = None) -> None:
        self.root = root
        if not root.is_dir():
            raise DataError(root, "there is no such folder.")
        file = listed or root / protocol.listed
        if not file.is_file():
            raise DataError(
                file,
                "there is no such list; copy the authors' one there (their repository, under"
                " data_split/), or name another after the folder, as FOLDER#LIST.",
            )
        self.rows = read_list(file)
        if not self.rows:
            raise DataError(file, "the list names no picture with normals.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        picture, normals = (self.root / name for name in self.rows[index][:2])
        try:
            # As stored, as in `benchmark_sets`: the truth ignores EXIF rotation.
            image = read_image(np.asarray(open_picture(picture)))
        except MarigoldError as error:
            raise DataError(picture, str(error)) from error
        vectors = torch.from_numpy(np.array(read_triples(normals, ("RGB",))[0], np.float32))
        length = vectors.norm(dim=2, keepdim=True)
        unit = torch.where(length > 0, vectors / length, torch.nan).permute(2, 0, 1)
        return mapped_sample(image, {"normals": unit.contiguous()}, None, self.name(index), picture)

    def name(self, index: int) -> str:
        return self.rows[index][0]


def open_normals(spec: str) -> NormalsSet:
    """spec: "nyuv2:ROOT" or "nyuv2:ROOT#LIST", of NORMALS_PROTOCOLS."""
    kind, _, where = spec.partition(":")
    if kind not in NORMALS_PROTOCOLS or not where:
        raise MarigoldError(
            f"There is no evaluation set {spec!r} of normals; use {', '.join(NORMALS_PROTOCOLS)}."
        )
    root, _, listed = where.partition("#")
    return NormalsSet(NORMALS_PROTOCOLS[kind], Path(root), Path(listed) if listed else None)
