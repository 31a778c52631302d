"""A folder of photographs: reading, estimating and writing one after the other, and overlapped.

    python benchmarks/folder.py                          # the disk of this machine
    python benchmarks/folder.py --disk 0.3               # and one that takes 0.3 s for each file

The bundled checkpoint, one step, JPEG files in, 16-bit PNG files out, as `marigold depth` does it.
Printed: seconds of the whole folder, the best of the repeats, both ways in turn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from marigold_core import Marigold, Options  # noqa: E402
from marigold_core.cli.batch import BatchItem, overlapped  # noqa: E402
from marigold_core.images import read_samples  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--size", default="2000x1500", help="WIDTHxHEIGHT")
    parser.add_argument("--disk", type=float, default=0.0, help="seconds a file, simulated")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    marigold = Marigold.from_pretrained("nano", device=args.device)

    def read(item: BatchItem) -> Any:
        time.sleep(args.disk)
        return read_samples(item.source)

    def estimate(item: BatchItem, picture: Any) -> Callable[[], None]:
        return partial(write, item, marigold(picture, Options(seed=0)))

    def write(item: BatchItem, depth: Any) -> None:
        depth.save(item.target.with_suffix(".png"))
        time.sleep(args.disk)

    with tempfile.TemporaryDirectory() as folder:
        items = [
            BatchItem(Path(folder) / f"{number}.jpg", Path(folder) / f"{number}_depth")
            for number in range(args.pictures)
        ]
        rng = np.random.default_rng(0)
        for item in items:
            noise = Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))
            noise.resize((width, height), Image.Resampling.BICUBIC).save(item.source)

        def one_after_the_other() -> None:
            for item in items:
                estimate(item, read(item))()

        def together() -> None:
            for _, work in overlapped(items, read, estimate):
                work.result()

        ways = {"one after the other": one_after_the_other, "overlapped": together}
        estimate(items[0], read(items[0]))()  # warms up
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(args.repeats):
            for name, run in ways.items():
                began = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - began)
    print(
        f"{args.pictures} pictures of {args.size}, disk {args.disk} s a file, {args.device}, "
        f"{torch.get_num_threads()} threads"
    )
    for name, seconds in best.items():
        print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
