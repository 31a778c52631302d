"""This engine beside diffusers' MarigoldDepthPipeline: same weights, same noise, one process.

    python benchmarks/engine.py                                # all parts this machine can run
    python benchmarks/engine.py nano                           # the bundled checkpoint on the CPU
    python benchmarks/engine.py full-cpu --members 1           # Stable Diffusion 2's size, random
    python benchmarks/engine.py full-cuda --size 768x768 --members 10 --card-gb 6

They run in turn and the medians are compared. "diffusers" has its defaults: float32, one member at
a time, its own ensembling. "expert" is diffusers with all members in one batch; channels last in
the case's dtype where that is not float32. All times are of a whole call, from the picture to the
depth at the picture's size. Peak memory is what torch reserves on CUDA; on the CPU (--memory) it is
the largest resident size of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldDepthPipeline, UNet2DConditionModel
from diffusers.utils import logging
from roofline import UNET, VAE, randomized

sys.path.insert(0, str(Path(__file__).parents[1]))
from marigold_core import Marigold  # noqa: E402
from marigold_core.checkpoints.autoencoder import Autoencoder  # noqa: E402
from marigold_core.checkpoints.empty_prompt import empty_prompt_embedding  # noqa: E402
from marigold_core.checkpoints.unet import UNet  # noqa: E402

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
ENGINES = ("diffusers", "expert", "marigold-kit")
NANO = Path(__file__).parents[1] / "marigold_core" / "assets" / "nano"


@dataclass(frozen=True)
class Case:
    """What is run: weights "nano" or "full", on pictures of width x height at native resolution."""

    weights: str
    device: str
    dtype: torch.dtype
    width: int
    height: int
    steps: int
    members: int

    @property
    def label(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        size = f"{self.width}x{self.height}"
        return f"{self.weights} | {self.device} {dtype} | {size} | {self.steps} | {self.members}"


def main() -> None:
    args = arguments()
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"torch {torch.__version__}, {device}, {args.threads} CPU threads, ", end="")
    print(f"median of {args.repeats}\n")
    if args.card_gb and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.card_gb * 2**30 / whole))
    print(
        "| weights | device | picture | steps | N | diffusers s | expert s | ours s "
        "| ratio to both | diffusers GiB | expert GiB | ours GiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for part in args.parts:
        engines: Engines | None = None
        for case in cases(part, args):
            engines = engines or load(case)
            seconds, peaks = compare(engines, case, args.repeats)
            if args.memory and case.device == "cpu":
                peaks = {name: peak_of_child(name, case, args.threads) for name in ENGINES}
            theirs, expert, ours = (seconds[name] for name in ENGINES)
            memory = " | ".join(f"{peaks[name]:.2f}" if name in peaks else "-" for name in ENGINES)
            print(
                f"| {case.label} | {theirs:.3f} | {expert:.3f} | {ours:.3f} "
                f"| {theirs / ours:.2f}, {expert / ours:.2f} | {memory} |",
                flush=True,
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["nano", "full-cpu", "full-cuda"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--size", help="WIDTHxHEIGHT of the picture instead of the part's own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="measure it on the CPU too")
    parser.add_argument("--card-gb", type=float, help="let CUDA have this much memory alone")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(parts))
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(parts)}")
    args.parts = args.parts or [p for p in parts if "cuda" not in p or torch.cuda.is_available()]
    return args


def cases(part: str, args: argparse.Namespace) -> list[Case]:
    weights, _, device = part.partition("-")
    device = device or "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    size = {"nano": "160x120", "full-cpu": "256x192", "full-cuda": "768x576"}[part]
    width, height = (int(side) for side in (args.size or size).split("x"))
    return [
        Case(weights, device, dtype, width, height, steps, members)
        for members in args.members
        for steps in args.steps
    ]


Engines = dict[str, Callable[[Case], Any]]


def load(case: Case, names: tuple[str, ...] = ENGINES) -> Engines:
    """A function for each engine that runs a case; all have the same weights."""
    unet, vae, config, prompt = networks(case)
    options: dict[str, Any] = {}
    if case.weights == "nano":
        options = {"num_inference_steps": 1, "processing_resolution": 256}
    made: dict[str, Any] = {}
    if "marigold-kit" in names:
        own = [own_network(network, prompt, case.dtype) for network in (unet, vae)]
        made["marigold-kit"] = Marigold(*own, config, prompt.to(case.dtype), **options)
    if "expert" in names:
        tuned = [unet, vae]
        if case.dtype != torch.float32:  # in float32 channels last gains nothing
            tuned = [in_dtype(network, case.dtype) for network in tuned]
        made["expert"] = pipeline(*tuned, config, prompt.to(case.dtype))
    if "diffusers" in names:
        made["diffusers"] = pipeline(unet, vae, config, prompt)
    return {name: partial(run, name, made[name]) for name in names}


def run(name: str, engine: Any, case: Case, **changes: Any) -> Any:
    """A whole call of one engine, from the picture to the depth at the picture's size."""
    options: dict[str, Any] = {
        "num_inference_steps": case.steps,
        "ensemble_size": case.members,
        "processing_resolution": 0,
        "generator": torch.Generator(case.device).manual_seed(0),
    }
    options |= changes
    if name == "marigold-kit":
        return engine(picture(case), **options)
    if name == "expert":
        options["batch_size"] = case.members
    # With an array and latents diffusers takes the size from the wrong axes.
    pixels = torch.from_numpy(picture(case)).permute(2, 0, 1)[None]
    return engine(pixels, output_uncertainty=case.members > 1, **options)


def networks(case: Case) -> tuple[Any, Any, dict[str, Any], torch.Tensor]:
    """diffusers' U-Net and VAE in float32 on the device, the scheduler's fields, the prompt."""
    if case.weights != "nano":
        return full_size(case.device)
    read = [(UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")]
    unet, vae = (
        kind.from_pretrained(NANO, subfolder=part).eval().requires_grad_(False).to(case.device)
        for kind, part in read
    )
    return unet, vae, SCHEDULER, empty_prompt_embedding(NANO).to(case.device)


def own_network(network: Any, prompt: torch.Tensor, dtype: torch.dtype) -> Any:
    """This engine's network with a copy of the weights of diffusers'."""
    kind = UNet if isinstance(network, UNet2DConditionModel) else Autoencoder
    with torch.device("meta"):
        own: Any = kind(json.loads(network.to_json_string()))
    state = {name: weight.to(dtype, copy=True) for name, weight in network.state_dict().items()}
    own.load_state_dict(state, assign=True)
    own.fold(prompt)
    if kind is Autoencoder or dtype != torch.float32:  # as `load_for_inference`
        own.to(memory_format=torch.channels_last)
    return own.eval().requires_grad_(False)


def in_dtype(network: Any, dtype: torch.dtype) -> Any:
    """diffusers' network once more, channels last, without a second copy in float32."""
    with torch.device("meta"):
        twin = type(network).from_config(network.config)
    state = {name: weight.to(dtype, copy=True) for name, weight in network.state_dict().items()}
    twin.load_state_dict(state, assign=True)
    return twin.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def pipeline(
    unet: Any, vae: Any, config: dict[str, Any], prompt: torch.Tensor
) -> MarigoldDepthPipeline:
    made = MarigoldDepthPipeline(
        unet, vae, DDIMScheduler.from_config(config), None, None, prediction_type="depth"
    )
    made.empty_text_embedding = prompt
    made.set_progress_bar_config(disable=True)
    return made


def picture(case: Case) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((case.height, case.width, 3), dtype=np.float32)


def full_size(device: str) -> tuple[Any, Any, dict[str, Any], torch.Tensor]:
    """Stable Diffusion 2's networks with eight input channels and random weights."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
    made = [randomized(network, device, torch.float32) for network in (unet, vae)]
    return made[0], made[1], SCHEDULER, torch.randn(1, 2, 1024, device=device)


def compare(
    engines: Engines, case: Case, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds and, on CUDA, peak GiB of each engine with its own weights, run in turn.

    An engine for which memory runs out has NaN, and the others continue.
    """
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    peaks: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for name, run in engines.items():
            if case.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                others = torch.cuda.memory_reserved() - weight_bytes(run)
            began = time.perf_counter()
            try:
                run(case)
            except torch.OutOfMemoryError as error:
                print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
                seconds[name].append(math.nan)
                continue
            if case.device == "cuda":
                torch.cuda.synchronize()
                peaks[name] = (torch.cuda.max_memory_reserved() - others) / 2**30
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}, peaks


def weight_bytes(run: Any) -> int:
    """Of the engine's networks. run: as from `load`."""
    networks = run.args[1].unet, run.args[1].vae
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def peak_of_child(name: str, case: Case, threads: int) -> float:
    """Largest resident GiB of a fresh process that runs one case once."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(child, (name, case, threads))


def child(name: str, case: Case, threads: int) -> float:
    import resource

    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    load(case, (name,))[name](case)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    main()
