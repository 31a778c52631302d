"""Virtual KITTI 2 (Cabon et al. 2020) as it is distributed: scenes, variants, two cameras.

    ROOT/Scene01/clone/frames/{rgb,depth}/Camera_0/{rgb_00000.jpg,depth_00000.png}

The archives of pictures and depth may lie extracted over each other, as above, or side by side
under ROOT/rgb and ROOT/depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .depth_arrays import read_picture, read_values
from .kitti_crops import HEIGHT, WIDTH, benchmark_crop
from .sample import (
    DataError,
    Sample,
    SampleDataset,
    as_sample,
    read_list,
    resize_sample,
    resized_shape,
)

# The authors' lists: 20,148 pictures to train on and 5,364 to validate.
SCENES = {
    "train": ("Scene02", "Scene06", "Scene18", "Scene20"),
    "val": ("Scene01",),
    "all": ("Scene01", "Scene02", "Scene06", "Scene18", "Scene20"),
}
# No fog and no rain, which hide what has a depth, and no 30 degrees.
VARIANTS = ("clone", "morning", "overcast", "sunset", "15-deg-left", "15-deg-right")
CENTIMETRES = 0.01
# Metres that count. Beyond is what KITTI's laser does not see, and the sky, stored as 65535 cm.
MIN_DEPTH, MAX_DEPTH = 1e-5, 80.0


class VirtualKitti(SampleDataset):
    """Pictures cropped to the KITTI benchmark's 352 x 1216, with planar depth below 80 m.

    A list that `prepare.py vkitti` wrote (ROOT/vkitti_SPLIT.txt) is used where there is one; else
    all frames of the split's scenes in the authors' six variants are.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        resolution: int | tuple[int, int] | None = None,
        variants: Sequence[str] = VARIANTS,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(self.root, "there is no such folder.")
        if split not in SCENES:
            raise DataError(self.root, f"Virtual KITTI has no split {split!r}; use train or val.")
        listed = self.root / f"vkitti_{split}.txt"
        self.pairs = (
            read_list(listed)
            if listed.is_file()
            else list(frames(self.root, SCENES[split], variants))
        )
        if not self.pairs:
            raise DataError(
                self.root,
                f"no frames of {', '.join(SCENES[split])} as in Scene01/clone/frames/rgb/Camera_0/"
                "rgb_00000.jpg are there.",
            )
        self.size = resized_shape(HEIGHT, WIDTH, resolution)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return resize_sample(read_frame(self.root, *self.pairs[index][:2]), self.size)

    def name(self, index: int) -> str:
        return self.pairs[index][0]


def frames(root: Path, scenes: Iterable[str], variants: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Paths of pictures and depth maps, relative to the root, in order."""
    apart = (root / "rgb").is_dir()
    for scene in scenes:
        for variant in variants:
            start = f"{'rgb/' if apart else ''}{scene}/{variant}/frames"
            for path in sorted(root.glob(f"{start}/rgb/Camera_*/rgb_*.jpg")):
                depth = f"{scene}/{variant}/frames/depth/{path.parent.name}"
                number = path.stem.removeprefix("rgb_")
                yield (
                    path.relative_to(root).as_posix(),
                    f"{'depth/' if apart else ''}{depth}/depth_{number}.png",
                )


def read_frame(root: Path, picture: str, depth: str) -> Sample:
    """One frame, cropped. What lies beyond 80 m, the sky with it, keeps its depth and is invalid:
    normalised it is clipped to far, as in the authors' code, and the loss leaves it out."""
    stored = read_values(root / depth)
    if stored.dtype.kind == "f" or stored.dtype.itemsize < 2:
        raise DataError(root / depth, f"it holds {stored.dtype}, not 16-bit centimetres.")
    metres = stored.astype(np.float32) * np.float32(CENTIMETRES)
    image = read_picture(root / picture)
    if image.shape[:2] != metres.shape:
        raise DataError(root / depth, "its size is not that of its picture.")
    try:
        rows, columns = benchmark_crop(*metres.shape)
    except ValueError as error:
        raise DataError(root / picture, str(error)) from None
    image, metres = image[rows, columns], metres[rows, columns]
    valid = (metres > MIN_DEPTH) & (metres < MAX_DEPTH)
    return as_sample(image, metres, valid, picture, root / depth)
