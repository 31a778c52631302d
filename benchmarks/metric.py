"""Metres from a few known points: the robust fit, guided sampling, and what a user would do else.

    python benchmarks/metric.py FOLDER                       # simulated predictions, minutes
    python benchmarks/metric.py FOLDER --draws 10 --frames 3 # a quick look
    python benchmarks/metric.py FOLDER --checkpoint nano     # a checkpoint's own predictions
    python benchmarks/metric.py FOLDER --checkpoint nano --guided --draws 3
    python benchmarks/metric.py FOLDER --rows 10 100 16-line     # these rows alone

FOLDER holds one folder a frame: a picture, a 16-bit depth picture, and a meta.json that names them
(rgb_file, depth_file, to_metres, invalid; frames of ray distance or disparity are left out).

A simulated prediction is the true depth, scaled to [0, 1] by its 2nd and 98th percentile, with a
smooth bias of 0.04 (a 4 x 5 grid, bicubic) and noise of 0.01 added, clipped. Known points are
pixels at random, or the pixels that a LiDAR of 16 or 64 lines would hit (lines evenly spread over
the lower three quarters of the picture, a point every fourth column); 5 % of them are wrong, by a
factor of 1.5 to 4 to either side. "Oracle" is least squares of scale and shift over all pixels
with true depth; "plain" the same over the known points. "Nearest" and "linear" interpolate the
points without any prediction. For each number of points: the median over the draws of a frame,
then over the frames, of AbsRel (RMSE in metres), and of AbsRel as a multiple of the oracle's.
Simulations take every second pixel. Writes Markdown to standard output; exits with 1 where the fit
misses the goals of 1.20, 1.05 and 1.02 times the oracle at 10, 30 and 100 points.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.ndimage import distance_transform_edt, zoom

from marigold_core.depth import DepthMap
from marigold_core.errors import MarigoldError
from marigold_core.images import read_image
from marigold_core.metric.fit import fit_metric
from marigold_core.metric.hints import KnownDepths

GOALS = {10: 1.20, 30: 1.05, 100: 1.02}
COUNTS = (2, 10, 30, 100, 1000)
LIDARS = (16, 64)
WRONG = 0.05
# Pixels that an error is measured on: more change the fourth digit.
MEASURED = 5000

Floats = NDArray[np.float64]


@dataclass
class Frame:
    name: str
    picture: Path
    truth: Floats  # (H, W) metres, NaN = unknown
    prediction: DepthMap
    oracle: float  # AbsRel


def read_truth(folder: Path, meta: dict[str, Any]) -> Floats:
    """(H, W) metres along the axis, NaN where the frame says it is invalid."""
    depth = np.asarray(Image.open(folder / meta["depth_file"])).astype(np.float64)
    bad = ~np.isfinite(depth)
    compare = {"==": np.equal, "<=": np.less_equal, ">=": np.greater_equal, "<": np.less,
               ">": np.greater}  # fmt: skip
    for rule in meta.get("invalid", []):
        if rule == "nonfinite":
            continue
        match = re.fullmatch(r"(==|<=|>=|<|>)([\d.]+)", rule)
        if match is None:
            raise SystemExit(f"{folder.name}: the rule {rule!r} is not known here.")
        bad |= compare[match[1]](depth, float(match[2]))
    return np.where(bad, np.nan, depth * meta.get("to_metres", 1.0))


def simulated(truth: Floats, rng: np.random.Generator) -> DepthMap:
    low, high = np.nanpercentile(truth, [2, 98])
    height, width = truth.shape
    grid = 0.04 * rng.normal(size=(4, 5))
    bias = zoom(grid, (height / 4, width / 5), order=3)[:height, :width]
    depth = (np.nan_to_num(truth, nan=high) - low) / (high - low) + bias
    depth += 0.01 * rng.normal(size=truth.shape)
    return DepthMap(depth.clip(0, 1).astype(np.float32))


def read_frames(arguments: argparse.Namespace, marigold: Any) -> list[Frame]:
    frames = []
    for file in sorted(arguments.folder.glob("*/meta.json")):
        meta = json.loads(file.read_text(encoding="utf-8"))
        usable = meta.get("depth_kind") == "metric" and meta.get("distance") == "z_plane"
        if not usable or not str(meta["depth_file"]).endswith(".png") or "decode" in meta:
            continue
        truth = read_truth(file.parent, meta)
        picture = file.parent / meta["rgb_file"]
        if np.isfinite(truth).mean() < 0.1 or read_image(picture).shape[:2] != truth.shape:
            continue
        rng = np.random.default_rng(len(frames))
        if marigold is None:
            truth = truth[::2, ::2]  # a simulation has no use for all pixels
            prediction = simulated(truth, rng)
        else:
            prediction = marigold(picture, seed=0, ensemble_size=arguments.ensemble)
        known = np.isfinite(truth)
        scale, shift = np.polyfit(prediction.depth[known].astype(float), truth[known], 1)
        oracle, _ = errors(scale * prediction.depth[known] + shift, truth[known])
        frames.append(Frame(file.parent.name, picture, truth, prediction, oracle))
        if len(frames) == arguments.frames:
            break
    if not frames:
        raise SystemExit(f"{arguments.folder} has no frames with true depth.")
    return frames


def errors(depth: Floats, truth: Floats) -> tuple[float, float]:
    """(AbsRel, RMSE)"""
    difference = depth - truth
    return float(np.mean(np.abs(difference) / truth)), float(np.sqrt(np.mean(difference**2)))


def drawn(frame: Frame, count: int, lines: int, rng: np.random.Generator) -> KnownDepths:
    """`count` points, or those of a LiDAR of so many lines, one in twenty of them wrong."""
    height, width = frame.truth.shape
    rows, columns = np.nonzero(np.isfinite(frame.truth))
    if lines:
        on_line = np.rint(np.linspace(height // 4, height - 1, lines) + rng.uniform(-2, 0))
        hit = np.isin(rows, on_line) & (columns % 4 == rng.integers(4))
        rows, columns = rows[hit], columns[hit]
        count = len(rows)
    picked = rng.choice(len(rows), min(count, len(rows)), replace=False)
    rows, columns = rows[picked], columns[picked]
    metres = frame.truth[rows, columns].copy()
    # Of few points that is one in some of the draws.
    wrong = rng.permutation(len(metres))[: int(len(metres) * WRONG + rng.random())]
    metres[wrong] *= np.exp(rng.choice([-1, 1], len(wrong)) * rng.uniform(0.4, 1.4, len(wrong)))
    return KnownDepths(np.column_stack([columns, rows]) + 0.5, metres, size=frame.truth.shape)


def least_squares(frame: Frame, known: KnownDepths) -> Floats:
    rows, columns = known.pixels(frame.truth.shape)
    values = frame.prediction.depth.astype(float)
    if not np.ptp(values[rows, columns]):
        return np.full(values.shape, known.metres.mean())
    scale, shift = np.polyfit(values[rows, columns], known.metres, 1)
    return np.maximum(scale * values + shift, 0.05 * known.metres.min())


def interpolated(frame: Frame, known: KnownDepths, pixels: Any, linear: bool) -> Floats:
    """At `pixels` (rows, columns); linear is nearest outside the points' hull."""
    places = np.column_stack(pixels)[:, ::-1] + 0.5
    nearest = NearestNDInterpolator(known.positions, known.metres)(places)
    if not linear or len(known) < 4:
        return nearest
    inside = LinearNDInterpolator(known.positions, known.metres)(places)
    return np.where(np.isfinite(inside), inside, nearest)


def measured(
    frame: Frame, known: KnownDepths, pixels: Any, arguments: argparse.Namespace, marigold: Any,
    times: list[float],
) -> dict[str, tuple[float, float]]:  # fmt: skip
    truth = frame.truth[pixels]
    found: dict[str, Floats] = {}
    began = time.process_time()
    fitted = None
    try:
        fitted = fit_metric(frame.prediction, known)
        found["fit"] = fitted.depth[pixels]
    except MarigoldError:  # two points of which one is wrong can contradict the map
        pass
    times.append(time.process_time() - began)
    if arguments.guided and fitted is not None:
        from marigold_core.metric.guided import guided_depth

        guided = guided_depth(
            marigold, frame.picture, known, before=frame.prediction, seed=0,
            num_inference_steps=arguments.guided_steps,
        )  # fmt: skip
        found["guided"] = guided.depth[pixels].astype(float)
    found["plain"] = least_squares(frame, known)[pixels]
    found["nearest"] = interpolated(frame, known, pixels, linear=False)
    found["linear"] = interpolated(frame, known, pixels, linear=True)
    return {name: errors(depth, truth) for name, depth in found.items()}


def ceiling(marigold: Any, frame: Frame) -> float:
    """AbsRel of the true depth after the VAE's round trip: no map that it decodes is better."""
    import torch

    from marigold_core.denoising import decode, encode, vae_factor

    factor = vae_factor(marigold.vae)
    height, width = (side // factor * factor for side in frame.truth.shape)
    truth = frame.truth[:height, :width]
    low, high = np.nanpercentile(truth, [2, 98])
    # Holes get the nearest depth: an edge at each would be the VAE's hardest picture.
    hole = ~np.isfinite(truth)
    nearest = distance_transform_edt(hole, return_distances=False, return_indices=True)
    depth = ((truth[tuple(nearest)] - low) / (high - low)).clip(0, 1)
    pixels = torch.from_numpy(depth * 2 - 1).float().expand(1, 3, -1, -1)
    back = decode(marigold.vae, encode(marigold.vae, pixels, marigold.device))
    values = back.mean(1)[0].add(1).div(2).clamp(0, 1).cpu().numpy().astype(float)
    known = np.isfinite(truth)
    return errors(values[known] * (high - low) + low, truth[known])[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=100, help="sets of points for each frame")
    parser.add_argument("--frames", type=int, help="so many frames alone")
    rows = {**{str(count): (count, 0) for count in COUNTS},
            **{f"{lines}-line": (0, lines) for lines in LIDARS}}  # fmt: skip
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows), metavar="ROW",
                        help=f"of {', '.join(rows)} (default: all)")  # fmt: skip
    parser.add_argument("--checkpoint", help="its predictions instead of simulated ones")
    parser.add_argument("--ensemble", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="guided sampling too; takes long")
    parser.add_argument("--guided-steps", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.guided and not arguments.checkpoint:
        parser.error("--guided needs a --checkpoint")
    marigold = None
    if arguments.checkpoint:
        from marigold_core import Marigold

        marigold = Marigold.from_pretrained(arguments.checkpoint)
    frames = read_frames(arguments, marigold)
    source = arguments.checkpoint or "simulated"
    print(f"{len(frames)} frames, {source} predictions, {arguments.draws} draws, {WRONG:.0%} wrong"
          f" points, {platform.machine()}. Oracle: AbsRel"
          f" {np.median([frame.oracle for frame in frames]):.4f}.", end="")  # fmt: skip
    if marigold is not None:
        print(
            f" The VAE's ceiling: {np.median([ceiling(marigold, f) for f in frames]):.4f}.", end=""
        )
    names = ["fit", *(["guided"] if arguments.guided else []), "plain", "nearest", "linear"]
    print(f"\n\n| points | {' | '.join(names)} | fit / oracle | worst frame | fit, ms |")
    print("|---|" + "--:|" * (len(names) + 3))
    missed = False
    for count, lines in (rows[name] for name in arguments.rows):
        per_frame: dict[str, list[tuple[float, float]]] = defaultdict(list)
        ratios, times = [], []
        for frame in frames:
            rng = np.random.default_rng(1000 + count + lines)
            known = np.argwhere(np.isfinite(frame.truth))
            pixels = tuple(known[rng.integers(len(known), size=MEASURED)].T)
            each = [
                measured(frame, drawn(frame, count, lines, rng), pixels, arguments, marigold, times)
                for _ in range(arguments.draws)
            ]
            for name in names:
                got = np.array([one[name] for one in each if name in one])
                if len(got):
                    per_frame[name].append(tuple(np.median(got, axis=0)))
            if any("fit" in one for one in each):
                ratios.append(per_frame["fit"][-1][0] / frame.oracle)
        cells = []
        for name in names:
            if per_frame[name]:
                absrel, rmse = np.median(np.array(per_frame[name]), axis=0)
                cells.append(f"{absrel:.4f} ({rmse:.3f})")
            else:
                cells.append("")
        ratio = float(np.median(ratios))
        missed |= count in GOALS and ratio > GOALS[count] and not arguments.checkpoint
        label = f"{lines}-line LiDAR" if lines else str(count)
        print(f"| {label} | {' | '.join(cells)} | {ratio:.3f} | {max(ratios):.3f} |"
              f" {1e3 * np.median(times):.0f} |", flush=True)  # fmt: skip
    sys.exit(missed)


if __name__ == "__main__":
    main()
