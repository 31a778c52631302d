"""What a checkpoint is: from a name, folder or hub id to a checked description of its files.

No weight is read: JSON files and the headers of weight files say all that is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..intrinsics import IntrinsicMap
from .config import MODEL_INDEX, checked, read_json
from .empty_prompt import FILE_NAME as EMBEDDING_FILE
from .empty_prompt import no_text_message
from .families import LATENT_CHANNELS, check_channels, maps_of, sampler_of, target_of
from .hub import PARTS, commit_of, locate
from .networks import AUTOENCODERS, UNETS, Component, find_component, torch_dtype
from .weights import Weights

RESOLUTION = 768
SCALING_FACTOR = 0.18215  # Stable Diffusion's, where vae/config.json does not say


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint's JSON files and weight headers say.

    target: what it estimates, "depth", "normals" or "intrinsics". family: "ddim", "lcm", or "e2e"
    (fine-tuned end to end: zeros for noise, one step, no ensemble). num_inference_steps,
    processing_resolution (pixels of the longer side), ensemble_size: its defaults. scale_invariant,
    shift_invariant: both true is affine-invariant depth, shift alone false is depth up to scale,
    both false is metric. full_z_range: false for normals whose z is decoded to [0, 1]. maps: the
    intrinsic images, empty for other targets. commit: of the hub's repository, None for other
    folders.
    folders: where each part lies; components: "unet", "vae" and, where it is still needed,
    "text_encoder".
    """

    name: str
    folder: Path
    commit: str | None
    target: str
    family: str
    class_name: str
    num_inference_steps: int
    processing_resolution: int
    ensemble_size: int
    scale_invariant: bool
    shift_invariant: bool
    full_z_range: bool
    maps: tuple[IntrinsicMap, ...]
    scheduler: dict[str, Any]
    scaling_factor: float
    text_width: int
    folders: dict[str, Path] = field(repr=False)
    components: dict[str, Component] = field(repr=False)

    @property
    def weights(self) -> dict[str, Weights]:
        return {part: component.weights for part, component in self.components.items()}

    @property
    def variants(self) -> dict[str, str | None]:
        return {part: weights.variant for part, weights in self.weights.items()}

    @property
    def size_bytes(self) -> int:
        return sum(weights.size_bytes for weights in self.weights.values())

    @property
    def parameters(self) -> dict[str, int]:
        return {part: weights.parameters for part, weights in self.weights.items()}


def inspect_checkpoint(
    name: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> CheckpointInfo:
    """Describe and check a checkpoint from its JSON files and weight headers alone.

    name: bundled or published name, folder, or hub id; the folder may be a bare U-Net, or a
    training output that holds only one, with `base` naming the checkpoint that has the other
    parts. variant "fp16" reads those files where a component has them; a float16 dtype prefers
    them. revision: branch, tag or commit of a hub id. Raises CheckpointError that names the file
    and the fact.
    """
    place: Any = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    root = locate(name, variant=variant, revision=revision, **place)
    if root.name == "unet" and (root / "config.json").is_file():
        root = root.parent
    folders, index = find_parts(root)
    base_folders: dict[str, Path] = {}
    if base is not None:
        base_folders, base_index = find_parts(locate(base, variant=variant, **place))
        if not index and is_marigold(base_folders):
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
    components, target, maps = find_components(str(name), index, folders, variant, dtype)
    if variant is not None and all(c.weights.variant != variant for c in components.values()):
        raise CheckpointError(f"{root} has no {variant!r} weights; leave variant out.")
    text = embedding_folder(root, folders)
    if not (text / EMBEDDING_FILE).is_file():
        if "text_encoder" not in folders:
            raise CheckpointError(no_text_message(root))
        components["text_encoder"] = find_component(folders["text_encoder"], ("CLIPTextModel",))
    family, steps, scheduler = sampler_of(index, folders["scheduler"])
    return CheckpointInfo(
        name=str(name),
        folder=root,
        commit=commit_of(root),
        target=target,
        family=family,
        class_name=index.get("_class_name") or "",
        num_inference_steps=index.get("default_denoising_steps") or steps,
        processing_resolution=(
            RESOLUTION
            if index.get("default_processing_resolution") is None
            else index["default_processing_resolution"]
        ),
        ensemble_size=1,
        scale_invariant=index.get("scale_invariant") is not False,
        shift_invariant=index.get("shift_invariant") is not False,
        full_z_range=index.get("use_full_z_range") is not False,
        maps=maps,
        scheduler=scheduler,
        scaling_factor=scaling_factor(components["vae"]),
        text_width=components["unet"].config.get("cross_attention_dim", 1280),
        folders=folders,
        components=components,
    )


def find_parts(root: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The component folders of a pipeline, a training output or a bare U-Net; model_index.json."""
    folders = {part: root / part for part in PARTS if (root / part).is_dir()}
    index = root / "model_index.json"
    if index.is_symlink() or index.exists():
        return folders, checked(read_json(index), MODEL_INDEX, "model_index.json")
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


def is_marigold(folders: Mapping[str, Path]) -> bool:
    """Whether a base is a Marigold: plain Stable Diffusion says nothing about what came of it."""
    config = folders["unet"] / "config.json" if "unet" in folders else None
    return config is not None and read_json(config).get("in_channels") in (8, 12, 16)


def find_components(
    name: str,
    index: Mapping[str, Any],
    folders: Mapping[str, Path],
    variant: str | None,
    dtype: torch.dtype | str | None,
) -> tuple[dict[str, Component], str, tuple[IntrinsicMap, ...]]:
    """The U-Net and the VAE, each config.json read once; the target; the intrinsic images."""
    half = torch_dtype(dtype, "cpu") == torch.float16
    content = read_json(folders["unet"] / "config.json")
    target = target_of(name, index, content)
    unet = find_component(
        folders["unet"], UNETS, variant=variant, prefer_half=half, content=content
    )
    maps = maps_of(index) if target == "intrinsics" else ()
    check_channels(unet, target, maps[-1].latent + 1 if maps else 1)
    return {"unet": unet, "vae": find_vae(folders["vae"], variant, half)}, target, maps


def find_vae(folder: Path, variant: str | None = None, prefer_half: bool = False) -> Component:
    """An autoencoder's folder, after checking that its latents are those of the U-Net."""
    vae = find_component(folder, AUTOENCODERS, variant=variant, prefer_half=prefer_half)
    if vae.config.get("latent_channels", LATENT_CHANNELS) != LATENT_CHANNELS:
        raise CheckpointError(
            f"{vae.label} has {vae.config['latent_channels']} latent channels;"
            f" Marigold's U-Net works on {LATENT_CHANNELS}."
        )
    return vae


def scaling_factor(vae: Component) -> float:
    """What its latents are multiplied by before the U-Net."""
    default = 1.0 if vae.class_name == "AutoencoderTiny" else SCALING_FACTOR
    return float(vae.config.get("scaling_factor", default))


def embedding_folder(root: Path, folders: Mapping[str, Path]) -> Path:
    """The folder whose text encoder, or embedding's file, goes with the U-Net."""
    return folders["text_encoder"].parent if "text_encoder" in folders else root
