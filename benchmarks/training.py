"""Training speed: finetune.py's step against a plain loop after the authors' published recipe.

    python benchmarks/training.py                       # the bundled checkpoint on the CPU
    python benchmarks/training.py nano --memory         # and the peak of a process of its own
    python benchmarks/training.py full-cuda --memory    # Stable Diffusion 2's size, random weights

The plain loop is the released one in short: float32, micro-batches of 2, for each of them two
runs of the VAE's encoder (picture and depth), noise, the U-Net, Adam. Ours takes both latents from
the cache that finetune.py writes (filling it is printed separately: it takes this time once, and
the plain loop takes it in every epoch). All variants see the same samples and, but for larger
micro-batches, the same noise; they take turns, one optimiser step each, from the same weights. The
table's loss is the mean over these steps. Memory is what a separate process has at most: reserved
by torch on CUDA, resident on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from engine import SCHEDULER, Case, networks
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]
from batches import LatentBatches, noise_generator  # noqa: E402
from data.latent_cache import LatentCache, fill, write_index  # noqa: E402
from data.sample import Sample, SampleDataset  # noqa: E402
from data.scenes import ProceduralScenes  # noqa: E402
from objective import denoising_loss, multi_resolution_noise  # noqa: E402

from marigold_core import Marigold  # noqa: E402
from marigold_core.diffusion import NoiseSchedule  # noqa: E402

SEED = 2024
MICRO_BATCH = 2


@dataclass(frozen=True)
class Variant:
    """cached: latents from the disk. bf16: autocast. checkpointing: activations recomputed.

    at_once: samples of a micro-batch; with others than the plain loop's the noise is another.
    """

    name: str
    cached: bool = True
    bf16: bool = False
    checkpointing: bool = False
    channels_last: bool = True
    at_once: int = MICRO_BATCH


PLAIN = Variant("plain loop, float32", cached=False, channels_last=False)
CACHED = Variant("cached latents, float32")
HALF = Variant("cached latents, bf16", bf16=True)
LEAST = Variant("cached latents, bf16, gradient checkpointing", bf16=True, checkpointing=True)
LARGER = Variant("cached latents, float32, micro-batches of 16", at_once=16)
VARIANTS = {"nano": (PLAIN, CACHED, LARGER, HALF), "full-cuda": (PLAIN, CACHED, HALF, LEAST)}


class Scenes(SampleDataset):
    """Procedural scenes of one shape, rendered once and kept: reading data is not measured."""

    def __init__(self, count: int, height: int, width: int) -> None:
        scenes = ProceduralScenes(count, "train", (height, width))
        self.samples = [scenes[i] for i in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def name(self, index: int) -> str:
        return self.samples[index].name


def plain_loss(marigold: Marigold, unet: Any, samples: list[Sample], number: int) -> Tensor:
    """As the authors' trainer computes it: everything from the pixels, in every step."""
    device = marigold.device
    scheduler: Any = DDPMScheduler.from_config(SCHEDULER)
    vae: Any = marigold.vae
    with torch.no_grad():
        rgb = torch.stack([s.image for s in samples]).to(device) * 2 - 1
        targets = []
        for sample in samples:
            low, high = torch.quantile(sample.depth[sample.valid], torch.tensor([0.02, 0.98]))
            targets.append(((sample.depth - low) / (high - low) * 2 - 1).clip(-1, 1))
        depth = torch.stack(targets)[:, None].repeat(1, 3, 1, 1).to(device)
        rgb_latent, depth_latent = (
            vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
            for pixels in (rgb, depth)
        )
    invalid = ~torch.stack([s.valid for s in samples])[:, None].to(device)
    mask = ~torch.max_pool2d(invalid.float(), 8, 8).bool().repeat(1, 4, 1, 1)
    generator = noise_generator(SEED, number, device)
    batch = len(samples)
    timesteps = torch.randint(0, 1000, (batch,), generator=generator, device=device)
    torch.rand(batch, generator=generator, device=device)  # keeps step with ours
    noise = multi_resolution_noise(depth_latent.shape, timesteps, generator=generator)
    noisy = scheduler.add_noise(depth_latent, noise, timesteps)
    text = marigold.text_embedding.float().repeat(batch, 1, 1)
    output = unet(torch.cat([rgb_latent, noisy], 1).float(), timesteps, text).sample
    target = scheduler.get_velocity(depth_latent, noise, timesteps)
    return (output.float()[mask] - target.float()[mask]).square().mean()


def stepper(
    variant: Variant, marigold: Marigold, scenes: Scenes, cache: LatentCache, args: Any
) -> Callable[[int], float]:
    """A function that takes optimiser step n and returns its loss."""
    unet: Any = copy.deepcopy(marigold.unet).to(marigold.device).requires_grad_(True).train()
    if variant.channels_last:
        unet.to(memory_format=torch.channels_last)
    if variant.checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.Adam(unet.parameters(), 3e-5)
    schedule = NoiseSchedule.from_config(SCHEDULER)
    samples = args.accumulation * MICRO_BATCH
    at_once = math.gcd(variant.at_once, samples)  # every variant takes as many samples a step
    batches = LatentBatches([cache], [1.0], SEED, at_once, flip=False)
    text = marigold.text_embedding.float()
    device = marigold.device

    def loss_of(number: int) -> Tensor:
        if not variant.cached:
            indices = batches.mixture.draw(number).indices
            return plain_loss(marigold, unet, [scenes[i] for i in indices], number)
        batch = batches[number].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16):
            return denoising_loss(
                unet, batch.image, batch.depth, text, schedule, mask=batch.mask,
                generator=noise_generator(SEED, number, device),
            )  # fmt: skip

    def step(n: int) -> float:
        total = 0.0
        parts = samples // at_once
        for micro in range(parts):
            loss = loss_of(n * parts + micro) / parts
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def prepare(part: str, args: Any, folder: Path) -> tuple[Marigold, Scenes, LatentCache, float]:
    """Networks, data, the filled cache, and the seconds that filling it took."""
    device = "cpu" if part == "nano" else "cuda"
    # Training takes diffusers' networks; the engine's own are for inference.
    unet, vae, config, prompt = networks(Case(part, device, torch.float32, 0, 0, 1, 1))
    marigold = Marigold(unet, vae, config, prompt)
    width, height = (int(side) for side in (args.size or default_size(part)).split("x"))
    scenes = Scenes(args.scenes, height, width)
    began = time.perf_counter()
    if not (folder / "index.json").is_file():
        fill(folder, scenes, marigold.vae, flip=False, metric=False, invalid="ignore")
        write_index(folder, len(scenes))
    seconds = time.perf_counter() - began
    return marigold, scenes, LatentCache(folder), seconds


def default_size(part: str) -> str:
    return "160x120" if part == "nano" else "640x480"


def measure(part: str, variants: tuple[Variant, ...], args: Any) -> None:
    samples = args.accumulation * MICRO_BATCH
    with tempfile.TemporaryDirectory() as folder:
        marigold, scenes, cache, filling = prepare(part, args, Path(folder))
        steps = {v: stepper(v, marigold, scenes, cache, args) for v in variants}
        seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
        losses: dict[Variant, list[float]] = {variant: [] for variant in variants}
        for n in range(args.steps + 1):
            for variant in variants:
                began = time.perf_counter()
                losses[variant].append(steps[variant](n))
                if marigold.device.type == "cuda":
                    torch.cuda.synchronize()
                if n:  # the first round warms up
                    seconds[variant].append(time.perf_counter() - began)
        del steps, marigold
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for variant in variants:
            rate = samples / statistics.median(seconds[variant])
            plain = samples / statistics.median(seconds[variants[0]])
            off = max(abs(a - b) for a, b in zip(losses[variant], losses[variants[0]], strict=True))
            peak = f"{peak_of_child(part, variant, args, folder):.2f}" if args.memory else "-"
            loss = statistics.mean(losses[variant])
            print(f"| {part} | {variant.name} | {rate:.2f} | {rate / plain:.2f} | {peak} "
                  f"| {loss:.4f} | {off:.1e} |", flush=True)  # fmt: skip
    print(f"\n{part}: the cache of {args.scenes} scenes took {filling:.1f} s to fill, once.\n")


def peak_of_child(part: str, variant: Variant, args: Any, folder: str) -> float:
    """GiB that a fresh process has at most, taking one step of one variant."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(child, (part, variant, args, folder))


def child(part: str, variant: Variant, args: Any, folder: str) -> float:
    import resource

    torch.set_num_threads(args.threads)
    marigold, scenes, cache, _ = prepare(part, args, Path(folder))
    if variant.cached and marigold.device.type == "cuda":
        marigold.vae.cpu()  # where finetune.py keeps it between validations
    marigold.unet.cpu()  # the stepper's own copy is the one that counts
    step = stepper(variant, marigold, scenes, cache, args)
    step(0)
    if marigold.device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = list(VARIANTS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps that count")
    parser.add_argument("--accumulation", type=int, default=16, help="micro-batches of 2 a step")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--size", help="WIDTHxHEIGHT instead of 160x120, on CUDA 640x480")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="measure the peak as well")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(parts))
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(parts)}")
    torch.set_num_threads(args.threads)
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "no GPU"
    print(f"torch {torch.__version__}, {device}, {args.threads} CPU threads; {args.accumulation} "
          f"micro-batches of {MICRO_BATCH} a step, median of {args.steps} steps\n")  # fmt: skip
    print("| weights | variant | samples/s | ratio | peak GiB | loss | differs from plain by |")
    print("|---|---|---|---|---|---|---|")
    for part in args.parts or ["nano", *(["full-cuda"] if cuda else [])]:
        measure(part, VARIANTS[part], args)


if __name__ == "__main__":
    main()
