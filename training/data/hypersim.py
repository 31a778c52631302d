"""Hypersim (Roberts et al. 2021): the original HDF5 files, and what `prepare.py` makes of them.

    ROOT/ai_001_001/images/scene_cam_00_final_hdf5/frame.0000.color.hdf5          original
    ROOT/ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5
    ROOT/train/ai_001_001/rgb_cam_00_fr0000.png, depth_plane_cam_00_fr0000.png    prepared

The prepared layout is that of Marigold's authors, and their lists of files work here.

Normals and lighting (albedo, shading, residual) are read from `normal_cam`, `diffuse_reflectance`,
`diffuse_illumination` and `residual` of the original, or from what the authors' scripts made of
them, such as `normal_cam_cam_00_fr0000.npy` beside `rgb_cam_00_fr0000.png`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .depth_arrays import read_hdf5, read_picture, read_values
from .map_files import read_map
from .sample import (
    HOLE,
    DataError,
    Sample,
    SampleDataset,
    as_sample,
    mapped_sample,
    read_list,
    resize_sample,
    resized_shape,
)

HEIGHT, WIDTH = 768, 1024
TRAINING_SIZE = 480, 640
# Pixels. One value for all scenes, as the authors take it, although some have shifted or tilted
# lenses (ml-hypersim issue 24), where planar depth is a little wrong.
FOCAL_LENGTH = 886.81
MILLIMETRES = 0.001
MIN_DEPTH, MAX_DEPTH = 1e-5, 65.0
# Metres, of 16 bits in millimetres: farther surfaces, which are invalid, are stored as this.
FARTHEST_STORED = 65.535
# Value of render_entity_id where a ray met nothing.
NOTHING = -1
# Of other truth than depth: the original's name, and the prepared file's, without cam_00_fr0000.
MAP_FILES = {
    "normals": ("normal_cam", "normal_cam"),
    "albedo": ("diffuse_reflectance", "albedo"),
    "shading": ("diffuse_illumination", "shading"),
    "residual": ("residual", "residual"),
}
GEOMETRY = ("depth_meters", "render_entity_id", "normal_cam")
# A normal that faces away from the camera by more than this cosine is turned, as the authors do.
FACING_AWAY = -1e-3
SPLIT_TABLE = "metadata_images_split_scene_v1.csv"
FRAME = re.compile(r"scene_(cam_\d+)_final_hdf5/frame\.(\d+)\.color\.hdf5$")


class Frame(NamedTuple):
    """One frame of the original layout."""

    scene: str
    camera: str
    number: int

    def file(self, root: Path, kind: str) -> Path:
        """kind: "color", "depth_meters", "render_entity_id", or one of MAP_FILES' originals."""
        folder = f"scene_{self.camera}_{'geometry' if kind in GEOMETRY else 'final'}_hdf5"
        return root / self.scene / "images" / folder / f"frame.{self.number:04d}.{kind}.hdf5"


class Hypersim(SampleDataset):
    """Pictures of 480 x 640 with planar depth below 65 m, from either layout.

    The split of the original layout is read from `metadata_images_split_scene_v1.csv` in ROOT or
    beside it; without it only split "all" can be opened. Each sample is then tone-mapped when
    it is read, which takes longer than reading the prepared files, and nothing is filtered out.
    maps: of MAP_FILES, what to read in place of depth.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        resolution: int | tuple[int, int] | None = None,
        maps: Sequence[str] = (),
    ) -> None:
        self.root, self.maps = Path(root), tuple(maps)
        for kind in self.maps:
            if kind not in MAP_FILES:
                raise DataError(self.root, f"Hypersim has no {kind}.")
        if not self.root.is_dir():
            raise DataError(self.root, "there is no such folder.")
        self.size = TRAINING_SIZE
        if resolution is not None:
            self.size = resized_shape(HEIGHT, WIDTH, resolution)
        self.pairs = list(
            prepared_maps(self.root, split, self.maps)
            if self.maps
            else prepared_pairs(self.root, split)
        )
        self.frames = [] if self.pairs else original_frames(self.root, split)
        if not self.pairs and not self.frames:
            raise DataError(self.root, f"there are no Hypersim frames of the split {split!r}.")

    def __len__(self) -> int:
        return len(self.pairs) or len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        if self.maps:
            sample = self._mapped(index)
        elif self.pairs:
            sample = read_prepared(self.root, *self.pairs[index])
        else:
            frame = self.frames[index]
            sample = as_sample(
                *read_original(self.root, frame),
                frame_name(frame),
                frame.file(self.root, "depth_meters"),
            )
        return resize_sample(sample, self.size)

    def name(self, index: int) -> str:
        return self.pairs[index][0] if self.pairs else frame_name(self.frames[index])

    def _mapped(self, index: int) -> Sample:
        if self.pairs:
            picture = self.root / self.pairs[index][0]
            maps = {kind: read_map(kind, beside(picture, kind)) for kind in self.maps}
            return mapped_sample(read_picture(picture), maps, None, self.pairs[index][0], picture)
        frame = self.frames[index]
        file = frame.file(self.root, "color")
        colour = read_hdf5(file).astype(np.float64)
        hit = read_hdf5(frame.file(self.root, "render_entity_id")) != NOTHING
        maps = {k: read_map(k, frame.file(self.root, MAP_FILES[k][0])) for k in self.maps}
        if "normals" in maps:
            maps["normals"] = facing(maps["normals"])
        return mapped_sample(tone_map(colour, hit), maps, hit, frame_name(frame), file)


def facing(normals: Tensor, focal_length: float = FOCAL_LENGTH) -> Tensor:
    """Normals (3, H, W), x right, y up, z to the viewer, those that face away turned round."""
    height, width = normals.shape[1:]
    y = height / 2 - 0.5 - torch.arange(height, dtype=torch.float32)[:, None]
    x = torch.arange(width, dtype=torch.float32) + 0.5 - width / 2
    to_camera = torch.stack([-x.expand(height, width), -y.expand(height, width),
                             torch.full((height, width), focal_length)])  # fmt: skip
    cosine = (normals * to_camera).sum(0) / to_camera.norm(dim=0)
    return torch.where(cosine < FACING_AWAY, -normals, normals)


def beside(picture: Path, kind: str) -> Path:
    """The prepared file of a map beside rgb_cam_00_fr0000.png."""
    name = picture.name.replace("rgb_", f"{MAP_FILES[kind][1]}_", 1)
    return picture.with_name(name).with_suffix(".npy")


def prepared_maps(root: Path, split: str, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Paths of pictures, and of their first map, relative to the root; none in the original."""
    parts = ("train", "val", "test") if split == "all" else (split,)
    folders = [folder for part in parts if (folder := root / part).is_dir()] or [root]
    for picture in (p for folder in folders for p in sorted(folder.glob("*/rgb_cam_*.png"))):
        if all(beside(picture, kind).is_file() for kind in kinds):
            first = beside(picture, kinds[0])
            yield str(picture.relative_to(root)), str(first.relative_to(root))


def frame_name(frame: Frame) -> str:
    return f"{frame.scene}/{frame.camera}_fr{frame.number:04d}"


def prepared_pairs(root: Path, split: str) -> Iterator[tuple[str, str]]:
    """Paths of pictures and depth maps relative to the root; none in the original layout.

    A filtered list goes before a list of all, and a list before the files that are there.
    """
    if split == "all":
        for part in ("train", "val", "test"):
            yield from prepared_pairs(root, part)
        return
    # The prepared folder itself, or one that holds a single split as the authors' archives do.
    folder = root / split if (root / split).is_dir() else root
    below = f"{split}/" if folder != root else ""
    for name in (f"filename_list_{split}_filtered.txt", f"filename_list_{split}.txt"):
        for listed in (folder / name, root / name):
            if listed.is_file():
                rows = read_list(listed)
                yield from ((below + row[0], below + row[1]) for row in rows)
                return
    if below:
        for picture in sorted(folder.glob("*/rgb_cam_*_fr*.png")):
            depth = picture.with_name(picture.name.replace("rgb_", "depth_plane_", 1))
            yield picture.relative_to(root).as_posix(), depth.relative_to(root).as_posix()


def original_frames(root: Path, split: str) -> list[Frame]:
    """The frames of the original layout that are there, in order."""
    table = next((f for f in (root / SPLIT_TABLE, root.parent / SPLIT_TABLE) if f.is_file()), None)
    if table is not None:
        return [f for f in listed_frames(table, split) if f.file(root, "color").is_file()]
    found = []
    for path in sorted(root.glob("*/images/scene_cam_*_final_hdf5/frame.*.color.hdf5")):
        match = FRAME.search(path.as_posix())
        if match:
            found.append(Frame(path.relative_to(root).parts[0], match[1], int(match[2])))
    if found and split != "all":
        raise DataError(
            root / SPLIT_TABLE,
            "there is no such file; it is in the ml-hypersim repository under"
            " evermotion_dataset/analysis, and says which frames belong to the split.",
        )
    return found


def listed_frames(table: Path, split: str) -> Iterator[Frame]:
    """The rows of the split table that are in the public release."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["included_in_public_release"].strip().lower() not in ("true", "1"):
                    continue
                if split in ("all", row["split_partition_name"]):
                    yield Frame(row["scene_name"], row["camera_name"], int(row["frame_id"]))
    except (KeyError, ValueError, AttributeError) as error:
        raise DataError(table, f"it is not Hypersim's table of splits ({error}).") from error


def read_prepared(root: Path, picture: str, depth: str) -> Sample:
    stored = read_values(root / depth)
    if stored.dtype.kind == "f" or stored.dtype.itemsize < 2:
        raise DataError(root / depth, f"it holds {stored.dtype}, not 16-bit millimetres.")
    metres = stored.astype(np.float32) * np.float32(MILLIMETRES)
    valid = (metres > MIN_DEPTH) & (metres < MAX_DEPTH)
    return as_sample(read_picture(root / picture), metres, valid, picture, root / depth)


class Original(NamedTuple):
    """One frame in float64: image (H, W, 3) in [0, 1], metres and valid (H, W).

    metres: 0 where a ray met nothing or the file has NaN, as the authors have it, so that it is
    near once normalised. Surfaces beyond 65.535 m are at 65.535 m, where the authors' 16 bits wrap
    around to near.
    """

    image: NDArray[np.float64]
    metres: NDArray[np.float64]
    valid: NDArray[np.bool_]


def read_original(root: Path, frame: Frame) -> Original:
    """Tone-mapped and planar; valid as the recipe has it. Raises DataError."""
    file = frame.file(root, "depth_meters")
    colour = read_hdf5(frame.file(root, "color")).astype(np.float64)
    distance = read_hdf5(file).astype(np.float64)
    entity = read_hdf5(frame.file(root, "render_entity_id"))
    if colour.shape != (*distance.shape, 3) or distance.shape != entity.shape:
        raise DataError(file, "colour, depth and render_entity_id have different sizes.")
    metres = planar_depth(distance)
    # Some pixels that met a surface hold NaN.
    metres = np.where((entity != NOTHING) & ~np.isnan(metres), metres, HOLE).clip(
        0, FARTHEST_STORED
    )
    valid = (metres > MIN_DEPTH) & (metres < MAX_DEPTH)
    return Original(tone_map(colour, entity != NOTHING), metres, valid)


def planar_depth(
    distance: NDArray[np.float64], focal_length: float = FOCAL_LENGTH
) -> NDArray[np.float64]:
    """Distance along the ray (H, W) -> depth along the optical axis, in the same unit.

    z = d f / sqrt(x^2 + y^2 + f^2), x and y the pixel centre's offset from the picture's centre.
    """
    height, width = distance.shape
    y = np.arange(height)[:, None] + 0.5 - height / 2
    x = np.arange(width)[None] + 0.5 - width / 2
    return distance * (focal_length / np.sqrt(x**2 + y**2 + focal_length**2))


def tone_map(radiance: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Radiance (H, W, 3) -> RGB in [0, 1], by Hypersim's own scene_generate_images_tonemap.py.

    The exposure is such that the 90th percentile of the valid pixels' brightness becomes 0.8 after
    a gamma of 1 / 2.2. A frame that is black there stays black; one without valid pixels keeps
    its exposure.
    """
    radiance = np.nan_to_num(radiance, nan=0.0, posinf=0.0, neginf=0.0)
    scale = 1.0
    if valid.any():
        brightness = radiance[valid] @ (0.3, 0.59, 0.11)
        current = np.percentile(brightness, 90)
        scale = 0.0 if current < 1e-4 else 0.8**2.2 / current
    return (np.maximum(scale * radiance, 0) ** (1 / 2.2)).clip(0, 1)
