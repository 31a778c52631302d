"""Convert, filter and list the paper's training sets as the authors do (paper, section 4.1).

    python training/prepare.py hypersim RAW --output DATA/hypersim
    python training/prepare.py vkitti DATA/vkitti

hypersim: RAW holds the original ai_VVV_NNN folders and metadata_images_split_scene_v1.csv.
Tone-maps the pictures, turns distances into planar depth, writes 8-bit and 16-bit PNG
(millimetres), and lists of all frames and of those worth training on: depth that spans 0.5 m, a
picture that spans 10 of 255 levels, at most 3 % of pixels without depth (prs-eth/Marigold
issue 158).

vkitti: reads every frame of the scenes and variants that the authors train on, and lists those
that can be used. Nothing is converted.

Both continue where they stopped, name each file that cannot be used, and leave it out.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from data.depth_arrays import read_values
from data.hypersim import MILLIMETRES, SPLIT_TABLE, Frame, listed_frames, read_original
from data.sample import DataError
from data.vkitti import SCENES, VARIANTS, frames, read_frame
from numpy.typing import NDArray
from tqdm import tqdm

from marigold_core.depth_files import write_picture
from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path, exit_on_sigterm
from marigold_core.images import open_picture

MIN_DEPTH_SPAN = 0.5  # metres
MIN_COLOUR_SPAN = 10  # of 255
MAX_INVALID = 0.03
COLUMNS = (
    "rgb_path", "depth_path", "rgb_mean", "rgb_std", "rgb_min", "rgb_max",
    "depth_mean", "depth_std", "depth_min", "depth_max", "invalid_ratio",
)  # fmt: skip
# Pictures in the authors' lists, to compare with.
PUBLISHED = {
    ("hypersim", "train"): 53_885,
    ("hypersim", "val"): 7_370,
    ("hypersim", "test"): 7_682,
    ("vkitti", "train"): 20_148,
    ("vkitti", "val"): 5_364,
}

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def convert_frame(raw: Path, folder: Path, frame: Frame) -> dict[str, Any]:
    """Write a frame's two PNG files, unless they are there; its line of the table.

    Raises DataError where it cannot be read.
    """
    name = f"{frame.camera}_fr{frame.number:04d}"
    row = {
        "rgb_path": f"{frame.scene}/rgb_{name}.png",
        "depth_path": f"{frame.scene}/depth_plane_{name}.png",
    }
    picture, depth = folder / row["rgb_path"], folder / row["depth_path"]
    # The depth map is written last: where it is, both are.
    if not depth.is_file():
        original = read_original(raw, frame)
        # Cut, not rounded, as the authors' files are.
        write_picture(picture, (original.image * 255).astype(np.uint8))
        write_picture(depth, (original.metres * 1000).astype(np.uint16))
    try:
        rgb = np.asarray(open_picture(picture))
    except MarigoldError as error:
        raise DataError(picture, str(error)) from error
    return row | statistics(rgb, read_values(depth))


def statistics(picture: NDArray[Any], depth: NDArray[Any]) -> dict[str, float]:
    """picture: uint8 (H, W, 3). depth: uint16 (H, W), millimetres, 0 = none. In levels, metres."""
    metres = depth[depth > 0] * MILLIMETRES
    if not metres.size:
        metres = np.zeros(1)
    return {
        "rgb_mean": float(picture.mean()),
        "rgb_std": float(picture.std()),
        "rgb_min": float(picture.min()),
        "rgb_max": float(picture.max()),
        "depth_mean": float(metres.mean()),
        "depth_std": float(metres.std()),
        "depth_min": float(metres.min()),
        "depth_max": float(metres.max()),
        "invalid_ratio": float(np.mean(depth == 0)),
    }


def worth_training(row: dict[str, Any]) -> bool:
    """The authors' three conditions on a frame's statistics."""
    return bool(
        row["depth_max"] - row["depth_min"] >= MIN_DEPTH_SPAN
        and row["rgb_max"] - row["rgb_min"] >= MIN_COLOUR_SPAN
        and row["invalid_ratio"] <= MAX_INVALID
    )


def prepare_hypersim(args: argparse.Namespace) -> bool:
    table = args.split_table or args.raw / SPLIT_TABLE
    if not table.is_file():
        raise DataError(
            table, "there is no such file; take it from the ml-hypersim repository, folder"
            " evermotion_dataset/analysis, or name it with --split-table."
        )  # fmt: skip
    complete = True
    for split in args.splits:
        folder = args.output / split
        listed = list(listed_frames(table, split))
        here = [frame for frame in listed if frame.file(args.raw, "color").is_file()]
        if len(here) < len(listed):
            print(f"{split}: {len(listed) - len(here)} of {len(listed)} frames are not in RAW.")
        if not here:
            continue
        work = partial(convert_frame, args.raw, folder)
        rows = [row for row in each(work, here, split, args.workers) if row is not None]
        complete &= len(rows) == len(here)
        kept = [row for row in rows if worth_training(row)]
        with atomic_path(folder / f"filename_meta_{split}.csv") as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
        for name, chosen in (("", rows), ("_filtered", kept)):
            write_list(folder / f"filename_list_{split}{name}.txt", chosen)
        report("hypersim", split, len(kept), len(here))
    return complete


def prepare_vkitti(args: argparse.Namespace) -> bool:
    complete, found_any = True, False
    for split in ("train", "val"):
        pairs = list(frames(args.root, SCENES[split], args.variants))
        if not pairs:
            continue
        found_any = True
        checked = each(partial(check_pair, args.root), pairs, split, args.workers)
        rows = [row for row in checked if row is not None]
        complete &= len(rows) == len(pairs)
        write_list(args.root / f"vkitti_{split}.txt", rows)
        report("vkitti", split, len(rows), len(pairs))
    if not found_any:
        raise DataError(
            args.root, "there are no Virtual KITTI 2 frames as in Scene01/clone/frames."
        )
    return complete


def check_pair(root: Path, pair: tuple[str, str]) -> dict[str, str]:
    sample = read_frame(root, *pair)
    if not sample.valid.any():
        raise DataError(root / pair[1], "no pixel of it is nearer than 80 m.")
    return {"rgb_path": pair[0], "depth_path": pair[1]}


def each(
    work: Callable[[Item], Outcome], items: Sequence[Item], what: str, workers: int
) -> Iterator[Outcome | None]:
    """work(item) for each, in order, by several processes; None where it raised a DataError."""
    task = partial(_attempt, work)
    with ProcessPoolExecutor(workers) if workers > 1 else _Here() as pool:
        outcomes = pool.map(task, items, chunksize=4)
        for outcome, problem in tqdm(outcomes, desc=what, total=len(items), unit="frame"):
            if problem:
                tqdm.write(f"left out: {problem}", file=sys.stderr)
            yield outcome


def _attempt(work: Callable[[Item], Outcome], item: Item) -> tuple[Outcome | None, str]:
    try:
        return work(item), ""
    except DataError as error:
        return None, str(error)


class _Here:
    """A pool of no processes, which works in this one."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def map(
        self, task: Callable[[Any], Any], items: Iterable[Any], chunksize: int
    ) -> Iterator[Any]:
        return map(task, items)


def write_list(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_path(file) as temporary:
        lines = (f"{row['rgb_path']} {row['depth_path']}\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8")


def report(kind: str, split: str, kept: int, total: int) -> None:
    published = PUBLISHED[kind, split]
    print(f"{split}: {kept} of {total} frames are listed (the authors' list has {published}).")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    hypersim = kinds.add_parser("hypersim", help="the original HDF5 files to PNG, and lists")
    hypersim.add_argument("raw", type=Path, help="the folder of the ai_VVV_NNN folders")
    hypersim.add_argument("--output", type=Path, required=True)
    hypersim.add_argument("--split-table", type=Path, help=f"{SPLIT_TABLE}; that in RAW")
    hypersim.add_argument("--splits", nargs="+", default=["train", "val", "test"],
                          choices=["train", "val", "test"])  # fmt: skip
    vkitti = kinds.add_parser("vkitti", help="lists of Virtual KITTI 2 as it is distributed")
    vkitti.add_argument("root", type=Path, help="the folder of Scene01, or of rgb and depth")
    vkitti.add_argument("--variants", nargs="+", default=VARIANTS)
    for kind in (hypersim, vkitti):
        kind.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    try:
        complete = (prepare_hypersim if args.kind == "hypersim" else prepare_vkitti)(args)
    except (MarigoldError, OSError) as error:
        sys.exit(f"prepare.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command continues from here.")
    if not complete:
        sys.exit("prepare.py: some frames could not be used; they are named above.")


if __name__ == "__main__":
    exit_on_sigterm()
    main()
