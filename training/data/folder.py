"""A plain folder of pictures with their truth: with a manifest, `meta.json` files, or neither.

`manifest.jsonl` or `manifest.csv` (or `train.jsonl`, `val.csv`, ... for one split each), a line a
sample, paths relative to it. What `training/render_dataset.py` writes is such a folder.

    image, depth    the files; depth as PNG, TIFF, EXR, NPY, NPZ, PFM or HDF5
    normals, albedo, base_colour, roughness, metallicity, shading, residual
                    their files, see `map_files.py`; a sample needs those of the run's target
    normals_y       "up", or "down" for DirectX's sign
    mask            a picture, white = use this pixel
    unit_m          metres in one stored unit; else 0.001 for integers and 1 for floats
    kind            "depth" or "disparity" (then depth is up to scale, 1 / (value + doffs_px))
    key             the array's name in an NPZ or HDF5 file
    invalid         values that do not count, such as "<=0" or ">80"; several apart by spaces
    focal_px        where the file holds distances along the rays: the focal length in pixels
    split           "train", "val" or "test"

Without a manifest, pictures in `images`, `rgb` or `image` are paired by name with files in `depth`
or `depths`, in `normals`, `albedo` and so on, and with those in `mask` or `masks` where there are
any.
"""

from __future__ import annotations

import csv
import json
import operator
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marigold_core.errors import MarigoldError
from marigold_core.images import PICTURE_SUFFIXES, read_mask

from .depth_arrays import SUFFIXES, read_picture, read_values
from .hypersim import planar_depth
from .map_files import MAPS, read_map
from .sample import (
    HOLE,
    DataError,
    Sample,
    SampleDataset,
    as_sample,
    mapped_sample,
    resize_sample,
    resized_shape,
)

# Where no sample has a split, one in twenty is kept to validate.
VALIDATION_STRIDE = 20
# What a meta.json may say beside what is read: where a frame is from, and facts about it.
DESCRIPTIVE = frozenset(
    "name source_repo commit licence license dataset notes rgb_shape depth_shape valid_pct "
    "range_p1_p50_p99 original_path to_plane to_depth focal_px baseline_m eval_crop".split()
)
READ = frozenset(
    "real rgb_file depth_file to_metres depth_kind doffs_px npz_key hdf5_key invalid distance "
    "intrinsics to_disparity_px".split()
)
HOLES = re.compile(r"(==|<=|>=|<|>)\s*(-?[\d.]+(?:[eE][+-]?\d+)?)$")
COMPARE = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Entry:
    """One sample of a folder before it is read; see the module's text for the fields."""

    name: str
    image: Path
    depth: Path | None
    mask: Path | None = None
    unit_m: float | None = None
    kind: str = "depth"
    doffs_px: float = 0.0
    key: str | None = None
    invalid: tuple[str, ...] = ()
    focal_px: float | None = None
    split: str | None = None
    maps: Mapping[str, Path] = field(default_factory=dict)
    normals_y: str = "up"

    def file(self, kind: str) -> Path | None:
        """Of "depth" or one of MAPS; the albedo stands in for a base colour that is not there."""
        if kind == "depth":
            return self.depth
        return self.maps.get(kind) or (self.maps.get("albedo") if kind == "base_colour" else None)


class Folder(SampleDataset):
    """The samples of a folder, or of the manifest file itself.

    A split named in the manifest, or a manifest file of its own, decides; else every twentieth
    sample is "val", the rest "train", and "test" is all. Broken lines of a manifest are left out
    with a warning. resolution None keeps each picture's size. maps: of MAPS, what to read in place
    of depth; samples that lack one are not there.
    """

    def __init__(
        self,
        where: str | Path,
        split: str = "train",
        resolution: int | tuple[int, int] | None = None,
        maps: Sequence[str] = (),
    ) -> None:
        self.resolution, self.maps = resolution, tuple(maps)
        wanted = self.maps or ("depth",)
        found = [e for e in entries(Path(where), split) if all(map(e.file, wanted))]
        self.entries = of_split(found, split)
        if not self.entries:
            what = " and ".join(wanted)
            raise DataError(where, f"there are no pictures with {what} of the split {split!r}.")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        sample = read_maps(entry, self.maps) if self.maps else read_entry(entry)
        height, width = sample.depth.shape
        return resize_sample(sample, resized_shape(height, width, self.resolution))

    def name(self, index: int) -> str:
        return self.entries[index].name


def entries(where: Path, split: str) -> Iterator[Entry]:
    """All samples of a folder or manifest, in its order."""
    if where.is_file():
        yield from _from_manifest(where)
        return
    if not where.is_dir():
        raise DataError(where, "there is no such folder or manifest.")
    for name in (f"{split}.jsonl", f"{split}.csv", "manifest.jsonl", "manifest.csv"):
        if (where / name).is_file():
            for entry in _from_manifest(where / name):
                # The file's own name is the split's.
                yield entry if name.startswith("manifest") else replace(entry, split=split)
            return
    described = sorted(file for file in where.glob("*/meta.json") if file.is_file())
    yield from _described(described) if described else _paired(where)


def of_split(found: list[Entry], split: str) -> list[Entry]:
    if split == "all":
        return found
    if any(entry.split for entry in found):
        return [entry for entry in found if entry.split == split]
    if split == "test":
        return found
    # A folder too small to spare any validates on what it trains on.
    kept = [i for i in range(len(found)) if i % VALIDATION_STRIDE == VALIDATION_STRIDE - 1]
    if not kept:
        return found
    chosen = set(kept)
    return [entry for i, entry in enumerate(found) if (i in chosen) == (split == "val")]


def read_maps(entry: Entry, kinds: Sequence[str]) -> Sample:
    maps = {k: read_map(k, file, entry.normals_y) for k in kinds if (file := entry.file(k))}
    image = read_picture(entry.image)
    valid = None if entry.mask is None else read_valid(entry.mask, "picture")
    return mapped_sample(image, maps, valid, entry.name, entry.image)


def read_valid(file: Path, whose: str) -> NDArray[np.bool_]:
    try:
        return read_mask(file)
    except (MarigoldError, ValueError) as error:
        raise DataError(file, f"it is not a mask of the {whose}'s size ({error}).") from error


def read_entry(entry: Entry) -> Sample:
    assert entry.depth
    stored = read_values(entry.depth, entry.key)
    values = stored.astype(np.float32)
    valid = np.isfinite(values)
    for rule in entry.invalid:
        sign, number = _rule(rule, entry.depth)
        valid &= ~COMPARE[sign](np.where(valid, values, 0), number)
    if entry.mask is not None:
        mask = read_valid(entry.mask, "depth")
        if mask.shape != valid.shape:
            raise DataError(entry.mask, "it is not a mask of the depth's size.")
        valid &= mask
    if entry.kind == "disparity":
        disparity = values + np.float32(entry.doffs_px)
        valid &= disparity > 0
        metres = np.where(valid, 1 / np.where(valid, disparity, 1), HOLE)
    else:
        unit = entry.unit_m or (1.0 if stored.dtype.kind == "f" else 0.001)
        metres = values * np.float32(unit)
    if entry.focal_px is not None:
        metres = planar_depth(metres, entry.focal_px)
    return as_sample(read_picture(entry.image), metres, valid, entry.name, entry.depth)


def _from_manifest(file: Path) -> Iterator[Entry]:
    good = 0
    for number, row in _rows(file):
        try:
            entry = _entry(row, file)
        except (KeyError, ValueError, TypeError) as error:
            warnings.warn(f"{file}, line {number} is left out: {error!r}.", stacklevel=2)
            continue
        good += 1
        yield entry
    if not good:
        raise DataError(file, "no line of it names an image and its depth, or another map.")


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(file, f"the manifest cannot be read ({error}).") from error
    if file.suffix.lower() == ".csv":
        yield from enumerate(csv.DictReader(text.splitlines()), start=2)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:  # A renderer that was stopped leaves half a line.
            warnings.warn(f"{file}, line {number} is left out: {error}.", stacklevel=2)
            continue
        yield number, row


def _entry(row: Mapping[str, Any], file: Path) -> Entry:
    """A row of a manifest; CSV gives strings, and empty ones for what is not there."""
    given = {key: value for key, value in row.items() if value not in (None, "")}
    invalid = given.get("invalid", ())
    rules = tuple(invalid.split() if isinstance(invalid, str) else map(str, invalid))
    for rule in rules:
        _rule(rule, file)
    kind = str(given.get("kind", "depth"))
    if kind not in ("depth", "disparity"):
        raise ValueError(f"kind is depth or disparity, not {kind}")
    maps = {kind: file.parent / str(given[kind]) for kind in MAPS if kind in given}
    if "depth" not in given and not maps:
        raise KeyError("depth")
    normals_y = str(given.get("normals_y", "up"))
    if normals_y not in ("up", "down"):
        raise ValueError(f"normals_y is up or down, not {normals_y}")
    unit = float(given["unit_m"]) if "unit_m" in given else None
    if unit is not None and not (0 < unit < float("inf")):
        raise ValueError(f"unit_m is above 0, not {unit}")
    return Entry(
        name=str(given.get("name", given["image"])),
        image=file.parent / str(given["image"]),
        depth=file.parent / str(given["depth"]) if "depth" in given else None,
        mask=file.parent / str(given["mask"]) if "mask" in given else None,
        unit_m=unit,
        kind=kind,
        doffs_px=float(given.get("doffs_px", 0)),
        key=str(given["key"]) if "key" in given else None,
        invalid=rules,
        focal_px=float(given["focal_px"]) if "focal_px" in given else None,
        split=str(given["split"]) if "split" in given else None,
        maps=maps,
        normals_y=normals_y,
    )


def _described(files: list[Path]) -> Iterator[Entry]:
    """Folders with a `meta.json` each, but those that say `"real": false`: no photographs.

    Raises nothing for one that cannot be used: it is left out with a warning.
    """
    for file in files:
        try:
            meta = json.loads(file.read_text(encoding="utf-8"))
            if not meta.get("real", True):
                continue
            # One that is not known may change what the numbers mean, as "decode" does.
            unknown = sorted(meta.keys() - READ - DESCRIPTIVE)
            if unknown:
                raise ValueError(f"{unknown[0]} is not a known key")
            if meta.get("to_disparity_px", 1) != 1:
                raise ValueError("to_disparity_px is not 1")
            row = {
                "name": file.parent.name,
                "image": meta["rgb_file"],
                "depth": meta["depth_file"],
                "unit_m": meta.get("to_metres", 1.0),
                "kind": "disparity" if meta.get("depth_kind") == "disparity" else "depth",
                "doffs_px": meta.get("doffs_px", 0.0),
                "key": meta.get("npz_key", meta.get("hdf5_key")),
                "invalid": [rule for rule in meta.get("invalid", []) if rule != "nonfinite"],
            }
            if meta.get("distance") == "ray":
                row["focal_px"] = meta["intrinsics"]["fx"]
            yield _entry(row, file)
        except (OSError, KeyError, ValueError, TypeError) as error:
            warnings.warn(f"{file} is left out: {error!r}.", stacklevel=2)


def _paired(where: Path) -> Iterator[Entry]:
    """Pictures and their depth or other maps, of the same name in folders of their own."""

    def files(names: tuple[str, ...], suffixes: Any) -> dict[str, Path]:
        folder = next((where / name for name in names if (where / name).is_dir()), None)
        found = sorted(folder.rglob("*")) if folder else []
        return {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in found
            if folder and path.suffix.lower() in suffixes
        }

    pictures = files(("images", "rgb", "image"), PICTURE_SUFFIXES)
    depths = files(("depth", "depths"), SUFFIXES)
    masks = files(("mask", "masks"), PICTURE_SUFFIXES)
    maps = {kind: files((kind,), (*SUFFIXES, *PICTURE_SUFFIXES)) for kind in MAPS}
    for name in sorted(pictures):
        its = {kind: found[name] for kind, found in maps.items() if name in found}
        if name in depths or its:
            depth, mask = depths.get(name), masks.get(name)
            yield Entry(name, pictures[name], depth, mask, maps=its)


def _rule(rule: str, file: Path) -> tuple[str, float]:
    match = HOLES.match(rule.strip())
    if match is None:
        raise ValueError(f"{file.name}: {rule!r} is not a comparison such as '<=0'")
    return match[1], float(match[2])
