"""`marigold normals` and `marigold intrinsics`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..depth import DepthMap
from ..errors import MarigoldError
from ..geometry.points import FAR, FOV_DEGREES, NEAR, depth_to_normals
from ..images import read_image, read_mask
from ..intrinsics import IntrinsicImages
from ..normals import NormalMap
from ..progress import timed
from .batch import BatchItem, Save, plan, run
from .commands import check_exr, inputs, load, options_of, predict
from .metres import fov_of
from .outputs import Outputs

if TYPE_CHECKING:
    from ..engine import Marigold


def estimate_normals(arguments: argparse.Namespace) -> int:
    """`marigold normals`: by a checkpoint for normals, or from the depth of one for depth."""
    camera = {name: getattr(arguments, name) for name in ("fov", "near", "far")}
    # A wrong option shows before the wait.
    depth_to_normals(
        np.zeros((2, 2), np.float32),
        fov_degrees=FOV_DEGREES if arguments.fov is None else arguments.fov,
        near=NEAR if arguments.near is None else arguments.near,
        far=FAR if arguments.far is None else arguments.far,
    )

    def loaded() -> Marigold:
        marigold = load(arguments)
        marigold.expect("normals", "depth")
        given = [f"--{name}" for name, value in camera.items() if value is not None]
        if given and marigold.target.name == "normals":
            raise MarigoldError(
                f"{given[0]} is for checkpoints for depth, and this one is for normals; leave it"
                " out."
            )
        return marigold

    def files(item: BatchItem) -> Iterator[Path]:
        return (named(item, f"_normals.{suffix}") for suffix in arguments.formats)

    def estimate(
        marigold: Marigold, item: BatchItem, image: Any, seconds: dict[str, float]
    ) -> Save:
        result = predict(marigold, image, item.source.name, mask, arguments)
        seconds |= result.seconds
        note = ""
        if isinstance(result, DepthMap):
            fov = fov_of(item.source, image.shape[:2], arguments)
            with timed(seconds, "normals"):
                result = result.normals(
                    fov_degrees=fov.degrees, near=arguments.near, far=arguments.far
                )
            note = f"\n  from its depth, for a field of view of {fov.degrees:.0f}° ({fov.source})"
        return partial(save, item, result, note)

    def save(item: BatchItem, result: NormalMap, note: str) -> dict[Path, str]:
        written = {}
        for file in files(item):
            result.save(file, arguments.convention)
            written[file] = ""
            if result.uncertainty is not None:
                beside = file.with_name(f"{file.stem}_uncertainty{file.suffix}")
                result.save_uncertainty(beside)
                written[beside] = ""
        written[file] = note
        return written

    items, outputs, mask = planned(arguments)
    return run(
        items, arguments, outputs, files=files, load=loaded, read=read_one, estimate=estimate
    )


def estimate_intrinsics(arguments: argparse.Namespace) -> int:
    """`marigold intrinsics`."""
    items, outputs, mask = planned(arguments)
    names = names_of_maps(arguments)

    def files(item: BatchItem) -> Iterator[Path]:
        for suffix in arguments.formats:
            if suffix == "exr":
                yield named(item, "_intrinsics.exr")
                continue
            for name in names:
                yield named(item, f"_{name}.{suffix}")
                if arguments.ensemble > 1:
                    yield named(item, f"_{name}_uncertainty.{suffix}")

    def estimate(
        marigold: Marigold, item: BatchItem, image: Any, seconds: dict[str, float]
    ) -> Save:
        images: IntrinsicImages = predict(marigold, image, item.source.name, mask, arguments)
        seconds |= images.seconds
        return partial(save, item, images)

    def save(item: BatchItem, images: IntrinsicImages) -> dict[Path, str]:
        for suffix in arguments.formats:
            if suffix == "exr":
                images.save(named(item, "_intrinsics.exr"), arguments.space or "linear")
                continue
            for name in images.maps:
                images.save_map(name, named(item, f"_{name}.{suffix}"), arguments.space)
                if images.uncertainty is not None:
                    images.save_uncertainty(name, named(item, f"_{name}_uncertainty.{suffix}"))
        return dict.fromkeys(files(item), "")

    def loaded() -> Marigold:
        return load(arguments)

    return run(
        items, arguments, outputs, files=files, load=loaded, read=read_one, estimate=estimate
    )


def planned(arguments: argparse.Namespace) -> tuple[list[BatchItem], Outputs, object]:
    """The pictures, the record of outputs, and the mask. Raises MarigoldError for wrong options."""
    options_of(arguments)
    items = plan(inputs(arguments.inputs, arguments), arguments.output)
    if arguments.mask and len(items) > 1:
        raise MarigoldError(f"--mask is for a single picture, and there are {len(items)}.")
    check_exr(arguments)
    mask = read_mask(arguments.mask) if arguments.mask else None
    read = [arguments.mask, *(item.source for item in items)]
    return items, Outputs(filter(None, read), arguments.overwrite), mask


def names_of_maps(arguments: argparse.Namespace) -> list[str]:
    """The maps that the checkpoint estimates, from its files' headers."""
    from ..checkpoints.inspection import inspect_checkpoint

    info = inspect_checkpoint(
        arguments.checkpoint,
        base=arguments.base,
        variant=arguments.variant,
        revision=arguments.revision,
        dtype=arguments.dtype,
    )
    if info.target != "intrinsics":
        raise MarigoldError(
            f"{arguments.checkpoint} estimates {info.target}; `marigold intrinsics` takes a"
            " checkpoint for intrinsic images, such as iid-appearance or iid-lighting."
        )
    return [one.name for one in info.maps]


def read_one(item: BatchItem) -> Any:
    return read_image(item.source)


def named(item: BatchItem, ending: str) -> Path:
    return item.target.with_name(item.target.name + ending)
