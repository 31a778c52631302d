"""How much memory guided sampling takes at Stable Diffusion 2's size: which card can.

    python benchmarks/guided_memory.py                          # counted, about 3 minutes
    python benchmarks/guided_memory.py --size 1024x768 --dtype bfloat16
    python benchmarks/guided_memory.py --measure --device cuda   # and measured, random weights
    python benchmarks/guided_memory.py --measure --size 256x192 --dtype float32   # on a CPU

Runs `guided_depth` to the end of its first step, the encoding of the picture included; later steps
take the same. Counted: without data or time, on torch's fake tensors, the bytes of all tensors that
live at once, weights included, at the worst moment. What libraries take beside tensors is not in
it: the CUDA context (about half a GB), workspaces of cuDNN, and gaps between blocks. --measure
runs the step with random weights: on CUDA torch's peak of allocated memory; on a CPU (Linux) how
much the process has grown, of which the first row alone is fair: later ones find kept pages.

Rows: with activations kept, and computed twice (`checkpointing`, which a run that meets the end of
the memory turns on by itself); with Stable Diffusion's VAE and the tiny one. Writes Markdown.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import roofline
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from marigold_core import KnownDepths, Marigold
from marigold_core.metric.guided import guided_depth
from marigold_core.progress import Progress

SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "steps_offset": 1,
    "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "set_alpha_to_one": False,
    "clip_sample": False,
}  # fmt: skip
GIB = 2**30


class OneStep(Exception):
    """The step is over."""


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that live at once, and keeps the most."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: Any = weakref.WeakKeyDictionary()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # a value that a fake tensor has not, and that memory does not depend on
        result = func(*args, **(kwargs or {}))
        for tensor in roofline.flat(result):
            self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.sizes:
            self.sizes[storage] = size = storage.nbytes()
            weakref.finalize(storage, self.forget, size)
            self.now += size
            self.most = max(self.most, self.now)

    def forget(self, size: int) -> None:
        self.now -= size


def networks(device: str, dtype: torch.dtype, tiny: bool) -> tuple[Any, Any]:
    unet, vae = roofline.own_networks(device, dtype)
    if tiny:
        with torch.device("meta"):
            vae = AutoencoderTiny()
        roofline.randomized(vae, device, dtype)
    return unet, vae


def one_step(unet: Any, vae: Any, size: tuple[int, int], checkpointing: bool) -> None:
    width, height = size
    marigold = Marigold(unet, vae, SCHEDULER, torch.zeros(1, 2, 1024))
    picture = np.random.default_rng(0).random((height, width, 3), np.float32)
    places = np.random.default_rng(1).random((100, 2)) * size
    known = KnownDepths(places, np.linspace(1, 9, 100))

    def stop(progress: Progress) -> None:
        raise OneStep

    try:
        guided_depth(
            marigold, picture, known, num_inference_steps=2, processing_resolution=0, seed=0,
            checkpointing=checkpointing, callback=stop,
        )  # fmt: skip
    except OneStep:
        pass


def counted(dtype: torch.dtype, tiny: bool, size: tuple[int, int], checkpointing: bool) -> int:
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), Live()
    parts = networks("meta", dtype, tiny)
    with fake:
        for module in (module for part in parts for module in part.modules()):
            for name, meta in list(module.named_parameters(recurse=False)):
                weight = torch.empty(meta.shape, dtype=meta.dtype, device="cpu")
                setattr(module, name, nn.Parameter(weight, requires_grad=False))
                live.add(getattr(module, name))
    with fake, live:
        one_step(*parts, size, checkpointing)
    return live.most


def measured(
    device: str, dtype: torch.dtype, tiny: bool, size: tuple[int, int], checkpointing: bool
) -> int:
    gc.collect()
    before = 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    one_step(*networks(device, dtype, tiny), size, checkpointing)
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes, of Linux."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("float32", "bfloat16")
    parser.add_argument("--size", default="768x576", metavar="WxH", help="of the processed picture")
    parser.add_argument("--dtype", nargs="+", choices=names, default=names)
    parser.add_argument("--vae", nargs="+", choices=("full", "tiny"), default=("full", "tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--measure", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="diffusers")
    width, height = map(int, args.size.split("x"))
    print(f"torch {torch.__version__}, {width} x {height}, GiB\n")
    print(f"| precision | VAE | activations | counted |{' measured |' * args.measure}")
    print(f"|---|---|---|--:|{'--:|' * args.measure}")
    for name in args.dtype:
        for vae in args.vae:
            for checkpointing in (False, True):
                case = getattr(torch, name), vae == "tiny", (width, height), checkpointing
                row = [name, vae, "computed twice" if checkpointing else "kept"]
                row.append(f"{counted(*case) / GIB:.2f}")
                if args.measure:
                    row.append(f"{measured(args.device, *case) / GIB:.2f}")
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
