"""How much memory a run needs, how many members fit at once, and what to do where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import MarigoldError, is_out_of_memory

# Peak activations of one member in the U-Net, in numbers per latent pixel and first-level channel.
# Stable Diffusion 2's U-Net, allocator trace at 48 x 64 and 24 x 32 latents with fused attention:
# 12 to 15 for each member added; the rest is room for cuDNN's workspaces and fragmentation.
UNET_ACTIVATIONS = 24
# Share of the free memory that a batch may plan to use.
HEADROOM = 0.8
# Without a count of free memory (CPU, MPS): enough for 8 members of 768 x 768 in float32.
ASSUMED_FREE = 2 * 2**30
# CPU seconds per member, SD2 U-Net at 24 x 32 latents, batches of 1, 2, 4, 8: 1.10, 0.88, 0.68,
# 0.58, as the weights are read once a batch; diffusers' at 12 x 16 latents, where they are most
# of the work, batches of 1, 5, 10: 1.01, 0.53, 0.35. A small U-Net gains up to 4 and nothing later.
# On MPS nobody says how much is free, attention may not be fused, and Metal aborts the process
# where CUDA raises an error that a smaller batch could answer.
LARGEST_BATCH = {"cpu": 16, "mps": 2}
# Peak activations of the VAE's decoder, in numbers per pixel and first-level channel: 2**19 pixels
# take 1 GB in float16. Larger maps are decoded one at a time, which they fill any card with.
VAE_ACTIVATIONS = 8
DECODED_PIXELS = 2**19


class OutOfMemory(MarigoldError, torch.OutOfMemoryError):
    """One prediction alone does not fit; the message says what to lower.

    Of torch's class too, so that a host program (ComfyUI) frees other models, as for its own.
    """


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


def run_activations(unet: Any, vae: Any, latent_pixels: int, members: int) -> int:
    """Bytes beside the weights of a run that denoises `members` at once and decodes them."""
    config = vae.config
    # AutoencoderTiny has two such lists, and only newer diffusers add the common name.
    widths = getattr(config, "block_out_channels", None) or config.decoder_block_out_channels
    pixels = latent_pixels * 4 ** (len(widths) - 1)
    itemsize = next(vae.parameters()).element_size()
    decoder = VAE_ACTIVATIONS * widths[0] * pixels * itemsize
    return max(members * unet_activations(unet, latent_pixels), decoder)


def unet_batch(unet: Any, latent_pixels: int, members: int, device: torch.device) -> int:
    """How many of `members` to denoise at once, from the memory that is free now; at least 1.

    Batches are evened out (10 members, 8 fit: 5 and 5), which costs no time and less memory.
    """
    fit = max(1, free_memory(device) // unet_activations(unet, latent_pixels))
    fit = min(fit, LARGEST_BATCH.get(device.type, fit))
    return math.ceil(members / math.ceil(members / fit))


def vae_batch(pixels: int, device: torch.device) -> int:
    """How many maps of `pixels` to decode at once; at least 1.

    One on the CPU, where 2, 4 and 10 together took as long per map, or longer, at 96 x 160 to
    576 x 768.
    """
    return 1 if device.type == "cpu" else max(1, DECODED_PIXELS // pixels)


def in_batches(run: Callable[[slice], Tensor], count: int, batch_size: int) -> Tensor:
    """Concatenate run(slice) over `count` members; where memory runs out, halve the batch.

    Only the batch that failed is repeated. Raises OutOfMemory when a single member does not fit.
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


def too_little_memory() -> OutOfMemory:
    return OutOfMemory(
        "The device ran out of memory on a single prediction: lower the processing resolution, "
        "use float16 or a tiny VAE, or run on the CPU."
    )


def release_memory() -> None:
    """Return unused device memory to the driver, so that a smaller batch finds it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
