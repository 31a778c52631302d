"""Loaded checkpoints: networks in inference mode, and the embedding of the empty prompt."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, MarigoldError
from .empty_prompt import empty_prompt_embedding
from .hub import locate
from .inspection import CheckpointInfo, embedding_folder, find_vae, inspect_checkpoint
from .networks import default_dtype, load_for_inference, torch_dtype


@dataclass
class Checkpoint:
    """A loaded checkpoint: networks in inference mode, on one device, in one dtype.

    unet: `unet.UNet`, which has the prompt in its weights, or diffusers' UNet2DConditionModel where
    the architecture is another; 4 channels for each latent. vae: `autoencoder.Autoencoder`, or
    diffusers' AutoencoderKL or AutoencoderTiny. text_embedding: (1, 2, D) of the empty prompt, in
    the networks' dtype and on their device.
    """

    info: CheckpointInfo
    unet: nn.Module
    vae: nn.Module
    scheduler_config: dict[str, Any]
    text_embedding: Tensor


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    device: torch.device | str | None = None,
    vae: str | os.PathLike[str] | nn.Module | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Load a checkpoint's networks and its empty-prompt embedding.

    See `inspect_checkpoint` for name, base, variant and revision. device: None is the CPU. dtype:
    None or "auto" is float32 on the CPU, however the weights are stored, or bfloat16 for a large
    U-Net on a chip that is faster with it; and float16 elsewhere.
    vae: "tiny" (madebyollin/taesd), a folder or hub id of an AutoencoderTiny or AutoencoderKL, or a
    loaded one, in place of the checkpoint's. A hub id that is not in the cache is downloaded unless
    local_files_only or HF_HUB_OFFLINE forbids it. Every weight must be there and fit; nothing is
    ever left at random. Raises CheckpointError.
    """
    device = torch.device(device or "cpu")
    precision = torch_dtype(dtype, device)
    place: Any = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    info = inspect_checkpoint(
        name, base=base, variant=variant, revision=revision, dtype=precision, **place
    )
    if dtype in (None, "auto"):
        precision = default_dtype(device, info.parameters["unet"])
    # The embedding first: it needs the most memory, for a moment, where it is not cached.
    embedding = empty_prompt_embedding(embedding_folder(info.folder, info.folders))
    if embedding.shape[-1] != info.text_width:
        raise CheckpointError(
            f"The empty prompt's embedding is {embedding.shape[-1]} wide and unet/config.json's "
            f"cross_attention_dim is {info.text_width}; the text encoder is another model's."
        )
    if isinstance(vae, nn.Module):
        autoencoder = vae.to(device=device, dtype=precision)
    elif vae is not None:
        folder = locate(vae, **place)
        folder = folder / "vae" if (folder / "vae").is_dir() else folder
        found = find_vae(folder, variant, precision == torch.float16)
        autoencoder = load_for_inference(found, device, precision, embedding)
    else:
        autoencoder = load_for_inference(info.components["vae"], device, precision, embedding)
    unet = load_for_inference(info.components["unet"], device, precision, embedding)
    return Checkpoint(info, unet, autoencoder, info.scheduler, embedding.to(device, precision))


def checked_device(name: torch.device | str | None) -> torch.device:
    """A device that is here; None is CUDA, else MPS, else the CPU. Raises MarigoldError."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return torch.device(next((kind for kind, here in has.items() if here), "cpu"))
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise MarigoldError(f"There is no device {name!r}; use cpu, cuda, cuda:1 or mps.") from None
    if not has.get(device.type, True):
        raise MarigoldError(
            f"torch {torch.__version__} finds no {device.type} device here; use device 'cpu', or a "
            f"torch that is built for {device.type}."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MarigoldError(
            f"There is no device {str(device)!r}; torch finds {torch.cuda.device_count()}, counted "
            "from cuda:0."
        )
    return device
