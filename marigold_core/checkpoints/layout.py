"""Checkpoints: a name, folder or hub id to a validated description, then to loaded networks.

Published checkpoints come in many layouts. They are told apart by what their files contain; the
class name in model_index.json is a tie-breaker. What is not a Marigold depth checkpoint is refused
before any weight is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion import NoiseSchedule
from ..errors import CheckpointError, MarigoldError
from .empty_prompt import FILE_NAME as EMBEDDING_FILE
from .empty_prompt import empty_prompt_embedding, no_text_message
from .hub import PARTS, is_used, locate
from .networks import load_network, load_vae, torch_dtype
from .weights import Weights, find_weights, read_json, short_name

RESOLUTION = 768
SCALING_FACTOR = 0.18215  # Stable Diffusion's, where vae/config.json does not say
ONLY_DEPTH = "only Marigold depth checkpoints can be used."
# Schedulers of one and the same noise process: only their betas and prediction type matter here.
DDIM_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint's JSON files and weight headers say.

    family: "ddim", "lcm", or "e2e" (fine-tuned end to end: zeros for noise, one step, no
    ensemble). num_inference_steps, processing_resolution (pixels of the longer side),
    ensemble_size: the checkpoint's own defaults. scale_invariant, shift_invariant: both true is
    affine-invariant depth, shift alone false is depth up to scale, both false is metric.
    folders: where each component lies; weights: the files of "unet", "vae" and, where it is still
    needed, "text_encoder".
    """

    name: str
    folder: Path
    family: str
    class_name: str
    num_inference_steps: int
    processing_resolution: int
    ensemble_size: int
    scale_invariant: bool
    shift_invariant: bool
    scheduler: dict[str, Any]
    scaling_factor: float
    text_width: int
    folders: dict[str, Path] = field(repr=False)
    weights: dict[str, Weights] = field(repr=False)

    @property
    def variants(self) -> dict[str, str | None]:
        return {part: weights.variant for part, weights in self.weights.items()}

    @property
    def size_bytes(self) -> int:
        return sum(weights.size_bytes for weights in self.weights.values())

    @property
    def parameters(self) -> dict[str, int]:
        return {part: weights.parameters for part, weights in self.weights.items()}


@dataclass
class Checkpoint:
    """A loaded checkpoint: networks in inference mode, on one device, in one dtype.

    unet: diffusers' UNet2DConditionModel, 8 -> 4 channels. vae: AutoencoderKL or AutoencoderTiny.
    text_embedding: (1, 2, D) of the empty prompt, in the networks' dtype and on their device.
    """

    info: CheckpointInfo
    unet: nn.Module
    vae: nn.Module
    scheduler_config: dict[str, Any]
    text_embedding: Tensor


def inspect_checkpoint(
    name: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> CheckpointInfo:
    """Describe and check a checkpoint from its JSON files and weight headers alone.

    name: bundled or published name, folder, or hub id; the folder may be a bare U-Net, or a
    training output that holds only one, with `base` naming the checkpoint that has the other
    parts. variant "fp16" reads those files where a component has them; a float16 dtype prefers
    them. Raises CheckpointError that names the file and the fact.
    """
    place: Any = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    root = locate(name, variant=variant, **place)
    if root.name == "unet" and (root / "config.json").is_file():
        root = root.parent
    folders, index = find_parts(root)
    if base is not None:
        base_root = locate(base, variant=variant, **place)
        base_folders, base_index = find_parts(base_root)
        # A base that is plain Stable Diffusion says nothing about the family of what came of it.
        if not index and "unet" in base_folders:
            if read_json(base_folders["unet"] / "config.json").get("in_channels") == 8:
                index = base_index
        folders = base_folders | folders
    lacking = [part for part in ("unet", "vae", "scheduler") if part not in folders]
    if "unet" in folders and lacking and base is None and not index:
        raise CheckpointError(
            f"{root} holds only a U-Net; name the checkpoint that has its {' and '.join(lacking)} "
            "with base= (--base on the command line)."
        )
    if lacking:
        raise CheckpointError(f"{lacking[0]}/ is missing in {root}; copy or download it again.")
    refuse_other_families(str(name), index, folders["unet"])
    half = torch_dtype(dtype, "cpu") == torch.float16
    weights = {part: find_weights(folders[part], variant, half) for part in ("unet", "vae")}
    if variant is not None and all(found.variant != variant for found in weights.values()):
        raise CheckpointError(f"{root} has no {variant!r} weights; leave variant out.")
    text_width = check_unet(folders["unet"], weights["unet"])
    scaling_factor = check_vae(folders["vae"])
    text = embedding_folder(root, folders)
    if not (text / EMBEDDING_FILE).is_file():
        if "text_encoder" not in folders:
            raise CheckpointError(no_text_message(root))
        weights["text_encoder"] = find_weights(folders["text_encoder"])
    family, steps, scheduler = classify(index, folders["scheduler"])
    return CheckpointInfo(
        name=str(name),
        folder=root,
        family=family,
        class_name=str(index.get("_class_name") or ""),
        num_inference_steps=whole_number(index, "default_denoising_steps", steps, 1),
        processing_resolution=whole_number(index, "default_processing_resolution", RESOLUTION, 0),
        ensemble_size=1,
        scale_invariant=index.get("scale_invariant") is not False,
        shift_invariant=index.get("shift_invariant") is not False,
        scheduler=scheduler,
        scaling_factor=scaling_factor,
        text_width=text_width,
        folders=folders,
        weights=weights,
    )


def load_checkpoint(
    name: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
    variant: str | None = None,
    device: torch.device | str | None = None,
    vae: str | os.PathLike[str] | nn.Module | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Load a checkpoint's networks and its empty-prompt embedding.

    See `inspect_checkpoint` for name, base and variant. device: None is the CPU. dtype: None or
    "auto" is float32 on the CPU, however the weights are stored, and float16 elsewhere. vae: "tiny"
    (madebyollin/taesd), a folder or hub id of an AutoencoderTiny or AutoencoderKL, or a loaded one,
    in place of the checkpoint's. A hub id that is not in the cache is downloaded unless
    local_files_only or HF_HUB_OFFLINE forbids it. Every weight must be there and fit; nothing is
    ever left at random. Raises CheckpointError.
    """
    from diffusers import UNet2DConditionModel

    device = torch.device(device or "cpu")
    precision = torch_dtype(dtype, device)
    place: Any = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    info = inspect_checkpoint(name, base=base, variant=variant, dtype=precision, **place)
    if isinstance(vae, nn.Module):
        autoencoder = vae.to(device=device, dtype=precision)
    elif vae is not None:
        folder = locate(vae, **place)
        folder = folder / "vae" if (folder / "vae").is_dir() else folder
        check_vae(folder)
        found = find_weights(folder, variant, precision == torch.float16)
        autoencoder = load_vae(folder, found, device, precision)
    else:
        autoencoder = load_vae(info.folders["vae"], info.weights["vae"], device, precision)
    # The embedding first: it needs the most memory, for a moment, where it is not cached.
    embedding = empty_prompt_embedding(embedding_folder(info.folder, info.folders))
    if embedding.shape[-1] != info.text_width:
        raise CheckpointError(
            f"The empty prompt's embedding is {embedding.shape[-1]} wide and unet/config.json's "
            f"cross_attention_dim is {info.text_width}; the text encoder is another model's."
        )
    unet = load_network(
        UNet2DConditionModel, info.folders["unet"], info.weights["unet"], device, precision
    )
    return Checkpoint(info, unet, autoencoder, info.scheduler, embedding.to(device, precision))


def find_parts(root: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The component folders of a pipeline, a training output or a bare U-Net; model_index.json."""
    folders = {part: root / part for part in PARTS if (root / part).is_dir()}
    if (root / "model_index.json").is_file():
        return folders, read_json(root / "model_index.json")
    if not folders and (root / "config.json").is_file():
        kind = read_json(root / "config.json").get("_class_name")
        if kind not in (None, "UNet2DConditionModel"):
            raise CheckpointError(f"{root} holds a {kind}, not a checkpoint or a U-Net.")
        folders = {"unet": root}
    if not folders:
        raise CheckpointError(
            f"{root} is not a checkpoint: it has no model_index.json, unet/ or config.json."
        )
    return folders, {}


def embedding_folder(root: Path, folders: Mapping[str, Path]) -> Path:
    """The folder whose text encoder, or embedding's file, goes with the U-Net."""
    return folders["text_encoder"].parent if "text_encoder" in folders else root


def refuse_other_families(name: str, index: Mapping[str, Any], unet: Path) -> None:
    """Raise CheckpointError for relatives of Marigold depth that need another engine."""
    file = "model_index.json"
    words = re.split(r"[^a-z0-9]+", Path(name).name.lower())
    prediction = index.get("prediction_type")
    class_name = str(index.get("_class_name"))
    if "target_properties" in index or "Intrinsics" in class_name:
        raise CheckpointError(
            f"{file} describes intrinsic images (target_properties), not depth; {ONLY_DEPTH}"
        )
    if prediction not in (None, "depth"):
        raise CheckpointError(f"{file} says prediction_type {prediction!r}; {ONLY_DEPTH}")
    normals = "use_full_z_range" in index or "Normals" in class_name
    if normals or (prediction is None and "normals" in words):
        raise CheckpointError(f"{file} or the name {name!r} says surface normals; {ONLY_DEPTH}")
    if is_used(index.get("image_encoder")):
        raise CheckpointError(
            f"{file} names an image_encoder (as GeoWizard does) where Marigold has the empty "
            f"prompt; {ONLY_DEPTH}"
        )
    config = read_json(unet / "config.json")
    for option in ("class_embed_type", "num_class_embeds", "addition_embed_type"):
        if config.get(option) is not None:
            raise CheckpointError(
                f"unet/config.json sets {option} to {config[option]!r}: this U-Net takes a task "
                f"embedding (as Lotus and GeoWizard do), and Marigold's takes none; {ONLY_DEPTH}"
            )


def check_unet(folder: Path, weights: Weights) -> int:
    """Check 8 -> 4 channels in the configuration and in the tensors; the text width it wants."""
    config = read_json(folder / "config.json")
    for name, option, axis, wanted in (
        ("conv_in.weight", "in_channels", 1, 8),
        ("conv_out.weight", "out_channels", 0, 4),
    ):
        tensor = weights.tensors.get(name)
        if tensor is None or len(tensor.shape) != 4:
            raise CheckpointError(f"{weights.label} has no {name}, so it is not a Marigold U-Net.")
        stored, said = tensor.shape[axis], config.get(option, 4)
        if stored != said:
            raise CheckpointError(
                f"{weights.label} has {stored} {option} and unet/config.json says {said}; "
                "the two files belong to different models."
            )
        if stored != wanted:
            raise CheckpointError(
                f"{weights.label} has {stored} {option}; a Marigold depth U-Net has {wanted} "
                "(8 in: picture and depth latents, 4 out)."
            )
    width = config.get("cross_attention_dim", 1280)
    if not isinstance(width, int):
        raise CheckpointError(f"unet/config.json's cross_attention_dim is {width!r}, not a number.")
    return width


def check_vae(folder: Path) -> float:
    """Check the kind of autoencoder and its 4 latent channels; its scaling factor."""
    config = read_json(folder / "config.json")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise CheckpointError(
            f"{short_name(folder / 'config.json')} describes a {kind}; "
            "use an AutoencoderKL or AutoencoderTiny."
        )
    if config.get("latent_channels", 4) != 4:
        raise CheckpointError(
            f"{short_name(folder / 'config.json')} has {config['latent_channels']} latent channels;"
            " Marigold's U-Net works on 4."
        )
    default = 1.0 if kind == "AutoencoderTiny" else SCALING_FACTOR
    factor = config.get("scaling_factor", default)
    if not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise CheckpointError(
            f"{short_name(folder / 'config.json')}'s scaling_factor is {factor!r}; "
            "it must be a positive number."
        )
    return float(factor)


def classify(index: Mapping[str, Any], folder: Path) -> tuple[str, int, dict[str, Any]]:
    """The family, the steps where model_index.json does not say, and the scheduler's config."""
    scheduler = read_json(folder / "scheduler_config.json")
    kind = scheduler.get("_class_name", "DDIMScheduler")
    if kind not in (*DDIM_SCHEDULERS, "LCMScheduler"):
        raise CheckpointError(
            f"scheduler/scheduler_config.json names {kind}; a Marigold checkpoint has a "
            "DDIMScheduler or an LCMScheduler."
        )
    try:
        NoiseSchedule.from_config(scheduler)
    except (MarigoldError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"scheduler/scheduler_config.json: {error}") from error
    if kind == "LCMScheduler":
        return "lcm", 1, scheduler
    if index.get("_class_name") == "StableDiffusionPipeline":
        return "e2e", 1, scheduler
    return "ddim", 4 if scheduler.get("rescale_betas_zero_snr") else 10, scheduler


def whole_number(index: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = index.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise CheckpointError(
            f"model_index.json's {key} is {value!r}; it must be a whole number from {least}."
        )
    return value
