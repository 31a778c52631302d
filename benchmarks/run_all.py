"""Everything that this machine can say about speed and parity, in one command of a few minutes.

    python benchmarks/run_all.py --device cuda           # Stable Diffusion 2's size, 768 x 576
    python benchmarks/run_all.py --device cpu --small    # nano, a dry run of the same code

Measures whole calls of this engine, of diffusers with its defaults and of diffusers as an expert
tunes it (see engine.py), in turn; fits the cost to members, steps and pixels; and checks: parity in
float32 and in the device's half precision, the VAE in half precision alone, and the halving of a
batch for which memory runs out. Beside them: the share of the matrix product's ceiling that is
reached, the share of alignment and merging, one step end to end and with a tiny VAE beside what
others published, and the memory that ten members take. Prints one table and the verdicts, writes
JSON, and exits with 1 where a check fails or something could not be measured. --compile adds the
U-Net through torch.compile, with its warm-up.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import engine
import numpy as np
import roofline
import torch
from diffusers import AutoencoderTiny
from diffusers.utils import logging
from engine import Case

from marigold_core import Marigold
from marigold_core.checkpoints.networks import default_dtype
from marigold_core.errors import MarigoldWarning
from marigold_core.memory import OutOfMemory

PARITY = 1e-4  # of depth in [0, 1], in float32
# Random weights make a VAE noisier than any picture; nano's differs by 0.001.
VAE_DIFFERENCE = 0.02
# bf16 Tops/s: the vendor's figure for dense matrices with float32 sums.
PUBLISHED = {
    "end to end": {"published ms": 121, "card": "RTX 4090", "its Tops/s": 165},
    "LCM with a tiny VAE": {"published ms": 85, "card": "RTX 3090", "its Tops/s": 71},
}
NOT_LINEAR = 0.25  # median relative error of the fit, on a machine with nothing else to do


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--small", action="store_true", help="nano and 64 x 48 pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("run_all.json"))
    args = parser.parse_args()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", MarigoldWarning)  # members of random weights contradict
    began = time.perf_counter()
    half = torch.float16 if args.device == "cuda" else torch.bfloat16
    dtype = half
    if args.device == "cpu":
        dtype = default_dtype(torch.device("cpu"), 0 if args.small else 866_000_000)
    size = (64, 48) if args.small else (768, 576) if args.device == "cuda" else (256, 192)
    base = Case("nano" if args.small else "full", args.device, dtype, *size, 1, 1)
    report: dict[str, Any] = {
        "device": device_name(args.device),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "case": f"{base.weights}, {size[0]} x {size[1]}",
    }
    print(", ".join(map(str, report.values())), flush=True)
    report["speed"] = list(speed(base, args.repeats))
    report["fit"] = fitted(base, args.repeats)
    networks = engine.networks(base)
    report["checks"] = {
        name: checked(check, base, half, networks)
        for name, check in (
            ("float32 parity", float32_parity),
            ("half precision parity", half_parity),
            ("VAE in half precision", vae_in_half),
            ("out of memory", halving),
        )
    }
    del networks
    limits = roofline.ceilings(args.device, base.dtype)
    for name, measure in (
        ("ten members", ten_members),
        ("beside what was published", beside_published),
        ("memory", memory),
    ):
        report[name] = attempted(measure, base, limits)
        print(f"{name}: {report[name]}", flush=True)
    if args.compile:
        report["torch.compile"] = attempted(compiled, base, args.repeats)
        print(f"torch.compile: {report['torch.compile']}", flush=True)
    report["seconds"] = time.perf_counter() - began
    for name, facts in report["checks"].items():
        print(f"{'ok    ' if facts['ok'] else 'FAILED'} {name}: {facts}")
    print(f"fit: {report['fit']}\n{args.output}, {report['seconds']:.0f} s")
    args.output.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    broken = [
        name for name, facts in report.items() if isinstance(facts, dict) and "error" in facts
    ]
    for name in broken:
        print(f"FAILED {name}: {report[name]['error']}")
    sound = all(facts["ok"] for facts in report["checks"].values())
    return 0 if sound and not broken else 1


def attempted(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What was measured, or why not: one failure does not cost the rest of the report."""
    try:
        return measure(*arguments)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def checked(check: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    return {"ok": False} | attempted(check, *arguments)


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} cores"


def speed(base: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """Median seconds and peak memory of the three engines; prints the table."""
    print("| steps | N | diffusers s | expert s | ours s | ratio to diffusers | ratio to expert |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    engines = engine.load(base)
    for steps, members in ((1, 1), (4, 1), (1, 10), (4, 10)):
        case = replace(base, steps=steps, members=members)
        # diffusers may take minutes to align ten members.
        seconds, peaks = engine.compare(engines, case, repeats if members == 1 else 1)
        theirs, expert, ours = (seconds[name] for name in engine.ENGINES)
        print(
            f"| {steps} | {members} | {theirs:.3f} | {expert:.3f} | {ours:.3f} "
            f"| {theirs / ours:.2f} | {expert / ours:.2f} |",
            flush=True,
        )
        yield asdict(case) | {"seconds": seconds, "peak GiB": peaks}


def fitted(base: Case, repeats: int) -> dict[str, Any]:
    """Seconds = a + b pixels + c pixels N + d pixels N steps, by least squares of relative errors.

    pixels in millions: encoding, decoding and denoising.
    """
    ours = engine.load(base, ("marigold-kit",))
    rows, times = [], []
    for scale in (1, 2):
        for members, steps in ((1, 1), (1, 4), (4, 1), (4, 4)):
            case = replace(base, width=base.width * scale, steps=steps, members=members)
            pixels = case.width * case.height / 1e6
            seconds = engine.compare(ours, case, repeats)[0]["marigold-kit"]
            rows.append([1, pixels, pixels * members, pixels * members * steps])
            times.append(seconds)
    design, wanted = np.array(rows), np.array(times)
    weighted = design / wanted[:, None]
    found = np.linalg.lstsq(weighted, np.ones(len(times)), rcond=None)[0]
    errors = np.abs(weighted @ found - 1)
    names = ("seconds", "per megapixel", "per megapixel and member", "per member's step")
    return {
        **{name: round(float(value), 5) for name, value in zip(names, found, strict=True)},
        "median error": f"{np.median(errors):.1%}",
        "linear": bool(np.median(errors) < NOT_LINEAR),
    }


def of_diffusers(networks: Any, case: Case, latents: torch.Tensor) -> torch.Tensor:
    unet, vae, config, prompt = networks
    pipeline = engine.pipeline(unet, vae, config, prompt)
    kept: list[torch.Tensor] = []

    def keep(members: torch.Tensor, *_: Any, **__: Any) -> Any:
        kept.append(members)
        return members[:1], members[:1]

    pipeline.ensemble_depth = keep
    dtype = next(unet.parameters()).dtype
    engine.run(
        "diffusers", pipeline, case, latents=latents.to(dtype), generator=None,
        match_input_resolution=False, output_type="pt",
    )  # fmt: skip
    return kept[0][:, 0].float().cpu()


def of_engine(
    networks: Any, case: Case, latents: torch.Tensor, dtype: torch.dtype, **changes: Any
) -> torch.Tensor:
    unet, vae, config, prompt = networks
    own = [engine.own_network(network, prompt, dtype) for network in (unet, vae)]
    return run_engine(Marigold(*own, config, prompt), case, latents, **changes)


def run_engine(
    marigold: Marigold, case: Case, latents: torch.Tensor, **changes: Any
) -> torch.Tensor:
    members = marigold.predict(
        engine.picture(case), num_inference_steps=case.steps, processing_resolution=0,
        latents=latents, **changes,
    )  # fmt: skip
    return members.float().cpu()


def noise(case: Case, members: int) -> torch.Tensor:
    shape = members, 4, -(-case.height // 8), -(-case.width // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(case.device)


def float32_parity(base: Case, half: torch.dtype, networks: Any) -> dict[str, Any]:
    case, latents = replace(base, steps=4, members=2), noise(base, 2)
    theirs = of_diffusers(networks, case, latents)
    largest = (of_engine(networks, case, latents, torch.float32) - theirs).abs().max().item()
    return {"ok": largest <= PARITY and theirs.std().item() > 0.01, "largest": largest}


def half_parity(base: Case, half: torch.dtype, networks: Any) -> dict[str, Any]:
    """As near to diffusers in float32 as diffusers in half precision is, within a half."""
    case, latents = replace(base, steps=4, members=2), noise(base, 2)
    exact = of_diffusers(networks, case, latents)
    ours = (of_engine(networks, case, latents, half) - exact).abs().mean().item()
    unet, vae, config, prompt = networks
    try:
        halved = unet.to(half), vae.to(half), config, prompt.to(half)
        theirs = (of_diffusers(halved, case, latents) - exact).abs().mean().item()
    finally:
        unet.float(), vae.float()
    return {"ok": ours <= 1.5 * theirs, "ours": ours, "diffusers": theirs}


def vae_in_half(base: Case, half: torch.dtype, networks: Any) -> dict[str, Any]:
    _, vae, _, prompt = networks
    latents = noise(base, 1) * 0.5
    with torch.no_grad():
        exact, rounded = (
            engine.own_network(vae, prompt, dtype).decode(latents.to(dtype)).sample.float()
            for dtype in (torch.float32, half)
        )
    difference = ((rounded - exact).abs().mean() / exact.std()).item()
    return {"ok": difference < VAE_DIFFERENCE, "difference": difference}


def halving(base: Case, half: torch.dtype, networks: Any) -> dict[str, Any]:
    """A batch for which memory runs out is halved, and the result is the same.

    On CUDA with a real limit, if one can be found at this size; and with an error that is raised
    for more than two members.
    """
    unet, vae, config, prompt = networks
    own = [engine.own_network(network, prompt, base.dtype) for network in (unet, vae)]
    marigold, latents = Marigold(*own, config, prompt), noise(base, 8)
    wanted = run_engine(marigold, base, latents, batch_size=1)
    batches: list[int] = []

    def limited(module: Any, inputs: Any) -> None:
        batches.append(len(inputs[0]))
        if batches[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (raised by this check)")

    hook = own[0].register_forward_pre_hook(limited)
    try:
        got = run_engine(marigold, base, latents, batch_size=8)
    finally:
        hook.remove()
    facts: dict[str, Any] = {"batches": batches, "largest": (got - wanted).abs().max().item()}
    if base.device == "cuda":
        facts["on the card"] = halving_on_the_card(marigold, base)
    tolerance = PARITY if base.dtype == torch.float32 else 0.05
    facts["ok"] = batches[:3] == [8, 4, 2] and facts["largest"] <= tolerance
    return facts


def halving_on_the_card(marigold: Marigold, base: Case) -> str:
    """What happens with little more memory than is in use."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_allocated() + 2 * 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / whole))
    calls: list[int] = []
    hook = marigold.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        run_engine(marigold, base, noise(base, 32), batch_size=32)
        return f"2 GiB beside the weights: batches of {calls}"
    except OutOfMemory as error:  # reported, not fatal: the card may be too small for one member
        return f"{type(error).__name__}: {error}"
    finally:
        hook.remove()
        torch.cuda.set_per_process_memory_fraction(1.0)


def ten_members(base: Case, limits: roofline.Ceilings) -> dict[str, Any]:
    """Ten members in four steps: operations a second of the ceiling, and where the time goes."""
    case = replace(base, steps=4, members=10)
    run = engine.load(base, ("marigold-kit",))["marigold-kit"]
    run(case)
    began = time.perf_counter()
    stages = run(case).seconds
    whole = time.perf_counter() - began
    facts: dict[str, Any] = {
        "merge": f"{stages['ensemble'] / whole:.1%} of a run",
        "seconds": {stage: round(took, 4) for stage, took in stages.items()},
    }
    if base.weights == "full":
        networks = roofline.own_networks("meta", base.dtype)
        costs = roofline.costs(networks, (base.width, base.height), base.dtype)
        encode, step, decode = (costs[stage].operations for stage in roofline.STAGES)
        operations = encode + case.members * (case.steps * step + decode)
        facts["of the ceiling"] = f"{operations / whole / limits.matmul:.0%}"
    return facts


def beside_published(base: Case, limits: roofline.Ceilings) -> dict[str, Any]:
    """Milliseconds of one step, one member: with the VAE, and with a tiny VAE of random weights."""
    facts: dict[str, Any] = {"ceiling here, Tops/s": round(limits.matmul / 1e12, 2)}
    square = replace(base, height=base.width)
    for name, case, tiny in (
        ("end to end", base, False), ("LCM with a tiny VAE", square, True),
    ):  # fmt: skip
        run = engine.load(case, ("marigold-kit",))
        if tiny:
            vae = AutoencoderTiny().to(case.device, case.dtype).eval()
            run["marigold-kit"].args[1].vae = vae.to(memory_format=torch.channels_last)
        seconds = engine.compare(run, case, 3)[0]["marigold-kit"]
        facts[name] = {
            "ms": round(1000 * seconds, 1),
            "picture": f"{case.width} x {case.height}",
            **PUBLISHED[name],
        }
    return facts


def memory(base: Case, limits: roofline.Ceilings) -> dict[str, Any]:
    """Peak GiB of ten members in a square, with what is free, and in 4 and 3 GB (on CUDA)."""
    case = replace(base, height=base.width, steps=1, members=10)
    run = engine.load(case, ("marigold-kit",))
    facts: dict[str, Any] = {"picture": f"{case.width} x {case.height}"}
    marigold = run["marigold-kit"].args[1]
    for name, gib, low_memory in (
        ("all of the card", 0, False),
        ("4 GB", 4, False),
        ("3 GB", 3, True),
    ):
        if base.device == "cuda" and gib:
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / whole))
        marigold.low_memory = low_memory
        if low_memory:
            marigold.unet.to("cpu")
        seconds, peaks = engine.compare(run, case, 1)
        facts[name] = {"seconds": seconds["marigold-kit"], "peak GiB": peaks.get("marigold-kit")}
    if base.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    return facts


def compiled(base: Case, repeats: int) -> dict[str, Any]:
    """This engine with its U-Net through torch.compile: the warm-up, and seconds afterwards."""
    plain = engine.load(base, ("marigold-kit",))
    case = replace(base, steps=4)
    before = engine.compare(plain, case, repeats)[0]["marigold-kit"]
    marigold = plain["marigold-kit"].args[1]
    marigold.unet.compile()
    began = time.perf_counter()
    plain["marigold-kit"](case)
    warm_up = time.perf_counter() - began
    after = engine.compare(plain, case, repeats)[0]["marigold-kit"]
    return {"warm-up s": warm_up, "plain s": before, "compiled s": after}


if __name__ == "__main__":
    sys.exit(main())
