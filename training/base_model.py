"""What a run starts from: any Stable Diffusion or Marigold, made ready to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from einops import repeat
from torch import Tensor, nn

from marigold_core.checkpoints.config import SCHEDULER, checked, read_json
from marigold_core.checkpoints.empty_prompt import empty_prompt_embedding, fingerprint
from marigold_core.checkpoints.families import target_of
from marigold_core.checkpoints.hub import locate
from marigold_core.checkpoints.inspection import find_vae, scaling_factor
from marigold_core.checkpoints.networks import UNETS, find_component, load_network
from marigold_core.diffusion import NoiseSchedule
from marigold_core.errors import CheckpointError, MarigoldError

# Stable Diffusion's layers that low-rank weights are added to: attention, and its feed-forward.
LORA_TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
)  # fmt: skip
NOISE_PROCESS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
    "set_alpha_to_one", "steps_offset",
)  # fmt: skip


@dataclass
class Base:
    """unet: float32, 4 (T + 1) -> 4 T channels for T latents, on the CPU. vae: float32, frozen.
    text_embedding: (1, L, D).

    target, prediction_type: what the base itself estimates (None for a Stable Diffusion) and
    predicts. scheduler_config: the DDIM scheduler of what is trained. vae_fingerprint: changes with
    the VAE's weights and scaling factor.
    """

    name: str
    folder: Path
    unet: Any
    vae: Any
    text_embedding: Tensor
    target: str | None
    prediction_type: str
    scheduler_config: dict[str, Any]
    schedule: NoiseSchedule
    vae_fingerprint: str


def open_base(name: str, objective: str, zero_snr: bool, latents: int = 1) -> Base:
    """Load a base and widen its U-Net to so many target latents. Raises CheckpointError."""
    folder = locate(name)
    lacking = [part for part in ("unet", "vae", "scheduler") if not (folder / part).is_dir()]
    if lacking:
        raise CheckpointError(
            f"{folder} has no {lacking[0]}/, so it is not a base; give a Stable Diffusion or "
            "Marigold folder with unet/, vae/, scheduler/ and text_encoder/."
        )
    cpu = torch.device("cpu")
    vae_files = find_vae(folder / "vae")
    if vae_files.class_name == "AutoencoderTiny":
        raise CheckpointError(
            f"{folder}/vae is an AutoencoderTiny, which approximates another VAE's latents; a base "
            "needs the AutoencoderKL itself. Give the checkpoint with its own vae/."
        )
    scaling = scaling_factor(vae_files)
    vae: Any = load_network(vae_files, cpu, torch.float32)
    vae.register_to_config(scaling_factor=scaling)
    stated = read_json(folder / "scheduler" / "scheduler_config.json")
    stated = checked(stated, SCHEDULER, "scheduler/scheduler_config.json")
    config = scheduler_config(stated, objective, zero_snr)
    unet: Any = load_network(find_component(folder / "unet", UNETS), cpu, torch.float32)
    target = None
    channels = unet.config.in_channels, unet.config.out_channels
    wanted = 4 * (latents + 1), 4 * latents
    if channels not in ((4, 4), (8, 4), wanted):
        raise CheckpointError(
            f"{folder}/unet has {channels[0]} input and {channels[1]} output channels; a base has "
            "4 and 4 (Stable Diffusion), 8 and 4 (Marigold for depth or normals)"
            + (f", or {wanted[0]} and {wanted[1]} (of the same target)." if latents > 1 else ".")
        )
    if channels != (4, 4) and (folder / "model_index.json").is_file():
        target = target_of(name, read_json(folder / "model_index.json"), unet.config)
    if channels != wanted:
        widen_conv_in(unet, latents)
        widen_conv_out(unet, latents)
    embedding = empty_prompt_embedding(folder)
    if embedding.shape[-1] != unet.config.cross_attention_dim:
        raise CheckpointError(
            f"{folder}: the text encoder is {embedding.shape[-1]} wide and the U-Net wants "
            f"{unet.config.cross_attention_dim}; they belong to different models."
        )
    key = f"{fingerprint(vae_files.weights)}-{scaling}"
    return Base(
        name=name,
        folder=folder,
        unet=unet,
        vae=vae.requires_grad_(False),
        text_embedding=embedding,
        target=target,
        prediction_type=str(stated.get("prediction_type", "epsilon")),  # diffusers' default
        scheduler_config=config,
        schedule=NoiseSchedule.from_config(config),
        vae_fingerprint=key,
    )


def scheduler_config(base: dict[str, Any], objective: str, zero_snr: bool) -> dict[str, Any]:
    """The base's noise process, as the DDIM scheduler of the checkpoint that is made from it."""
    config = {key: base[key] for key in NOISE_PROCESS if key in base}
    return {
        "_class_name": "DDIMScheduler",
        **config,
        "clip_sample": False,
        "thresholding": False,
        "set_alpha_to_one": base.get("set_alpha_to_one", False),
        "prediction_type": "epsilon" if objective == "epsilon" else "v_prediction",
        "rescale_betas_zero_snr": zero_snr or bool(base.get("rescale_betas_zero_snr", False)),
        # Whatever the base says: with "leading" a single step starts at t = 1 and returns noise.
        "timestep_spacing": "trailing",
    }


def widen_conv_in(unet: UNet2DConditionModel, latents: int = 1) -> UNet2DConditionModel:
    """To 4 (T + 1) input channels, in place: weights are tiled and divided, the bias kept.

    Of 4 channels: tiled T + 1 times (paper, section 3.3; Ke et al. 2025 for several targets): for
    copies of one latent the output is that of the base for one. Of a Marigold's 8: the picture's
    stay, and the target's are tiled T times.
    """
    old = unet.conv_in
    picture, target = old.weight.detach()[:, :4], old.weight.detach()[:, -4:]
    share = latents + 1 if old.in_channels == 4 else latents
    if old.in_channels == 4:
        picture = picture / share
    tiled = repeat(target, "out c h w -> out (copies c) h w", copies=latents) / share
    new = nn.Conv2d(4 * (latents + 1), old.out_channels, old.kernel_size, padding=old.padding)
    new.load_state_dict(
        {"weight": torch.cat([picture, tiled], 1), "bias": old.state_dict()["bias"]}
    )
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)
    return unet


def widen_conv_out(unet: UNet2DConditionModel, latents: int) -> UNet2DConditionModel:
    """To 4 T output channels, in place: weights and bias are tiled."""
    old = unet.conv_out
    new = nn.Conv2d(old.in_channels, 4 * latents, old.kernel_size, padding=old.padding)
    state = {name: torch.cat([value] * latents) for name, value in old.state_dict().items()}
    new.load_state_dict(state)
    unet.conv_out = new
    unet.register_to_config(out_channels=new.out_channels)
    return unet


def set_dropout(unet: Any, share: float) -> None:
    """Leave out this share of the features in the residual blocks while training (DDPM, appendix
    B). The configuration is not changed: the checkpoint has no dropout when it samples."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.dropout.p = share


def add_lora(unet: Any, rank: int, seed: int) -> None:
    """Freeze the U-Net and train low-rank weights beside its attention; conv_in, and conv_out of
    several targets, whole.

    They are new where the base had other channels; at half a percent of a U-Net's weights they
    need not be low-rank.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MarigoldError("--lora-rank needs peft; run: pip install peft") from error

    torch.manual_seed(seed)  # whatever was drawn before: a run starts the same with a full cache
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS))
    inject_adapter_in_model(config, unet)
    unet.conv_in.requires_grad_(True)
    unet.conv_out.requires_grad_(unet.config.out_channels > 4)


def plain_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net's state under diffusers' names, low-rank weights merged into what they change.

    float32 copies on the CPU. A low-rank pair changes its layer's weight by B A (LoRA, eq. 3; the
    scale is 1, because lora_alpha is the rank); a convolution's A has the kernel.
    """
    merged: dict[str, Tensor] = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        value = weight.detach().float()
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            a, b = (state[f"{layer}.lora_{part}.default.weight"].float() for part in "AB")
            value = value + (b.flatten(1) @ a.flatten(1)).reshape(value.shape)
        # Contiguous: safetensors takes no channels_last.
        merged[name.replace(".base_layer.", ".")] = value.cpu().contiguous().clone()
    return merged
