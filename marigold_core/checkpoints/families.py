"""What a checkpoint estimates, and how it samples: told by what its files contain.

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
from .config import SCHEDULER, checked, read_json
from .hub import is_used
from .networks import Component

# Targets that the engine decodes: input channels (picture and target latents) and output channels
# of the U-Net. A latent has 4 channels; intrinsic images have one for each map.
CHANNELS: dict[str, tuple[int, int]] = {"depth": (8, 4)}
SUPPORTED = f"only Marigold checkpoints for {' and '.join(CHANNELS)} can be used."
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


# (target, whether the facts say so, which fact), in the order in which they are asked.
TARGETS: tuple[tuple[str, Callable[[Facts], bool], str], ...] = (
    (
        "intrinsic images",
        lambda f: "target_properties" in f.index or "Intrinsics" in f.class_name,
        "model_index.json says so (target_properties, or its class)",
    ),
    (
        "normals",
        lambda f: f.prediction == "normals" or "use_full_z_range" in f.index
        or "Normals" in f.class_name,
        "model_index.json says so (prediction_type, use_full_z_range, or its class)",
    ),
    (
        "normals",
        lambda f: f.prediction is None and "normals" in f.words,
        "its name says so",
    ),
    ("depth", lambda f: f.prediction in (None, "depth"), "model_index.json says nothing else"),
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
    """What a checkpoint estimates: a name of CHANNELS. Raises CheckpointError for all else.

    name: as the user gave it. index: model_index.json, empty without one. unet: its config.json.
    """
    words = frozenset(re.split(r"[^a-z0-9]+", Path(name).name.lower()))
    facts = Facts(index, unet, words)
    found = next(((target, why) for target, is_it, why in TARGETS if is_it(facts)), None)
    if found is None:
        raise CheckpointError(
            f"model_index.json says prediction_type {facts.prediction!r}; {SUPPORTED}"
        )
    for is_relative, fact in RELATIVES:
        if is_relative(facts):
            raise CheckpointError(f"{fact(facts)}; {SUPPORTED}")
    target, why = found
    if target not in CHANNELS:
        raise CheckpointError(f"{name} estimates {target}, not depth: {why}; {SUPPORTED}")
    return target


def check_channels(unet: Component, target: str) -> None:
    """Check the channels of a target's U-Net, in its configuration and in its tensors."""
    for name, option, axis, wanted in (
        ("conv_in.weight", "in_channels", 1, CHANNELS[target][0]),
        ("conv_out.weight", "out_channels", 0, CHANNELS[target][1]),
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
                "(4 for each latent; the picture's and the target's go in)."
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
