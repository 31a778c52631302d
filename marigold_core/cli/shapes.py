"""`marigold mesh` and `marigold points`: a picture's depth as a shape in space."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..depth import DepthMap, read_depth
from ..errors import MarigoldError, printable
from ..geometry.camera_estimate import NOTHING, CameraEstimate, estimate_camera
from ..geometry.grid import depth_to_mesh
from ..geometry.mesh import SUFFIXES, Mesh, mesh_files
from ..geometry.points import FOV_DEGREES, FieldOfView, unproject
from ..geometry.sphere import panorama_to_mesh
from ..images import read_image, read_mask
from ..metric.report import fit_report
from ..progress import timed
from . import metres
from .commands import inputs, inverted, load, options_of, predict
from .outputs import Outputs
from .reporting import say, stages, steps


def build_mesh(arguments: argparse.Namespace) -> int:
    """`marigold mesh`."""
    options_of(arguments)
    if arguments.invert and not arguments.depth:
        raise MarigoldError("--invert is about the file of --depth, and there is none.")
    given = [arguments.picture] if arguments.picture else []
    picture = Path(inputs(given, arguments)[0])
    output = arguments.output or Path(f"{picture.stem}.glb")
    if output.suffix.lower() not in SUFFIXES:
        raise MarigoldError(f"{output.name}: a mesh is saved as {', '.join(SUFFIXES)}; name it so.")
    known = metres.is_asked(arguments)
    shape: dict[str, Any] = {
        "tear_ratio": arguments.tear,
        "max_vertices": arguments.max_vertices,
        "fill": arguments.fill,
    }
    if arguments.panorama and (arguments.fill or known or arguments.fov is not None):
        raise MarigoldError("--panorama goes with no --fill, --fov or known distances.")
    _check_camera(arguments, known)
    # A wrong option shows before the wait.
    depth_to_mesh(np.zeros((2, 2), np.float32), **shape)
    jpeg = picture.suffix.lower() in (".jpg", ".jpeg")
    files = mesh_files(output, ".jpg" if jpeg else ".png")
    outputs = Outputs(_read_files(picture, arguments), arguments.overwrite)
    outputs.check(files, picture)
    image, depth_map, seconds = _picture_and_depth(picture, arguments)
    with timed(seconds, "mesh"):
        camera = NOTHING if arguments.panorama else _estimate(depth_map)
        near, far = _range(arguments, known, camera)
        if arguments.panorama:
            del shape["fill"]
            mask, view = depth_map.mask, "a panorama"
            mesh = panorama_to_mesh(
                depth_map.depth, image=image, near=near, far=far, mask=mask, **shape
            )
        else:
            fov = metres.fov_of(picture, image.shape[:2], arguments, camera.fov_degrees)
            view = _view(fov)
            mesh = depth_map.mesh(image, fov_degrees=fov.degrees, near=near, far=far, **shape)
    with timed(seconds, "save"):
        mesh.save(output, _jpeg_texture(mesh) if jpeg else None)
        outputs.note(files, picture)
    size = f"{len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles"
    _said(picture, f"{size}, {view}", seconds, output)
    return 0


def build_points(arguments: argparse.Namespace) -> int:
    """`marigold points`."""
    options_of(arguments)
    if arguments.invert and not arguments.depth:
        raise MarigoldError("--invert is about the file of --depth, and there is none.")
    picture = Path(inputs([arguments.picture] if arguments.picture else [], arguments)[0])
    output = arguments.output or Path(f"{picture.stem}.ply")
    if output.suffix.lower() != ".ply":
        raise MarigoldError(f"{output.name}: a point cloud is saved as .ply; name it so.")
    known = metres.is_asked(arguments)
    _check_camera(arguments, known)
    outputs = Outputs(_read_files(picture, arguments), arguments.overwrite)
    outputs.check([output], picture)
    image, depth_map, seconds = _picture_and_depth(picture, arguments)
    with timed(seconds, "points"):
        camera = _estimate(depth_map)
        fov = metres.fov_of(picture, image.shape[:2], arguments, camera.fov_degrees)
        near, far = _range(arguments, known, camera)
        cloud = depth_map.points(image, fov_degrees=fov.degrees, near=near, far=far)
    with timed(seconds, "save"):
        cloud.save(output)
        outputs.note([output], picture)
    _said(picture, f"{len(cloud.points)} points, {_view(fov)}", seconds, output)
    return 0


def _check_camera(arguments: argparse.Namespace, known: bool) -> None:
    """Raises MarigoldError for a field of view, near or far that no camera has."""
    near, far = _range(arguments, known)
    unproject(
        np.zeros((1, 1), np.float32),
        fov_degrees=FOV_DEGREES if arguments.fov is None else arguments.fov,
        near=near,
        far=far,
    )


def _range(
    arguments: argparse.Namespace, known: bool, camera: CameraEstimate = NOTHING
) -> tuple[float | None, float | None]:
    """Near and far: what the user gave, and for the rest the estimate, or the default."""
    if known:
        return None, None
    near, far = camera.near_far
    if arguments.near is not None:
        far *= arguments.near / near if arguments.far is None and camera.relief else 1
        near = arguments.near
    return near, far if arguments.far is None else arguments.far


def _estimate(depth_map: DepthMap) -> CameraEstimate:
    if not depth_map.shift_invariant:
        return NOTHING
    return estimate_camera(depth_map.depth, depth_map.mask)


def _read_files(picture: Path, arguments: argparse.Namespace) -> Iterator[str | Path]:
    known = arguments.known
    files = [picture, arguments.mask, arguments.depth, known, arguments.pose]
    return (file for file in files if file and not Path(file).is_dir())


def _picture_and_depth(
    picture: Path, arguments: argparse.Namespace
) -> tuple[Any, DepthMap, dict[str, float]]:
    """The picture, and its depth from the file or the model, under the mask, in metres if asked."""
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        image = read_image(picture)
        mask = read_mask(arguments.mask) if arguments.mask else None
        depth_map = _depth_from_file(arguments) if arguments.depth else None
        known = None
        if metres.is_asked(arguments):
            known = metres.read_known(picture, image.shape[:2], arguments)
    marigold = None
    if depth_map is None or arguments.guided:
        marigold = load(arguments)
        marigold.expect("depth")
    if depth_map is None:
        assert marigold is not None
        if getattr(arguments, "panorama", False):
            depth_map = _panorama(marigold, image, picture.name, arguments)
        else:
            depth_map = predict(marigold, image, picture.name, mask, arguments)
        seconds |= depth_map.seconds
    if mask is not None:
        both = mask if depth_map.mask is None else _overlap(mask, depth_map)
        depth_map = replace(depth_map, mask=both)
    if known is not None:
        options = options_of(arguments)
        with timed(seconds, "metres"):
            depth_map = metres.in_metres(
                marigold, image, picture.name, depth_map, known, options, arguments.guided
            )
        for line in fit_report(depth_map, known):
            say(f"  {line}")
    return image, depth_map, seconds


def _panorama(marigold: Any, image: Any, name: str, arguments: argparse.Namespace) -> DepthMap:
    from ..panorama import panorama_depth

    with steps(name) as step_done:
        return panorama_depth(marigold, image, options_of(arguments), callback=step_done)


def _view(fov: FieldOfView) -> str:
    return f"field of view {fov.degrees:.1f} degrees ({fov.source})"


def _said(picture: Path, what: str, seconds: dict[str, float], output: Path) -> None:
    say(f"{printable(picture.name)}: {what}; {stages(seconds)}\n  {printable(output)}")


def _depth_from_file(arguments: argparse.Namespace) -> DepthMap:
    depth_map = read_depth(arguments.depth)
    known = depth_map.depth if depth_map.mask is None else depth_map.depth[depth_map.mask]
    if known.size and not (known.min() >= -1e-3 and known.max() <= 1 + 1e-3):
        raise MarigoldError(
            f"{arguments.depth} has values from {known.min():g} to {known.max():g}; a mesh needs 0"
            " (nearest) to 1 (farthest), placed by --near and --far."
        )
    return inverted(depth_map) if arguments.invert else depth_map


def _overlap(mask: Any, depth_map: DepthMap) -> Any:
    if mask.shape != depth_map.depth.shape:
        raise MarigoldError(
            f"The mask is {mask.shape[1]}x{mask.shape[0]} and the depth map"
            f" {depth_map.depth.shape[1]}x{depth_map.depth.shape[0]}; make them the same size."
        )
    return mask & depth_map.mask


def _jpeg_texture(mesh: Mesh) -> bytes | None:
    """A JPEG photograph stays one: as PNG it would be about five times larger, and no better."""
    if mesh.texture is None:
        return None
    encoded = io.BytesIO()
    Image.fromarray(mesh.texture).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()
