"""What each command does: from parsed arguments to an exit status."""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from ..depth import DepthMap, read_depth
from ..depth_files import write_picture
from ..errors import MarigoldError, printable
from ..geometry import depth_to_mesh
from ..images import read_image, read_mask
from ..mesh import SUFFIXES, Mesh, mesh_files
from ..options import Options
from ..progress import timed
from .batch import BatchItem, plan, run
from .comparison import mean_relative_error, side_by_side
from .outputs import Outputs
from .reporting import readable_size, say, stages

if TYPE_CHECKING:
    from ..checkpoints.inspection import CheckpointInfo
    from ..engine import Marigold
    from ..progress import Progress

ASSETS = Path(__file__).parents[1] / "assets"


def estimate_depth(arguments: argparse.Namespace) -> int:
    """`marigold depth`. One bad picture is reported, and the others are processed."""
    _options(arguments)
    items = plan(_inputs(arguments.inputs, arguments), arguments.output)
    for option in ("mask", "truth"):
        if getattr(arguments, option) and len(items) > 1:
            raise MarigoldError(f"--{option} is for a single picture, and there are {len(items)}.")
    if arguments.truth:
        truths = {items[0].source: read_depth(arguments.truth)}
    elif arguments.example:
        truths = {items[0].source: read_depth(ASSETS / "example_depth.png")}
    else:
        truths = {}
    _check_exr(arguments)
    if arguments.disparity:
        near, far = arguments.disparity
        if not 0 < near < far < math.inf:
            raise MarigoldError(f"--disparity needs 0 < NEAR < FAR, not {near:g} and {far:g}.")
    mask = read_mask(arguments.mask) if arguments.mask else None
    read = [arguments.mask, arguments.truth, *(item.source for item in items)]

    def load() -> Marigold:
        marigold = _load(arguments)
        marigold.expect("depth")
        return marigold

    def files(item: BatchItem) -> Iterator[Path]:
        return _outputs(item, arguments, item.source in truths)

    def one(marigold: Marigold, item: BatchItem) -> Iterator[Path]:
        _estimate_one(marigold, item, mask, truths.get(item.source), arguments)
        return files(item)

    outputs = Outputs(filter(None, read), arguments.overwrite)
    return run(items, arguments, outputs, files=files, load=load, one=one)


def build_mesh(arguments: argparse.Namespace) -> int:
    """`marigold mesh`."""
    _options(arguments)
    if arguments.invert and not arguments.depth:
        raise MarigoldError("--invert is about the file of --depth, and there is none.")
    given = [arguments.picture] if arguments.picture else []
    picture = Path(_inputs(given, arguments)[0])
    output = arguments.output or Path(f"{picture.stem}.glb")
    if output.suffix.lower() not in SUFFIXES:
        raise MarigoldError(f"{output.name}: a mesh is saved as {', '.join(SUFFIXES)}; name it so.")
    shape: dict[str, Any] = {
        "fov_degrees": arguments.fov,
        "near": arguments.near,
        "far": arguments.far,
        "tear_ratio": arguments.tear,
        "max_vertices": arguments.max_vertices,
    }
    depth_to_mesh(np.zeros((2, 2), np.float32), **shape)  # a wrong option shows before the wait
    jpeg = picture.suffix.lower() in (".jpg", ".jpeg")
    files = mesh_files(output, ".jpg" if jpeg else ".png")
    read = filter(None, [picture, arguments.mask, arguments.depth])
    outputs = Outputs(read, arguments.overwrite)
    outputs.check(files, picture)
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        image = read_image(picture)
        mask = read_mask(arguments.mask) if arguments.mask else None
        depth_map = _depth_from_file(arguments) if arguments.depth else None
    if depth_map is None:
        marigold = _load(arguments)
        marigold.expect("depth")
        depth_map = _predict(marigold, image, picture.name, mask, arguments)
        seconds |= depth_map.seconds
    if mask is not None:
        both = mask if depth_map.mask is None else _overlap(mask, depth_map)
        depth_map = replace(depth_map, mask=both)
    with timed(seconds, "mesh"):
        mesh = depth_map.mesh(image, **shape)
    with timed(seconds, "save"):
        mesh.save(output, _jpeg_texture(mesh) if jpeg else None)
        outputs.note(files, picture)
    size = f"{len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles"
    say(f"{printable(picture.name)}: {size}; {stages(seconds)}\n  {printable(output)}")
    return 0


def list_checkpoints() -> int:
    """`marigold checkpoints list`; without the network."""
    from ..checkpoints.hub import list_known

    rows = [("NAME", "LICENCE", "SIZE", "HERE", "SOURCE")]
    for known in list_known():
        size = readable_size(known.size_bytes if known.folder else known.download_bytes)
        here = "yes" if known.folder else "no"
        rows.append((known.name, known.licence, size, here, known.repo_id or "bundled"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say(
        "\nnano is for trying and testing. For real work: marigold checkpoints download v1-1"
        "\n--variant fp16 halves the download. tiny is a VAE for --tiny-vae."
    )
    return 0


def download_checkpoint(arguments: argparse.Namespace) -> int:
    """`marigold checkpoints download`."""
    from ..checkpoints.hub import download

    place = download(arguments.name, variant=arguments.variant, revision=arguments.revision)
    say(f"{arguments.name} is in {printable(place)}")
    return 0


def describe_checkpoint(arguments: argparse.Namespace) -> int:
    """`marigold checkpoints inspect`."""
    from ..checkpoints.inspection import inspect_checkpoint

    info = inspect_checkpoint(
        arguments.name,
        base=arguments.base,
        variant=arguments.variant,
        revision=arguments.revision,
        local_files_only=True,
    )
    facts = {
        "folder": info.folder,
        **({"commit": info.commit} if info.commit else {}),
        "family": info.family + (f" ({info.class_name})" if info.class_name else ""),
        "estimates": _estimated(info),
        "steps": info.num_inference_steps,
        "resolution": info.processing_resolution,
        "scheduler": f"{info.scheduler.get('_class_name')},"
        f" {info.scheduler.get('prediction_type')}",
        "size": readable_size(info.size_bytes),
    }
    for part, weights in info.weights.items():
        variant = f", {weights.variant}" if weights.variant else ""
        facts[part] = f"{weights.parameters / 1e6:.1f} M parameters, {weights.dtype}{variant}"
    if arguments.verify:
        facts["verified"] = _verify(info.folder)
    for fact, value in facts.items():
        say(f"{fact + ':':<14}{printable(value)}")
    return 0


def _estimated(info: CheckpointInfo) -> str:
    if info.target == "normals":
        return "normals"
    if info.target == "intrinsics":
        return ", ".join(
            f"{one.name} ({one.space}{', up to a scale' if one.up_to_scale else ''})"
            for one in info.maps
        )
    if not info.scale_invariant:
        return "metric depth"
    return f"depth up to {'a scale and a shift' if info.shift_invariant else 'a scale'}"


def _verify(folder: Path) -> str:
    """What was compared with what. Raises MarigoldError for a difference, or without a list."""
    from ..checkpoints import checksums

    if (compared := checksums.verify_checksums(folder)) is not None:
        return f"{compared} files are what {checksums.FILE_NAME} lists"
    if (compared := checksums.verify_download(folder)) is not None:
        return f"{compared} files are what the hub published at this commit"
    raise MarigoldError(
        f"{folder} has no {checksums.FILE_NAME} and is no download in the hub's cache, so there is"
        " nothing to verify it by."
    )


def _inputs(given: list[str], arguments: argparse.Namespace) -> list[str]:
    tiny_vae = arguments.tiny_vae
    if tiny_vae and Path(tiny_vae).is_file():
        raise MarigoldError(
            f"--tiny-vae took {tiny_vae} as its argument; put it after the pictures, or write"
            " --tiny-vae=tiny."
        )
    if arguments.example:
        found = sorted(str(file) for file in ASSETS.glob("example.*"))
        if not found:
            raise MarigoldError(f"The example picture is missing in {ASSETS}; install again.")
        return found[:1] + given
    if not given:
        raise MarigoldError("No picture given; name files or folders, or try --example.")
    return given


def _check_exr(arguments: argparse.Namespace) -> None:
    if "exr" in arguments.formats and importlib.util.find_spec("OpenEXR") is None:
        raise MarigoldError("EXR files need the OpenEXR package: pip install OpenEXR")


def _load(arguments: argparse.Namespace) -> Marigold:
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        from ..engine import Marigold

        options = {
            "base": arguments.base,
            "variant": arguments.variant,
            "revision": arguments.revision,
            "device": arguments.device,
            "dtype": arguments.dtype,
            "vae": arguments.tiny_vae,
        }
        named = {name: value for name, value in options.items() if value is not None}
        marigold = Marigold.from_pretrained(arguments.checkpoint, **named)
    where = f"{marigold.device}, {str(marigold.dtype).removeprefix('torch.')}"
    say(f"{printable(arguments.checkpoint)}: loaded in {seconds['load']:.2f} s ({where})")
    return marigold


def _options(arguments: argparse.Namespace) -> Options:
    """Raises MarigoldError, before the checkpoint is loaded."""
    return Options(
        num_inference_steps=arguments.steps,
        ensemble_size=arguments.ensemble,
        processing_resolution=arguments.resolution,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def _predict(
    marigold: Marigold, image: Any, name: str, mask: Any, arguments: argparse.Namespace
) -> Any:
    with tqdm(desc=name, unit="step", leave=False, disable=None) as bar:

        def step_done(progress: Progress) -> None:
            bar.total = progress.total
            bar.update(progress.step - bar.n)

        return marigold(image, _options(arguments), mask=mask, callback=step_done)


def _estimate_one(
    marigold: Marigold,
    item: BatchItem,
    mask: Any,
    truth: DepthMap | None,
    arguments: argparse.Namespace,
) -> None:
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        image = read_image(item.source)
    depth_map = _predict(marigold, image, item.source.name, mask, arguments)
    seconds |= depth_map.seconds
    files = []
    with timed(seconds, "save"):
        depth = _as_asked(depth_map, arguments)
        for file in _outputs(item, arguments):
            note = ""
            if file.stem.endswith("_color"):
                depth_map.save(file, colormap=arguments.colormap)
            elif file.stem.endswith("_uncertainty"):
                scale = depth.save_uncertainty(file)
                note = f" (white = {scale:.3g})" if file.suffix == ".png" else ""
            else:
                depth.save(file)
            files.append(f"\n  {printable(file)}{note}")
        if truth is not None:
            files.append("\n  " + _compare(image, depth_map, truth, item.target))
    say(f"{printable(item.source)}: {stages(seconds)}" + "".join(files))


def _compare(image: Any, depth_map: DepthMap, truth: DepthMap, target: Path) -> str:
    """Write the picture of the comparison; its path, and the error."""
    known = truth.depth > 0
    if truth.mask is not None:
        known &= truth.mask
    file = _compared(target)
    sheet = side_by_side(image, depth_map.depth, truth.depth, known, depth_map.uncertainty)
    write_picture(file, sheet)
    error = mean_relative_error(depth_map.depth, truth.depth, known)
    return f"{printable(file)} (AbsRel {error:.3f} after the best scale and shift)"


def _compared(target: Path) -> Path:
    return target.with_name(target.name + "_compared.png")


def _as_asked(depth_map: DepthMap, arguments: argparse.Namespace) -> DepthMap:
    """The depth that is written. The colour picture stays as it is: red is near in every run."""
    if arguments.disparity:
        near, far = arguments.disparity
        return depth_map.normalize(mode="inverse", near=near, far=far, invert=arguments.invert)
    return _inverted(depth_map) if arguments.invert else depth_map


def _inverted(depth_map: DepthMap) -> DepthMap:
    return depth_map.normalize(mode="fixed", near=0, far=1, invert=True)


def _outputs(
    item: BatchItem, arguments: argparse.Namespace, compared: bool = False
) -> Iterator[Path]:
    """The files of one picture; compared: with the picture that has the truth beside it."""

    def named(ending: str) -> Path:
        return item.target.with_name(item.target.name + ending)

    for suffix in arguments.formats:
        yield named(f"_depth.{suffix}")
    if arguments.colormap != "none":
        yield named("_color.png")
    if arguments.ensemble > 1:
        for suffix in arguments.formats:
            yield named(f"_uncertainty.{suffix}")
    if compared:
        yield _compared(item.target)


def _depth_from_file(arguments: argparse.Namespace) -> DepthMap:
    depth_map = read_depth(arguments.depth)
    known = depth_map.depth if depth_map.mask is None else depth_map.depth[depth_map.mask]
    if known.size and not (known.min() >= -1e-3 and known.max() <= 1 + 1e-3):
        raise MarigoldError(
            f"{arguments.depth} has values from {known.min():g} to {known.max():g}; a mesh needs 0"
            " (nearest) to 1 (farthest), placed by --near and --far."
        )
    return _inverted(depth_map) if arguments.invert else depth_map


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
