# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the engine for a picture, and the maps of a relightable surface."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import bpy

from ...backend.engine_parts import MarigoldError
from ...backend.engine_process import Job
from ...backend.engine_session import preferences, submit
from ...mesh.picture import image_pixels, mask_pixels
from ...mesh.relightable import SurfaceMaps, read_surface_maps, surface_maps_of_arrays
from ..run_settings import RELIGHTABLE, run_params


def picture_request(
    image: bpy.types.Image, path: str, settings: Any, checkpoint: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and arrays of a run on a picture; checkpoint: None is the one for depth.

    The worker reads the picture's file itself, with all its bits; without one it gets pixels.
    """
    params, arrays = run_params(settings, checkpoint), {}
    mask = bpy.data.images.get(settings.mask)
    if mask is not None:
        arrays["mask"] = mask_pixels(mask, tuple(image.size))
    if path and Path(path).is_file():
        params["image"] = path
    else:
        arrays["image"] = image_pixels(image)
    return params, arrays


def _is_relightable(settings: Any) -> bool:
    """No checkpoint knows the normals of an equirectangular picture."""
    return settings.surface == RELIGHTABLE and not settings.panorama


def surface_checkpoints(settings: Any) -> list[tuple[str, str]]:
    """The worker's methods and the checkpoints that a relightable surface is estimated with: those
    of the preferences, unless its maps come from a folder."""
    if not _is_relightable(settings) or settings.surface_folder:
        return []
    chosen = preferences()
    # Albedo by lighting is replaced by that of appearance, whose roughness belongs to it.
    wanted = (
        ("normals", chosen.normals_checkpoint),
        ("intrinsics", chosen.lighting_checkpoint),
        ("intrinsics", chosen.appearance_checkpoint),
    )
    return [(method, name.strip()) for method, name in wanted if name.strip()]


def folder_maps(settings: Any) -> SurfaceMaps | None:
    """The maps of the chosen folder, None without one. Raises MarigoldError."""
    if not _is_relightable(settings) or not settings.surface_folder:
        return None
    return read_surface_maps(bpy.path.abspath(settings.surface_folder))


def surface_maps(
    settings: Any, image: bpy.types.Image | None, path: str, given: SurfaceMaps | None
) -> Generator[Job, None, SurfaceMaps | None]:
    """The `given` maps, else those of the checkpoints for a relightable surface, which run one
    after another; None for a plain picture."""
    if not _is_relightable(settings):
        return None
    if given is not None or image is None:
        return given or SurfaceMaps()
    arrays: dict[str, Any] = {}
    requests = [
        (method, *picture_request(image, path, settings, checkpoint))
        for method, checkpoint in surface_checkpoints(settings)
    ]
    for request in requests:
        job = submit(*request)
        yield job
        arrays |= job.arrays
    return surface_maps_of_arrays(arrays)


def surface_after_depth(
    operator: Any, image: bpy.types.Image | None, path: str, given: SurfaceMaps | None
) -> Generator[Job, None, SurfaceMaps | None]:
    """As `surface_maps`, with a warning of the operator in place of an error: the depth is there,
    and may have taken long."""
    try:
        return (yield from surface_maps(operator, image, path, given))
    except MarigoldError as error:
        operator.report({"WARNING"}, f"{error} The mesh shows the picture.")
        return None


def surface_note(maps: SurfaceMaps | None) -> str:
    """What a relightable surface lacks, for the user."""
    if maps is None or maps.albedo is not None:
        return ""
    return (
        "There is no albedo, so the picture is the base colour, with its own light in it: choose"
        " a folder of maps, or a checkpoint for appearance in the preferences."
    )
