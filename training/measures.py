"""How evaluate.py measures each kind of checkpoint: scores, and what a checkpoint has to beat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from data.sample import Sample
from einops import rearrange
from intrinsic_metrics import MapScore, comparable, map_score
from metrics import MORE_IS_BETTER, Score, score, vertical_ramp
from normal_metrics import NormalScore, normal_score
from targets import APPEARANCE, LIGHTING, TARGETS

from marigold_core import DepthMap, IntrinsicImages, NormalMap
from marigold_core.checkpoints.families import maps_of


class Rules(NamedTuple):
    """How one data set is scored. depth_range, fit_columns: see `metrics.score`. resolution None:
    the checkpoint's own. fov_degrees: of normals from depth. material_power: of the prediction's
    grey maps, before they are compared."""

    title: str
    resolution: int | None = None
    depth_range: tuple[float, float] | None = None
    fit_columns: int | None = None
    expected: int | None = None
    fov_degrees: float | None = None
    material_power: float = 1.0


class Measure(NamedTuple):
    """score: the type, a NamedTuple of floats. of: (result, sample, fit, rules) -> a score; fit is
    of depth. rivals: what needs no checkpoint, as results. headings: field -> words of a table.
    better: field -> whether more is. plotted: the fields of a sweep's panels."""

    score: type[Any]
    of: Callable[[Any, Sample, str, Rules], Any]
    rivals: Callable[[Sample], dict[str, Any]]
    headings: dict[str, str]
    better: dict[str, bool]
    plotted: tuple[str, ...]


def depth_score(result: DepthMap, sample: Sample, fit: str, rules: Rules) -> Score:
    return score(
        result.depth, sample.depth.numpy(), sample.valid.numpy(), fit=fit,
        depth_range=rules.depth_range, fit_columns=rules.fit_columns,
    )  # fmt: skip


def depth_rivals(sample: Sample) -> dict[str, Any]:
    """The single best constant, and a ramp: both take the fit."""
    height, width = sample.depth.shape
    constant = np.zeros((height, width), np.float32)
    return {"constant": DepthMap(constant), "ramp": DepthMap(vertical_ramp(height, width))}


def normals_score(result: Any, sample: Sample, fit: str, rules: Rules) -> NormalScore:
    """Of normals, or of those of a depth map's surface."""
    if isinstance(result, DepthMap):
        fov = {} if rules.fov_degrees is None else {"fov_degrees": rules.fov_degrees}
        result = result.normals(**fov)
    truth = rearrange(sample.maps["normals"], "c h w -> h w c").numpy()
    return normal_score(result.normals, truth, sample.valid.numpy())


def normals_rivals(sample: Sample) -> dict[str, Any]:
    towards = np.zeros((*sample.valid.shape, 3), np.float32)
    towards[..., 2] = 1
    return {"all towards the viewer": NormalMap(towards)}


def intrinsics_score(target: str, result: Any, sample: Sample, fit: str, rules: Rules) -> Any:
    truth, valid = TARGETS[target].truth(sample), sample.valid.numpy()
    values: list[float] = []
    for name in truth.maps:
        prediction, true = comparable(name, result, truth, valid)
        if prediction.ndim == 2:
            prediction = prediction**rules.material_power
        values += map_score(prediction, true, valid)
    return MEASURES[target].score(*values)


def intrinsics_rivals(target: str, sample: Sample) -> dict[str, Any]:
    """The picture itself as the albedo: white light without a residual, or plain paint."""
    picture = rearrange(sample.image, "c h w -> h w c").numpy()
    truth = TARGETS[target].truth(sample)
    linear = truth.spaces["albedo"] == "linear"
    maps = {"albedo": picture**2.2 if linear else picture}
    for name, value in (("shading", 1.0), ("residual", 0.0), ("roughness", 0.5),
                        ("metallicity", 0.0)):  # fmt: skip
        if name in truth.maps:
            maps[name] = np.full_like(truth.maps[name], value)
    spaces, loose = truth.spaces, truth.up_to_scale
    images = IntrinsicImages(
        {k: v.astype(np.float32) for k, v in maps.items()}, spaces, up_to_scale=loose
    )
    return {"the picture as albedo": images}


def intrinsics_measure(target: str, properties: dict[str, Any]) -> Measure:
    names = [one.name for one in maps_of({"target_properties": properties})]
    words = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
    headings = {f"{name}_{m}": f"{name} {words[m]}" for name in names for m in MapScore._fields}
    kind = NamedTuple(f"{target.title()}Score", [(field, float) for field in headings])  # type: ignore[misc]
    return Measure(
        kind, partial(intrinsics_score, target), partial(intrinsics_rivals, target), headings,
        {field: not field.endswith("lpips") for field in headings},
        tuple(f"{name}_psnr" for name in names),
    )  # fmt: skip


MEASURES = {
    "depth": Measure(
        Score, depth_score, depth_rivals,
        {
            "abs_rel": "AbsRel", "delta1": "δ1", "delta2": "δ2", "delta3": "δ3", "sq_rel": "SqRel",
            "rmse": "RMSE", "rmse_log": "RMSElog", "irmse": "iRMSE", "log10": "log10",
            "silog": "SILog", "boundary_f1": "boundary F1",
        },
        MORE_IS_BETTER, ("abs_rel", "delta1", "boundary_f1"),
    ),
    "normals": Measure(
        NormalScore, normals_score, normals_rivals,
        {
            "mean": "mean °", "median": "median °", "rmse": "RMSE °", "within_5": "< 5°",
            "within_7_5": "< 7.5°", "within_11_25": "< 11.25°", "within_22_5": "< 22.5°",
            "within_30": "< 30°",
        },
        {field: field.startswith("within") for field in NormalScore._fields},
        ("mean", "median", "within_11_25"),
    ),
    "appearance": intrinsics_measure("appearance", APPEARANCE),
    "lighting": intrinsics_measure("lighting", LIGHTING),
}  # fmt: skip
