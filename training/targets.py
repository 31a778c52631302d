"""What a run can learn to estimate: one entry for each kind of checkpoint.

An entry says which truth a sample needs, how that becomes the pictures that the VAE encodes, what
model_index.json says of the result, where the released recipe differs from that of depth, and how
a validation measures it. How decoded latents become a result is `marigold_core.targets`' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from data.latents import depth_target, has_range
from data.sample import Sample
from einops import rearrange
from intrinsic_metrics import GAMMA, comparable, psnr
from metrics import score
from normal_metrics import normal_score
from objective import EndToEndError, affine_error, angular_error
from torch import Tensor

from marigold_core.checkpoints.config import read_json
from marigold_core.checkpoints.families import maps_of, target_of
from marigold_core.checkpoints.hub import locate
from marigold_core.errors import CheckpointError, MarigoldError
from marigold_core.targets import Target, intrinsics_target, normals_target
from marigold_core.targets import depth_target as depth_engine

# Light above this share of a picture's pixels is cut off, as in the authors' Hypersim data.
BRIGHTEST = 0.98


@dataclass(frozen=True)
class TrainingTarget:
    """One kind of checkpoint to train.

    maps: what a sample needs, of `map_files.MAPS`; none is its depth. latents: how many of 4
    channels. pictures: a usable sample -> what the VAE encodes, (latents, 3, H, W) in [-1, 1]; its
    second argument is finetune.py's --invalid. engine: the engine's entry. index: for
    model_index.json. measure: (result of the engine, sample) -> measure -> value; the first one
    chooses the best checkpoint, the lowest or, with `more_is_better`, the highest.
    end_to_end: the error that such a run minimises; None where there is no such recipe.
    recipe: options of the released recipe where it differs from depth's. mixture: number of data
    sets -> their weights in it. card, figures: words of the model card.
    """

    name: str
    maps: tuple[str, ...]
    latents: int
    pictures: Callable[[Sample, str], Tensor]
    engine: Callable[[], Target]
    index: Mapping[str, Any]
    measure: Callable[[Any, Sample], dict[str, float]]
    card: str
    figures: str
    more_is_better: bool = False
    end_to_end: EndToEndError | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    mixture: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def mirrored(self, pictures: Tensor) -> Tensor:
        """Pictures, or normals (..., 3, H, W), of the mirrored scene."""
        mirror = pictures.flip(-1)
        if self.name == "normals":
            mirror = mirror * torch.tensor([-1.0, 1.0, 1.0]).reshape(3, 1, 1)
        return mirror

    def truth(self, sample: Sample) -> Any:
        """What the engine returns for a U-Net and a VAE without any error."""
        engine, pictures = self.engine(), self.pictures(sample, "ignore")
        height, width = pictures.shape[-2:]
        return engine.merge(engine.from_decoded(pictures[None].clone()), (height, width))

    def problem(self, sample: Sample) -> str | None:
        """Why a sample with valid pixels cannot be trained on; None if it can."""
        if not self.maps:
            if not torch.isfinite(sample.depth[sample.valid]).all():
                return "the picture or its depth has values that are not finite"
            if not has_range(sample.depth[None], sample.valid[None]).all():
                return "the depth is constant, or nearly, so it has no range to normalise"
        elif "shading" in self.maps and brightest(sample) <= 0:
            return "there is no light in it"
        return None


def depth_pictures(sample: Sample, invalid: str) -> Tensor:
    """(1, 3, H, W); see `data.latents.depth_target`."""
    valid, depth = sample.valid[None], sample.depth[None]
    return depth_target(torch.where(valid, depth, torch.inf) if invalid == "far" else depth, valid)


def normals_pictures(sample: Sample, invalid: str) -> Tensor:
    """(1, 3, H, W): x right, y up, z towards the viewer; 0 where there is none, as the authors'."""
    return sample.maps["normals"][None]


def appearance_pictures(sample: Sample, invalid: str) -> Tensor:
    """(2, 3, H, W): the base colour at the power 1 / 2.2; roughness, metallicity and nothing."""
    base, roughness, metallicity = (
        sample.maps[kind].clamp(0, 1) for kind in ("base_colour", "roughness", "metallicity")
    )
    material = torch.cat([roughness, metallicity, torch.zeros_like(roughness)])
    return torch.stack([base ** (1 / GAMMA), material]) * 2 - 1


def lighting_pictures(sample: Sample, invalid: str) -> Tensor:
    """(3, 3, H, W): albedo, shading and residual in linear light, the light up to `brightest`."""
    light = [sample.maps[kind] / brightest(sample) for kind in ("shading", "residual")]
    return torch.stack([sample.maps["albedo"], *light]).clamp(0, 1) * 2 - 1


def brightest(sample: Sample) -> float:
    """The larger 98 % quantile of shading and residual, over the valid pixels."""
    values = (sample.maps[kind][:, sample.valid].numpy() for kind in ("shading", "residual"))
    return max(float(np.quantile(v, BRIGHTEST)) for v in values)


def depth_measure(result: Any, sample: Sample) -> dict[str, float]:
    found = score(result.depth, sample.depth.numpy(), sample.valid.numpy())
    return {"AbsRel": found.abs_rel, "delta1": found.delta1, "RMSE": found.rmse}


def normals_measure(result: Any, sample: Sample) -> dict[str, float]:
    truth = rearrange(sample.maps["normals"], "c h w -> h w c").numpy()
    found = normal_score(result.normals, truth, sample.valid.numpy())
    return {"mean angle": found.mean, "median angle": found.median, "<11.25": found.within_11_25}


def intrinsics_measure(target: str, result: Any, sample: Sample) -> dict[str, float]:
    """PSNR of each map, the albedo's first."""
    truth, valid = TARGETS[target].truth(sample), sample.valid.numpy()
    pairs = {name: comparable(name, result, truth, valid) for name in truth.maps}
    return {f"{name} PSNR": psnr(p[valid], g[valid]) for name, (p, g) in pairs.items()}


def intrinsics_engine(properties: Mapping[str, Any]) -> Target:
    return intrinsics_target(maps_of({"target_properties": properties}))


# As the released checkpoints say it.
APPEARANCE = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "srgb"},
    "material": {
        "prediction_space": "stack",
        "sub_target_names": ["roughness", "metallicity", None],
    },
    "roughness": {"prediction_space": "linear", "up_to_scale": False},
    "metallicity": {"prediction_space": "linear", "up_to_scale": False},
}
LIGHTING = {
    "target_names": ["albedo", "shading", "residual"],
    "albedo": {"prediction_space": "linear", "up_to_scale": False},
    "shading": {"prediction_space": "linear", "up_to_scale": True},
    "residual": {"prediction_space": "linear", "up_to_scale": True},
}
AFFINE = {"scale_invariant": True, "shift_invariant": True}
INTRINSICS = {"_class_name": "MarigoldIntrinsicsPipeline", "prediction_type": "intrinsics"}
TARGETS = {
    target.name: target
    for target in (
        TrainingTarget(
            "depth", (), 1, depth_pictures, depth_engine,
            {"_class_name": "MarigoldDepthPipeline", "prediction_type": "depth", **AFFINE},
            depth_measure, "Depth", "after the least-squares scale and shift",
            end_to_end=affine_error,
            recipe={"learning_rate": 3e-5, "steps": 30000, "decay_steps": 25000, "variants": 1},
            mixture={2: (0.9, 0.1)},  # Hypersim, Virtual KITTI
        ),
        TrainingTarget(
            "normals", ("normals",), 1, normals_pictures, normals_target,
            {"_class_name": "MarigoldNormalsPipeline", "prediction_type": "normals",
             "use_full_z_range": True},
            normals_measure, "Surface normals",
            "angles in degrees, and the share of pixels below 11.25 degrees",
            end_to_end=angular_error,
            recipe={"learning_rate": 6e-5, "variants": 2},
            mixture={3: (0.5, 0.49, 0.01)},  # Hypersim, InteriorVerse, Sintel
        ),
        TrainingTarget(
            "appearance", ("base_colour", "roughness", "metallicity"), 2, appearance_pictures,
            partial(intrinsics_engine, APPEARANCE), INTRINSICS | {"target_properties": APPEARANCE},
            partial(intrinsics_measure, "appearance"), "Albedo, roughness and metallicity",
            "dB; the albedo at the power 1 / 2.2",
            more_is_better=True, recipe={"steps": 50000},
        ),
        TrainingTarget(
            "lighting", ("albedo", "shading", "residual"), 3, lighting_pictures,
            partial(intrinsics_engine, LIGHTING), INTRINSICS | {"target_properties": LIGHTING},
            partial(intrinsics_measure, "lighting"), "Albedo, shading and residual",
            "dB; the albedo at the power 1 / 2.2, the light after the scale of least squares",
            more_is_better=True,
            recipe={"learning_rate": 8e-5, "steps": 50000, "decay_steps": 45000},
        ),
    )
}  # fmt: skip


def target_of_base(name: str) -> str:
    """The entry that a base was trained for; "depth" for a Stable Diffusion.

    Raises CheckpointError where the base is not there, MarigoldError for intrinsic images that no
    entry has.
    """
    folder = locate(name)
    unet, index = folder / "unet" / "config.json", folder / "model_index.json"
    if not index.is_file() or not unet.is_file() or read_json(unet).get("in_channels") == 4:
        return "depth"
    content = read_json(index)
    kind = target_of(name, content, read_json(unet))
    if kind != "intrinsics":
        return kind
    found = [one.name for one in maps_of(content)]
    for target in ("appearance", "lighting"):
        if [one.name for one in maps_of(TARGETS[target].index)] == found:
            return target
    raise MarigoldError(f"{name} estimates {', '.join(found)}; say what to train with --target.")


def settle(recipe: Any) -> None:
    """Fill in what a recipe leaves open: the base's target, and the released recipe's values."""
    if recipe.target is None:
        try:
            recipe.target = target_of_base(recipe.base) if recipe.base else "depth"
        except CheckpointError:  # which opening it says again
            recipe.target = "depth"
    target = TARGETS[recipe.target]
    for option, value in {**TARGETS["depth"].recipe, **target.recipe}.items():
        if getattr(recipe, option) is None:
            many = option == "variants"
            setattr(recipe, option, [value] * len(recipe.data) if many else value)
    if recipe.weights is None:
        count = len(recipe.data)
        recipe.weights = list(target.mixture.get(count, (1 / count,) * count))
