"""A tiny base and a small folder of pictures with depth, made for the tests of finetune.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_builders import build_checkpoint, replace_unet
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
FINETUNE = ROOT / "training" / "finetune.py"
QUICK = (
    "--cpu --workers 0 --batch-size 4 --micro-batch 2 --learning-rate 1e-2 --warmup 1 "
    "--decay-steps 20 --val-samples 1 --no-tensorboard"
).split()

SIX = "--steps 6 --save-every 2 --val-every 2 --select last --ema 0.9 --dropout 0.1".split()


def build_base(folder: Path, in_channels: int = 4) -> Path:
    """Stable Diffusion in tiny; 8 channels: a Marigold in tiny."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        build_checkpoint(folder, "v1-1")
        if in_channels != 8:
            replace_unet(folder, in_channels=in_channels)
    return folder


def build_pictures(folder: Path, count: int = 6, size: int = 64, seed: int = 0) -> Path:
    """Discs and slopes whose depth can be seen; depth in metres as NPY."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    y, x = np.mgrid[:size, :size] / size
    for number in range(count):
        angle = random.uniform(0, 2 * np.pi)
        depth = 3 + 1.5 * (np.cos(angle) * x + np.sin(angle) * y)
        inside = (x - random.uniform(0.2, 0.8)) ** 2 + (y - random.uniform(0.2, 0.8)) ** 2 < 0.05
        depth = np.where(inside, 1.2, depth)
        shade = 1 / depth
        rgb = np.stack([shade, shade * 0.8, np.where(inside, 0.9, shade)], -1)
        rgb = (rgb + random.normal(0, 0.02, rgb.shape)).clip(0, 1)
        name = f"{number:02}"
        Image.fromarray((rgb * 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        np.save(folder / "depth" / f"{name}.npy", depth.astype(np.float32))
    return folder


def flags(base: Path, pictures: Path, output: Path, *more: Any) -> list[str]:
    given = ["--base", base, "--data", f"folder:{pictures}", "--output", output, *QUICK, *more]
    return [str(flag) for flag in given]


def train(arguments: list[str]) -> None:
    """As a program of its own would: accelerate keeps its state in the process."""
    import finetune
    from accelerate.state import AcceleratorState, GradientState

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums come out otherwise with another number
    try:
        finetune.main(arguments)
    finally:
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def spawn(*command: Any, **options: Any) -> subprocess.Popen[str]:
    """A program of its own, on one thread."""
    paths = [str(ROOT), str(ROOT / "training"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "unet" / "diffusion_pytorch_model.safetensors")


def assert_identical(output: Path, other: Path) -> None:
    ours, theirs = weights(output), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ"


def build_mapped(folder: Path, count: int = 6, size: int = 64, seed: int = 0) -> Path:
    """Balls before a wall under one lamp: pictures with normals and intrinsic images as NPY.

    albedo * shading + residual is the picture in linear light; the wall is rough paint, the balls
    are smooth, every second one of metal.
    """
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:size, :size] / size
    for number in range(count):
        centre, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.2, 0.3)
        u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
        ball = u**2 + v**2 < 0.98
        normals = np.zeros((size, size, 3), np.float32)
        normals[..., 2] = 1
        facing = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
        normals[ball] = np.stack([u, -v, facing], -1)[ball]
        light = random.normal(0, 1, 3)
        light[2] = abs(light[2]) + 0.5
        shading = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)[..., None] * (
            1,
            0.9,
            0.8,
        )
        colours = random.uniform(0.2, 0.8, (2, 3))
        maps = {
            "normals": normals,
            "albedo": np.where(ball[..., None], *colours),
            "shading": shading * 2,
            "residual": np.where(ball, 0.2, 0.02)[..., None] * np.ones(3),
            "roughness": np.where(ball, 0.2, 0.9),
            "metallicity": ball * float(number % 2),
        }
        picture = maps["albedo"] * maps["shading"] + maps["residual"]
        picture = np.clip(picture / 1.5, 0, 1) ** (1 / 2.2)
        name = f"{number:02}"
        Image.fromarray((picture * 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        for kind, values in maps.items():
            (folder / kind).mkdir(exist_ok=True)
            np.save(folder / kind / f"{name}.npy", values.astype(np.float32))
    return folder
