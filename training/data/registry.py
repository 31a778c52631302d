"""Data sets by name: `open_dataset("hypersim:/data/hypersim")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marigold_core.errors import MarigoldError

from .augment import Variants, Within
from .folder import Folder
from .hypersim import Hypersim
from .sample import SampleDataset
from .scenes import ProceduralScenes
from .vkitti import VirtualKitti

SPLITS = ("train", "val", "test", "all")
KINDS: dict[str, Callable[..., SampleDataset]] = {
    "procedural": ProceduralScenes,
    "folder": Folder,
    "hypersim": Hypersim,
    "vkitti": VirtualKitti,
}
# Those that have more than depth.
MAPPED = ("folder", "hypersim")


def open_dataset(
    spec: str,
    split: str = "train",
    resolution: int | tuple[int, int] | None = None,
    *,
    farthest: float | None = None,
    variants: int = 1,
    maps: Sequence[str] = (),
) -> SampleDataset:
    """The data set of `spec`.

    spec: "procedural:COUNT" (scenes, rendered when they are asked for), "folder:PATH",
        "hypersim:PATH" (original or as `prepare.py hypersim` wrote it), "vkitti:PATH".
    split: "train", "val", "test" or "all".
    resolution: pixels of the longer side (sides become multiples of 8), (H, W), or None: the
        recipe's own size: 480 x 640 for Hypersim, the 352 x 1216 crop of Virtual KITTI, as stored
        for a folder.
    farthest: metres; what lies beyond counts as invalid, like the sky. None: all that is stored.
    variants: samples in place of each, see `augment.Variants`.
    maps: of `map_files.MAPS`, what to read in place of depth; folders and Hypersim have them.

    Raises MarigoldError for a wrong spec or split, and DataError where the files are not there.
    """
    kind, colon, where = spec.partition(":")
    if kind not in KINDS or not colon or not where:
        known = ", ".join(f"{name}:{'COUNT' if name == 'procedural' else 'PATH'}" for name in KINDS)
        raise MarigoldError(f"There is no data set {spec!r}; write one of {known}.")
    if split not in SPLITS:
        raise MarigoldError(f"There is no split {split!r}; choose from {', '.join(SPLITS)}.")
    stored = resolution if variants == 1 else None
    if maps and kind not in MAPPED:
        raise MarigoldError(f"{spec} has only depth, no {' or '.join(maps)}; use a folder.")
    more = {"maps": maps} if maps else {}
    dataset = KINDS[kind](where, split=split, resolution=stored, **more)
    if farthest is not None:
        dataset = Within(dataset, farthest)
    return dataset if variants == 1 else Variants(dataset, variants, resolution)
