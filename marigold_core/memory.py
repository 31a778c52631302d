"""How many ensemble members fit at once, and what happens when the guess was wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import MarigoldError

# Peak activations of one member in the U-Net, in numbers per latent pixel and first-level channel.
# Stable Diffusion 2's U-Net, allocator trace at 48 x 64 and 24 x 32 latents with fused attention:
# 12 to 15 for each member added; the rest is room for cuDNN's workspaces and fragmentation.
UNET_ACTIVATIONS = 24
# Share of the free memory that a batch may plan to use.
HEADROOM = 0.8
# Without a count of free memory (CPU, MPS): enough for 8 members of 768 x 768 in float32.
ASSUMED_FREE = 2 * 2**30
# CPU seconds per member, SD2 U-Net at 24 x 32 latents, batches of 1, 2, 4, 8: 1.10, 0.88, 0.68,
# 0.58, because the weights are read once a batch; a small U-Net gains up to 4 and nothing later.
LARGEST_CPU_BATCH = 8
# The VAE's decoder needs 8 numbers per pixel and first-level channel: 2**19 pixels take 1 GB in
# float16. Larger maps are decoded one at a time, which they fill any card with.
DECODED_PIXELS = 2**19


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors may take; on CUDA with what torch holds but does not use."""
    if device.type != "cuda":
        return ASSUMED_FREE
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int((free + unused) * HEADROOM)


def unet_activations(unet: Any, latent_pixels: int) -> int:
    """Bytes that one member takes in the U-Net beside the weights, at most."""
    channels = unet.config.block_out_channels[0]
    itemsize = next(unet.parameters()).element_size()
    return UNET_ACTIVATIONS * channels * latent_pixels * itemsize


def unet_batch(unet: Any, latent_pixels: int, members: int, device: torch.device) -> int:
    """How many of `members` to denoise at once, from the memory that is free now; at least 1.

    Batches are evened out (10 members, 8 fit: 5 and 5), which costs no time and less memory.
    """
    fit = max(1, free_memory(device) // unet_activations(unet, latent_pixels))
    if device.type == "cpu":
        fit = min(fit, LARGEST_CPU_BATCH)
    return math.ceil(members / math.ceil(members / fit))


def vae_batch(pixels: int, device: torch.device) -> int:
    """How many maps of `pixels` to decode at once; at least 1.

    One on the CPU, where 2, 4 and 10 together took as long per map, or longer, at 96 x 160 to
    576 x 768.
    """
    return 1 if device.type == "cpu" else max(1, DECODED_PIXELS // pixels)


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's own error and for what MPS and the CPU allocator raise instead."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, MemoryError)) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def in_batches(run: Callable[[slice], Tensor], count: int, batch_size: int) -> Tensor:
    """Concatenate run(slice) over `count` members; on out-of-memory halve the batch and go on.

    Only the batch that failed is repeated. Raises MarigoldError when a single member does not fit.
    """
    outputs: list[Tensor] = []
    start = 0
    while start < count:
        stop = min(start + batch_size, count)
        try:
            outputs.append(run(slice(start, stop)))
            start = stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if stop - start == 1:
                raise too_little_memory() from error
        # Outside the except block: the traceback keeps the failed batch's tensors alive.
        release_memory()
        batch_size = max(1, (stop - start) // 2)
    return torch.cat(outputs)


def too_little_memory() -> MarigoldError:
    return MarigoldError(
        "The device ran out of memory on a single prediction: lower processing_resolution, "
        "use dtype float16 or a tiny VAE, or choose device 'cpu'."
    )


def release_memory() -> None:
    """Give torch's unused device memory back, so that a smaller batch finds it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
