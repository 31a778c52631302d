"""A checkpoint whose memory belongs to ComfyUI: counted, loaded, offloaded and freed by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..marigold_core import Checkpoint, Marigold
from ..marigold_core.denoising import vae_factor
from ..marigold_core.memory import run_activations
from ..marigold_core.resize import processing_size

RESERVED_MEMBERS = 4
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class MarigoldNetworks(nn.ModuleDict):
    """Both networks as the one module that ComfyUI's manager takes, with a name for its log."""


@dataclass(frozen=True)
class ManagedModel:
    """The value of MARIGOLD_MODEL. marigold's networks lie where ComfyUI has put them."""

    name: str
    marigold: Marigold
    patcher: ModelPatcher

    @classmethod
    def of(cls, name: str, checkpoint: Checkpoint) -> ManagedModel:
        """Around networks on the offload device."""
        networks = MarigoldNetworks({"unet": checkpoint.unet, "vae": checkpoint.vae})
        patcher = ModelPatcher(
            networks,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        return cls(name, Marigold.from_checkpoint(checkpoint), patcher)

    def load(self, height: int, width: int, resolution: int | None, members: int = 1) -> Marigold:
        """The engine, its networks on ComfyUI's device, with room for `members` of such a picture.

        Room for up to RESERVED_MEMBERS at once is asked for: more than that makes a run no faster.
        """
        marigold = self.marigold
        side = marigold.processing_resolution if resolution is None else resolution
        h, w = processing_size(height, width, side)
        members = min(members, RESERVED_MEMBERS)
        latent_pixels = h * w // vae_factor(marigold.vae) ** 2
        needed = run_activations(marigold.unet, marigold.vae, latent_pixels, members)
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=needed, force_full_load=True
        )
        marigold.device = torch.device(self.patcher.load_device)
        return marigold


def precision(choice: str) -> torch.dtype:
    """ "auto": what ComfyUI would choose for a network of this kind on this card."""
    if choice in PRECISIONS:
        return PRECISIONS[choice]
    device: Any = comfy.model_management.get_torch_device()
    if comfy.model_management.should_use_fp16(device):
        return torch.float16
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float32
