"""Metres on the command line: the options of what is known, and the fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..depth import DepthMap
from ..errors import MarigoldError, printable
from ..geometry.points import FieldOfView, field_of_view
from ..images import read_exif
from ..metric.fit import fit_metric
from ..metric.hint_files import read_known_depths
from ..metric.hints import KnownDepths
from ..options import Options
from .reporting import steps

if TYPE_CHECKING:
    from ..engine import Marigold


def is_asked(arguments: argparse.Namespace) -> bool:
    """Whether something is known, so that the depth becomes metres. Raises MarigoldError where
    options need one that is missing, or exclude each other."""
    asked = bool(arguments.known or arguments.length or arguments.camera_height)
    for option in ("known_scale", "pose"):
        if getattr(arguments, option) is not None and not arguments.known:
            raise MarigoldError(f"--{option.replace('_', '-')} is about the file of --known.")
    if arguments.guided and not arguments.known:
        raise MarigoldError("--guided is steered by the points of --known; name them.")
    if asked:
        for option in ("invert", "disparity", "near", "far"):
            if getattr(arguments, option, None) not in (None, False):
                raise MarigoldError(f"--{option} is not for depth in metres; leave it out.")
    return asked


def fov_of(
    picture: Path,
    size: tuple[int, int],
    arguments: argparse.Namespace,
    estimate: float | None = None,
) -> FieldOfView:
    """The user's field of view, or EXIF's, or the estimate, or the default, and which."""
    return field_of_view(*size, user=arguments.fov, exif=read_exif(picture), estimate=estimate)


def read_known(picture: Path, size: tuple[int, int], arguments: argparse.Namespace) -> KnownDepths:
    """All that the command line knows of a picture of `size` (height, width)."""
    fov = fov_of(picture, size, arguments)
    known = KnownDepths([], [], size=size)  # type: ignore[arg-type]
    if arguments.known:
        known = read_known_depths(
            arguments.known,
            size,
            picture_name=picture.as_posix(),
            scale=arguments.known_scale,
            fov_degrees=fov.degrees,
            pose=_pose(arguments.pose) if arguments.pose else None,
        )
    # A reconstruction knows its camera better than a file's EXIF does.
    degrees = fov.degrees if known.fov_degrees is None or arguments.fov else known.fov_degrees
    return KnownDepths(
        known.positions,
        known.metres,
        known.weights,
        size,
        lengths=np.array(arguments.length, np.float64).reshape(-1, 5) if arguments.length else None,
        camera_height=arguments.camera_height,
        fov_degrees=None if fov.source == "default" and known.fov_degrees is None else degrees,
        in_metres=known.in_metres,
    )


def in_metres(
    marigold: Marigold | None,
    image: Any,
    name: str,
    depth_map: DepthMap,
    known: KnownDepths,
    options: Options,
    guided: bool,
) -> DepthMap:
    """The depth map in metres; `guided` runs the sampling again under the points."""
    result = fit_metric(depth_map, known)
    if guided:
        from ..metric.guided import guided_depth

        assert marigold is not None
        with steps(name) as step_done:
            result = guided_depth(
                marigold,
                image,
                known,
                options,
                before=depth_map,
                mask=depth_map.mask,
                callback=step_done,
            )
    return result


def _pose(file: str) -> Any:
    try:
        return np.loadtxt(file, ndmin=2, max_rows=16)
    except OSError:
        raise MarigoldError(f"There is no file {printable(file)}.") from None
    except ValueError as error:
        raise MarigoldError(f"{printable(file)} is not a matrix of 4 x 4 numbers.") from error
