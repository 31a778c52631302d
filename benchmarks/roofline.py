"""Where the time goes at Stable Diffusion 2's size: operations, bytes, and this machine's ceilings.

    python benchmarks/roofline.py                           # count, and measure the ceilings
    python benchmarks/roofline.py --dtype bfloat16 --measure --device cuda
    python benchmarks/roofline.py --measure --size 256x192  # small enough for a CPU

Operations (a product and a sum are two) are counted by torch's FlopCounterMode on its "meta"
device, without memory or time, for this engine's networks and diffusers'. Bytes are what each
operation reads and writes, as executed one after the other, weights included; caches and fusion can
make it less. The floor of a stage is the larger of operations over the rate of a matrix product and
bytes over the rate of a copy, both measured here. --measure runs the stages with random weights and
prints how far from the floor each is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from marigold_core.checkpoints.autoencoder import Autoencoder  # noqa: E402
from marigold_core.checkpoints.unet import UNet  # noqa: E402

UNET = {
    "in_channels": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
STAGES = ("encode", "U-Net step", "decode")


@dataclass(frozen=True)
class Cost:
    operations: float
    bytes: float


@dataclass(frozen=True)
class Ceilings:
    """Operations and bytes a second."""

    matmul: float
    copy: float

    def floor(self, cost: Cost) -> float:
        """Seconds."""
        return max(cost.operations / self.matmul, cost.bytes / self.copy)


class Traffic(TorchDispatchMode):
    """Sums the bytes of every operation's tensors that is not a view of another."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for value in (*flat(args), *flat(result)):
                self.bytes += value.numel() * value.element_size()
        return result


def flat(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for one in values for t in flat(one)] if isinstance(values, (tuple, list)) else []


def own_networks(device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """This engine's U-Net and VAE with random weights."""
    prompt = torch.zeros(1, 2, UNET["cross_attention_dim"], device=device)
    with torch.device("meta"):
        networks: list[Any] = [UNet(UNET), Autoencoder(VAE)]
    for network in networks:
        randomized(network, device, dtype).fold(prompt)
        network.to(memory_format=torch.channels_last)
    return networks[0], networks[1]


def diffusers_networks(device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    with torch.device("meta"):
        networks: list[Any] = [UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)]
    unet, vae = (randomized(network, device, dtype) for network in networks)
    return unet, vae


def randomized(network: Any, device: str, dtype: torch.dtype) -> Any:
    """Weights that keep the variance of what passes through; none on the meta device."""
    network.eval().requires_grad_(False).to_empty(device=device)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight.data, std=weight[0].numel() ** -0.5)
        else:
            nn.init.constant_(weight.data, float("norm" in name and name.endswith("weight")))
    for module in network.modules():  # diffusers' `to` warns
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(weight.to(dtype), requires_grad=False))
    return network


def stages(
    networks: tuple[Any, Any],
    width: int,
    height: int,
    members: int,
    device: str,
    dtype: torch.dtype,
) -> dict[str, Callable[[], Any]]:
    unet, vae = networks
    h, w = -(-height // 8), -(-width // 8)

    def zeros(*shape: int) -> Tensor:
        made = torch.zeros(shape, device=device, dtype=dtype)
        return made if device == "meta" else made.normal_()

    timestep = torch.zeros(1, device=device, dtype=torch.long)
    prompt = zeros(members, 2, UNET["cross_attention_dim"])
    pixels, latent = zeros(1, 3, 8 * h, 8 * w), zeros(1, 4, h, w)
    both = zeros(members, 8, h, w)
    return {
        "encode": lambda: vae.encode(pixels),
        "U-Net step": lambda: unet(both, timestep, encoder_hidden_states=prompt),
        "decode": lambda: vae.decode(latent),
    }


def costs(networks: tuple[Any, Any], size: tuple[int, int], dtype: torch.dtype) -> dict[str, Cost]:
    """Of each stage, for one member. networks: on the meta device."""
    found = {}
    for stage, run in stages(networks, *size, 1, "meta", dtype).items():
        counter, traffic = FlopCounterMode(display=False), Traffic()
        with torch.no_grad(), counter, traffic:
            run()
        found[stage] = Cost(counter.get_total_flops(), traffic.bytes)
    return found


def ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """The best of several runs: other work can only make one slower."""
    side = 8192 if device == "cuda" else 1536
    a = torch.randn(side, side, device=device, dtype=dtype)
    big = torch.empty((1 << 30 if device == "cuda" else 1 << 27) // 4, device=device)
    other = torch.empty_like(big)
    matmul = min(seconds(lambda: a @ a, device) for _ in range(6))
    copy = min(seconds(lambda: other.copy_(big), device) for _ in range(6))
    return Ceilings(2 * side**3 / matmul, 2 * big.numel() * 4 / copy)


def seconds(run: Callable[[], Any], device: str) -> float:
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measured(
    size: tuple[int, int], members: int, device: str, dtype: torch.dtype, repeats: int
) -> dict[str, float]:
    """Median seconds of each stage with this engine's networks."""
    runs = stages(own_networks(device, dtype), *size, members, device, dtype)
    with torch.inference_mode():
        times = {
            stage: [seconds(run, device) for _ in range(repeats + 1)][1:]
            for stage, run in runs.items()
        }
    return {stage: statistics.median(found) for stage, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--size", nargs="+", default=["768x576", "768x768"], metavar="WxH")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    limits = ceilings(args.device, dtype)
    print(
        f"torch {torch.__version__}, {args.device}, {args.dtype}, {torch.get_num_threads()} CPU "
        f"threads: matrix product {limits.matmul / 1e12:.3f} Tops/s, copy "
        f"{limits.copy / 1e9:.1f} GB/s\n"
    )
    own, theirs = own_networks("meta", dtype), diffusers_networks("meta", dtype)
    print("| picture | stage | Gops | diffusers' Gops | GB | diffusers' GB | floor s | share "
          "| measured s | of the floor |")  # fmt: skip
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for text in args.size:
        width, height = map(int, text.split("x"))
        ours = costs(own, (width, height), dtype)
        other = costs(theirs, (width, height), dtype)
        took = (
            measured((width, height), 1, args.device, dtype, args.repeats) if args.measure else {}
        )
        total = sum(map(limits.floor, ours.values()))
        for stage in STAGES:
            floor = limits.floor(ours[stage])
            last = f"{took[stage]:.3f} | {floor / took[stage]:.0%}" if took else "- | -"
            print(
                f"| {text} | {stage} | {ours[stage].operations / 1e9:.0f} "
                f"| {other[stage].operations / 1e9:.0f} | {ours[stage].bytes / 1e9:.2f} "
                f"| {other[stage].bytes / 1e9:.2f} | {floor:.3f} | {floor / total:.0%} | {last} |"
            )


if __name__ == "__main__":
    main()
