"""What a checkpoint estimates, and how it samples: decided by what its files contain.

Relatives of Marigold share folders, classes and even channel numbers. The class name in
model_index.json only decides where nothing else does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diffusion import NoiseSchedule
from ..errors import CheckpointError, MarigoldError
from ..intrinsics import IntrinsicMap
from .config import SCHEDULER, TARGET_PROPERTIES, TARGET_PROPERTY, checked, read_json
from .hub import is_used
from .networks import Component

SUPPORTED = "only Marigold checkpoints for depth, normals and intrinsic images can be used."
LATENT_CHANNELS = 4
# Schedulers of one and the same noise process: only their betas and prediction type matter here.
DDIM_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
TASK_EMBEDDINGS = ("class_embed_type", "num_class_embeds", "addition_embed_type")


@dataclass(frozen=True)
class Facts:
    """What the rules below look at: model_index.json, unet/config.json, words of the name."""

    index: Mapping[str, Any]
    unet: Mapping[str, Any]
    words: frozenset[str]

    @property
    def class_name(self) -> str:
        return str(self.index.get("_class_name"))

    @property
    def prediction(self) -> Any:
        return self.index.get("prediction_type")

    @property
    def task_embedding(self) -> str | None:
        return next((key for key in TASK_EMBEDDINGS if self.unet.get(key) is not None), None)


# (target, whether the facts say so), in the order in which they are asked.
TARGETS: tuple[tuple[str, Callable[[Facts], bool]], ...] = (
    (
        "intrinsics",
        lambda f: f.index.get("target_properties") is not None or f.prediction == "intrinsics"
        or "Intrinsics" in f.class_name,
    ),
    (
        "normals",
        lambda f: f.prediction == "normals" or "use_full_z_range" in f.index
        or "Normals" in f.class_name,
    ),
    # End-to-end checkpoints say it in their names alone.
    ("normals", lambda f: f.prediction is None and "normals" in f.words),
    ("depth", lambda f: f.prediction in (None, "depth")),
)  # fmt: skip
# Networks with other inputs than Marigold's.
RELATIVES: tuple[tuple[Callable[[Facts], bool], Callable[[Facts], str]], ...] = (
    (
        lambda f: is_used(f.index.get("image_encoder")),
        lambda f: (
            "model_index.json names an image_encoder (as GeoWizard does) where Marigold has "
            "the empty prompt"
        ),
    ),
    (
        lambda f: f.task_embedding is not None,
        lambda f: (
            f"unet/config.json sets {f.task_embedding}: this U-Net takes a task embedding "
            "(as Lotus and GeoWizard do), and Marigold's takes none"
        ),
    ),
)


def target_of(name: str, index: Mapping[str, Any], unet: Mapping[str, Any]) -> str:
    """What a checkpoint estimates: "depth", "normals" or "intrinsics".

    name: as the user gave it. index: model_index.json, empty without one. unet: its config.json.
    Raises CheckpointError for all else.
    """
    words = frozenset(re.split(r"[^a-z0-9]+", Path(name).name.lower()))
    facts = Facts(index, unet, words)
    target = next((target for target, is_it in TARGETS if is_it(facts)), None)
    if target is None:
        raise CheckpointError(
            f"model_index.json says prediction_type {facts.prediction!r}; {SUPPORTED}"
        )
    for is_relative, fact in RELATIVES:
        if is_relative(facts):
            raise CheckpointError(f"{fact(facts)}; {SUPPORTED}")
    return target


def maps_of(index: Mapping[str, Any]) -> tuple[IntrinsicMap, ...]:
    """The intrinsic images that target_properties of model_index.json describes, in its order.

    `target_names` are the latents. One in the prediction_space "stack" holds up to three grey maps,
    its `sub_target_names`; each map's own properties stand under its name. Raises CheckpointError.
    """
    label = "model_index.json's target_properties"
    properties = index.get("target_properties")
    if not isinstance(properties, dict) or "target_names" not in properties:
        raise CheckpointError(
            f"{label} has no target_names: which map each latent holds is unknown; "
            "download the checkpoint again."
        )
    maps: list[IntrinsicMap] = []
    for latent, name in enumerate(checked(properties, TARGET_PROPERTIES, label)["target_names"]):
        facts = _map_properties(properties, name, label)
        stacked = facts.get("prediction_space") == "stack"
        parts = facts.get("sub_target_names") or () if stacked else (name,)
        named = [(number, part) for number, part in enumerate(parts) if part is not None]
        if not named:
            raise CheckpointError(f"{label} names no map in {name!r}; download it again.")
        for channel, part in named:
            own = _map_properties(properties, part, label)
            space = own.get("prediction_space", "srgb")
            if space == "stack" and stacked:
                raise CheckpointError(f"{label} has a stack within a stack, {part!r}.")
            up_to_scale = own.get("up_to_scale") is True
            maps.append(
                IntrinsicMap(part, latent, channel if stacked else None, space, up_to_scale)
            )
    names = [one.name.lower() for one in maps]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CheckpointError(f"{label} has two maps with the name {twice[0]!r}.")
    return tuple(maps)


def _map_properties(properties: Mapping[str, Any], name: str, label: str) -> dict[str, Any]:
    found = properties.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{label} has {found!r} for {name}; it must be a JSON object.")
    return checked(found, TARGET_PROPERTY, f"{label} for {name}")


def check_channels(unet: Component, target: str, latents: int) -> None:
    """Check the channels of a U-Net that denoises so many latents beside the picture's.

    In its configuration and in its tensors. Raises CheckpointError.
    """
    for name, option, axis, wanted in (
        ("conv_in.weight", "in_channels", 1, (1 + latents) * LATENT_CHANNELS),
        ("conv_out.weight", "out_channels", 0, latents * LATENT_CHANNELS),
    ):
        label, tensor = unet.weights.label, unet.weights.tensors.get(name)
        if tensor is None or len(tensor.shape) != 4:
            raise CheckpointError(f"{label} has no {name}, so it is not a Marigold U-Net.")
        stored, said = tensor.shape[axis], unet.config.get(option, 4)
        if stored != said:
            raise CheckpointError(
                f"{label} has {stored} {option} and {unet.label} says {said}; "
                "the two files belong to different models."
            )
        if stored != wanted:
            raise CheckpointError(
                f"{label} has {stored} {option}; a Marigold U-Net for {target} has {wanted} "
                f"({LATENT_CHANNELS} for each latent; the picture's and the target's go in)."
            )


def sampler_of(index: Mapping[str, Any], folder: Path) -> tuple[str, int, dict[str, Any]]:
    """The family, the steps where model_index.json does not say, and the scheduler's fields.

    folder: the checkpoint's scheduler/. Raises CheckpointError for another noise process.
    """
    label = "scheduler/scheduler_config.json"
    scheduler = checked(read_json(folder / "scheduler_config.json"), SCHEDULER, label)
    kind = scheduler.get("_class_name", "DDIMScheduler")
    if kind not in (*DDIM_SCHEDULERS, "LCMScheduler"):
        raise CheckpointError(
            f"{label} names {kind}; a Marigold checkpoint has a DDIMScheduler or an LCMScheduler."
        )
    try:
        NoiseSchedule.from_config(scheduler)
    except (MarigoldError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{label}: {error}") from error
    if kind == "LCMScheduler":
        return "lcm", 1, scheduler
    if index.get("_class_name") == "StableDiffusionPipeline":
        return "e2e", 1, scheduler
    return "ddim", 4 if scheduler.get("rescale_betas_zero_snr") else 10, scheduler
