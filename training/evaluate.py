"""How good a checkpoint is: AbsRel and delta1 after the affine fit, beside two trivial maps.

    python training/evaluate.py nano                        # procedural scenes it never saw
    python training/evaluate.py nano --rgbd ../shared/data/rgbd     # and photographed frames

The trivial maps take the same fit: the single best constant, and a vertical ramp (depth grows
towards the top of the picture). A model is worth something where it beats both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from data.latents import SHAPES, has_range
from data.procedural import render_scenes
from data.rgbd_folder import Frame, real_frames
from metrics import Score, score, vertical_ramp
from tqdm import tqdm

from marigold_core import Marigold

# Far from every training seed, which count up from small numbers.
HELD_OUT_SEED = 987_654_321


def procedural_frames(count: int) -> Iterable[Frame]:
    for i in range(count):
        height, width = SHAPES[i % len(SHAPES)]
        generator = torch.Generator().manual_seed(HELD_OUT_SEED + i)
        scene = render_scenes(1, height, width, generator)
        rgb = scene.rgb[0].permute(1, 2, 0).numpy()
        if has_range(scene.depth, scene.valid):
            yield Frame(f"scene {i}", rgb, scene.depth[0].numpy(), scene.valid[0].numpy())


def evaluate(marigold: Marigold, frames: Iterable[Frame], args: argparse.Namespace) -> None:
    rows: list[tuple[str, list[Score]]] = []
    for frame in tqdm(list(frames), leave=False):
        flat, ramp = np.zeros(frame.depth.shape, np.float32), vertical_ramp(*frame.depth.shape)
        scores = [score(flat, frame.depth, frame.valid), score(ramp, frame.depth, frame.valid)]
        for steps, members in args.settings:
            depth_map = marigold(
                frame.rgb,
                num_inference_steps=steps,
                ensemble_size=members,
                generator=torch.Generator().manual_seed(args.seed),
            )
            scores.append(score(depth_map.depth, frame.depth, frame.valid))
        rows.append((frame.name, scores))
    names = ["constant", "ramp", *(f"{s} steps x {m}" for s, m in args.settings)]
    print("| frame | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for name, scores in rows if args.per_frame else []:
        print(f"| {name} | " + " | ".join(f"{s.abs_rel:.3f}/{s.delta1:.3f}" for s in scores) + " |")
    mean = np.mean([scores for _, scores in rows], axis=0)
    print(f"| mean of {len(rows)} | " + " | ".join(f"{a:.3f}/{d:.3f}" for a, d in mean) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="bundled name, folder or hub id")
    parser.add_argument("--scenes", type=int, default=400, help="held-out procedural scenes")
    parser.add_argument("--rgbd", type=Path, help="folder of photographed frames with depth")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["1x1", "4x1", "1x10", "4x10"],
        help="steps x ensemble members",
    )
    parser.add_argument("--per-frame", action="store_true", help="a row for each frame")
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=1234)
    args = parser.parse_args()
    args.settings = [tuple(map(int, setting.split("x"))) for setting in args.settings]

    marigold = Marigold.from_pretrained(args.checkpoint, device=args.device)
    print("Procedural scenes, AbsRel/delta1:\n")
    evaluate(marigold, procedural_frames(args.scenes), args)
    if args.rgbd:
        print("\nPhotographed frames, AbsRel/delta1:\n")
        evaluate(marigold, real_frames(args.rgbd), args)


if __name__ == "__main__":
    main()
