"""Host memory for one photograph of 100 megapixels: this engine against diffusers' pipeline.

    python benchmarks/large_picture.py

Each runs the bundled checkpoint on a JPEG file, once, in a fresh process, at the checkpoint's own
resolution. Printed: the largest resident size of that process, and what the picture added to it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
NANO = Path(__file__).parents[1] / "marigold_core" / "assets" / "nano"
ENGINES = ("diffusers", "marigold-kit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="11547x8660", help="WIDTHxHEIGHT")
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large.jpg", Path(folder) / "small.jpg"
        noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(small)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(large)
        print(f"{width * height / 1e6:.0f} megapixels, JPEG, on the CPU\n")
        print("| | seconds | peak GiB | of it for the picture |")
        print("|---|--:|--:|--:|")
        for name in ENGINES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, before, peak = pool.apply(measure, (name, str(small), str(large)))
            print(f"| {name} | {seconds:.1f} | {peak:.2f} | {peak - before:.2f} |", flush=True)


def measure(name: str, small: str, large: str) -> tuple[float, float, float]:
    """Seconds, and the largest resident GiB before and after the large picture."""
    run = diffusers() if name == "diffusers" else ours()
    run(small)
    before = resident()
    began = time.perf_counter()
    run(large)
    return time.perf_counter() - began, before, resident()


def resident() -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def ours():
    from marigold_core import Marigold

    marigold = Marigold.from_pretrained("nano", device="cpu")
    return lambda file: marigold(file, num_inference_steps=1, seed=0)


def diffusers():
    from diffusers import MarigoldDepthPipeline

    Image.MAX_IMAGE_PIXELS = None

    pipeline = MarigoldDepthPipeline.from_pretrained(NANO)
    pipeline.set_progress_bar_config(disable=True)
    return lambda file: pipeline(Image.open(file), num_inference_steps=1)


if __name__ == "__main__":
    main()
