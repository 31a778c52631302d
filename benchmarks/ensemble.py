"""Ensemble alignment: this engine against diffusers', in one run, on maps whose truth is known.

    python benchmarks/ensemble.py                                 # 576 x 768, N = 3, 5, 10, 20
    python benchmarks/ensemble.py --members 3 5                   # a minute
    python benchmarks/ensemble.py --height 120 --width 160        # a quick look
    python benchmarks/ensemble.py --slow-once                     # one timed run where N >= 10
    python benchmarks/ensemble.py --corruptions all               # all 30 families

A member is a synthetic scene, corrupted, then scaled and shifted at random. The error is the RMSE
to the scene after the best affine fit, closed form / paper / diffusers. The engines take turns on
the same maps; seconds are medians over the timed runs. In a single scene luck decides too (under
smooth bias the closed form's error was up to 8 % above diffusers'), so that errors are measured
once more over --scenes small scenes; "higher" marks a row whose mean over these is above
diffusers'. Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from marigold_core.ensemble.depth import ensemble_depth
from marigold_core.errors import EnsembleWarning

ERRORS = ("noise", "bias", "noise + bias")
DEFECTS = (
    "bad pixels",
    "garbage",
    "inverted",
    "noisy member",
    "missing object",
    "unequal noise",
    "patch",
    "gamma",
    "two garbage",
)
FAMILIES = (*ERRORS, *(f"{error} + {defect}" for error in ERRORS for defect in DEFECTS))
CORRUPTIONS = (
    "noise",
    "noise + bad pixels",
    "bias",
    "bias + garbage",
    "bias + inverted",
    "noise + noisy member",
    "noise + missing object",
)
# Rows and columns of the scenes that only the error is taken from.
SMALL = 96, 128


def scene(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A floor that recedes, with eight boxes in front of it: (height, width) in [0, 1]."""
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None]
    depth = 0.9 - 0.6 * y + 0.1 * x
    for _ in range(8):
        centre_y, centre_x, half_h, half_w, near = torch.rand(5, generator=generator).tolist()
        inside_y = (y - centre_y).abs() < 0.05 + 0.2 * half_h
        inside_x = (x - centre_x).abs() < 0.05 + 0.2 * half_w
        depth = torch.where(inside_y & inside_x, depth.clamp(max=0.9 * near), depth)
    return (depth - depth.min()) / (depth.max() - depth.min())


def corrupted(depth: Tensor, members: int, corruption: str, generator: torch.Generator) -> Tensor:
    """Members (N, h, w) >= 0 of one scene: an error of all, a defect of some, affine jitter.

    corruption: a name of FAMILIES. Errors of all: noise (deviation 0.02), bias (smooth, 0.05).
    Defects, of one member where nothing else is said: bad pixels (3 in every member), garbage
    (uniform noise), inverted, noisy (noise of 0.1), missing object (in 40 % of the members),
    unequal noise (0.01 to 0.1 in all), patch (a rectangle at one level), gamma (a tone curve in
    every member), two garbage.
    """
    height, width = depth.shape
    maps = depth.repeat(members, 1, 1)
    if corruption.startswith("noise"):
        maps += 0.02 * torch.randn(maps.shape, generator=generator)
    if "bias" in corruption:
        bias = 0.05 * torch.randn(members, 1, 4, 5, generator=generator)
        maps += F.interpolate(bias, (height, width), mode="bicubic")[:, 0]
    if "pixels" in corruption:
        where = torch.randint(height * width, (members, 3), generator=generator)
        maps.view(members, -1).scatter_(1, where, torch.tensor([1.6, -0.6, 1.6]).repeat(members, 1))
    if "garbage" in corruption:
        bad = 2 if "two" in corruption else 1
        maps[:bad] = torch.rand(bad, height, width, generator=generator)
    if "inverted" in corruption:
        maps[0] = 1 - maps[0]
    if "noisy" in corruption:
        maps[0] += 0.1 * torch.randn(height, width, generator=generator)
    if "missing" in corruption:
        lacking = max(1, round(0.4 * members))
        maps[:lacking] += without_an_object(depth, generator) - depth
    if "unequal" in corruption:
        deviation = 0.01 * 10 ** torch.rand(members, 1, 1, generator=generator)
        maps += deviation * torch.randn(maps.shape, generator=generator)
    if "patch" in corruption:
        top, left = rectangle(height, width, generator)
        maps[0, top : top + height // 3, left : left + width // 4] = 0.5
    if "gamma" in corruption:
        exponent = 0.7 + 0.6 * torch.rand(members, 1, 1, generator=generator)
        maps = maps.clamp(min=0) ** exponent
    scale = 0.4 + 0.6 * torch.rand(members, 1, 1, generator=generator)
    maps = maps * scale + (1 - scale) * torch.rand(members, 1, 1, generator=generator)
    return maps - maps.min().clamp(max=0)


def rectangle(height: int, width: int, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a third of the height by a quarter of the width, anywhere inside."""
    down, right = torch.rand(2, generator=generator).tolist()
    return int(down * (height - height // 3 - 1)), int(right * (width - width // 4 - 1))


def without_an_object(depth: Tensor, generator: torch.Generator) -> Tensor:
    """The depth with a rectangle filled from its left and right edges, the most visible of ten."""
    height, width = depth.shape
    best = depth
    for _ in range(10):
        top, left = rectangle(height, width, generator)
        rows, columns = slice(top, top + height // 3), slice(left, left + width // 4)
        ramp = torch.linspace(0, 1, width // 4)
        filled = depth.clone()
        ends = depth[rows, left, None], depth[rows, left + width // 4, None]
        filled[rows, columns] = torch.lerp(*ends, ramp)
        if (filled - depth).abs().sum() > (best - depth).abs().sum():
            best = filled
    return best


def error(depth: Tensor, truth: Tensor) -> float:
    """RMSE to the truth after the affine fit with the least of it."""
    x, y = depth.double() - depth.double().mean(), truth.double() - truth.double().mean()
    slope = (x * y).sum() / x.square().sum().clamp(min=1e-30)
    return float((slope * x - y).square().mean().sqrt())


def diffusers_depth(maps: Tensor) -> tuple[Tensor, Tensor]:
    from diffusers.pipelines.marigold.pipeline_marigold_depth import MarigoldDepthPipeline

    depth, spread = MarigoldDepthPipeline.ensemble_depth(maps[:, None], output_uncertainty=True)
    return depth[0, 0], spread[0, 0]


Engine = Callable[[Tensor], tuple[Tensor, Tensor]]
ENGINES: dict[str, Engine] = {
    "closed form": ensemble_depth,
    "paper": partial(ensemble_depth, method="paper"),
    "diffusers": diffusers_depth,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=576, help="rows of a map")
    parser.add_argument("--width", type=int, default=768, help="columns of a map")
    parser.add_argument("--members", type=int, nargs="+", default=[3, 5, 10, 20], metavar="N")
    parser.add_argument("--repeats", type=int, default=3, help="runs, each with its own scene")
    parser.add_argument("--scenes", type=int, default=8, help="small scenes for the mean error")
    parser.add_argument("--slow-once", action="store_true", help="one timed run where N >= 10")
    parser.add_argument(
        "--corruptions", nargs="+", default=CORRUPTIONS, choices=("all", *FAMILIES), metavar="NAME"
    )
    parser.add_argument("--device", default="cpu", help="where the maps lie: cpu, cuda, mps")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", EnsembleWarning)

    device = torch.device(arguments.device)
    place = f"{torch.get_num_threads()} thread(s), {platform.machine()}"
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    size = f"{arguments.height} x {arguments.width}"
    print(f"{size}, {device.type}, {place}, torch {torch.__version__}, {arguments.repeats} runs.\n")
    small = f"{arguments.scenes} scenes of {SMALL[0]} x {SMALL[1]}"
    print(
        "| N | corruption | closed form, s | paper, s | diffusers, s | ratio "
        f"| error, timed maps | error, {small} | |"
    )
    print("|--:|---|--:|--:|--:|--:|---|---|---|")
    # One run of each outside the count: libraries load, threads start.
    for engine in ENGINES.values():
        engine(torch.rand(3, 32, 32, device=device))
    corruptions = FAMILIES if "all" in arguments.corruptions else arguments.corruptions
    rows = []
    for members in arguments.members:
        for corruption in corruptions:
            rows.append(row(members, corruption, arguments, device))
            print(rows[-1], flush=True)
    print(
        f"\nHigher than diffusers': {sum('higher' in line for line in rows)} of {len(rows)} rows."
    )


def row(members: int, corruption: str, arguments: argparse.Namespace, device: torch.device) -> str:
    once = arguments.slow_once and members >= 10
    size = arguments.height, arguments.width
    seconds, timed = measure(size, members, corruption, 1 if once else arguments.repeats, device)
    _, small = measure(SMALL, members, corruption, arguments.scenes, device)
    # To the digits that are printed: equal is not lost.
    lost = round(small["closed form"], 5) > round(small["diffusers"], 5)
    cells = [str(members), corruption]
    cells += [f"{seconds[name]:.3f}" for name in ENGINES]
    cells += [f"{seconds['diffusers'] / seconds['closed form']:.0f}"]
    cells += [" / ".join(f"{errors[name]:.5f}" for name in ENGINES) for errors in (timed, small)]
    return f"| {' | '.join(cells)} | {'higher' if lost else ''} |"


def measure(
    size: tuple[int, int], members: int, corruption: str, runs: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Each engine's median seconds and mean error over as many scenes as runs."""
    seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
    errors: dict[str, list[float]] = {name: [] for name in ENGINES}
    for k in range(runs):
        generator = torch.Generator().manual_seed(1000 * members + k)
        truth = scene(*size, generator)
        maps = corrupted(truth, members, corruption, generator).to(device)
        for name, engine in ENGINES.items():
            start = time.perf_counter()
            depth = engine(maps)[0].cpu()  # waits for the device
            seconds[name].append(time.perf_counter() - start)
            errors[name].append(error(depth, truth))
    return (
        {name: statistics.median(values) for name, values in seconds.items()},
        {name: statistics.mean(values) for name, values in errors.items()},
    )


if __name__ == "__main__":
    main()
