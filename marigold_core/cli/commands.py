"""What each command does: from parsed arguments to an exit status."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..depth import DepthMap, read_depth
from ..depth_files import write_picture
from ..errors import MarigoldError, printable
from ..images import read_mask, read_samples, unit_range
from ..metric.report import fit_report
from ..options import Options
from ..progress import timed
from . import metres
from .batch import BatchItem, Save, plan, run
from .comparison import mean_relative_error, side_by_side
from .outputs import Outputs
from .reporting import readable_size, say, steps

if TYPE_CHECKING:
    from ..checkpoints.inspection import CheckpointInfo
    from ..engine import Marigold

ASSETS = Path(__file__).parents[1] / "assets"


def estimate_depth(arguments: argparse.Namespace) -> int:
    """`marigold depth`. One bad picture is reported, and the others are processed."""
    options_of(arguments)
    metres.is_asked(arguments)
    items = plan(inputs(arguments.inputs, arguments), arguments.output)
    single = ["mask", "truth", "length"]
    if arguments.known and not Path(arguments.known).is_dir():  # a COLMAP model has many pictures
        single.append("known")
    for option in single:
        if getattr(arguments, option) and len(items) > 1:
            raise MarigoldError(f"--{option} is for a single picture, and there are {len(items)}.")
    if arguments.truth:
        truths = {items[0].source: read_depth(arguments.truth)}
    elif arguments.example:
        truths = {items[0].source: read_depth(ASSETS / "example_depth.png")}
    else:
        truths = {}
    check_exr(arguments)
    if arguments.disparity:
        near, far = arguments.disparity
        if not 0 < near < far < math.inf:
            raise MarigoldError(f"--disparity needs 0 < NEAR < FAR, not {near:g} and {far:g}.")
    mask = read_mask(arguments.mask) if arguments.mask else None
    read = [arguments.mask, arguments.truth, arguments.pose, *(item.source for item in items)]
    if arguments.known and not Path(arguments.known).is_dir():
        read.append(arguments.known)

    def load_depth() -> Marigold:
        marigold = load(arguments)
        marigold.expect("depth")
        return marigold

    def files(item: BatchItem) -> Iterator[Path]:
        return (file for _, file in _outputs(item, arguments, item.source in truths))

    def read_one(item: BatchItem) -> tuple[Any, Any]:
        image = read_samples(item.source)
        if not metres.is_asked(arguments):
            return image, None
        return image, metres.read_known(item.source, image.shape[:2], arguments)

    def estimate(
        marigold: Marigold, item: BatchItem, was_read: tuple[Any, Any], seconds: dict[str, float]
    ) -> Save:
        image, known = was_read
        name = item.source.name
        depth_map = predict(marigold, image, name, mask, arguments)
        seconds |= depth_map.seconds
        depth = _as_asked(depth_map, arguments)
        facts: list[str] = []
        if known is not None:
            options = options_of(arguments)
            with timed(seconds, "metres"):
                depth = metres.in_metres(
                    marigold, image, name, depth_map, known, options, arguments.guided
                )
            facts = fit_report(depth, known)

        def save() -> dict[Path, str]:
            files = _save(item, image, depth_map, depth, truths.get(item.source), arguments)
            last = next(reversed(files))
            files[last] += "".join(f"\n  {fact}" for fact in facts)
            return files

        return save

    outputs = Outputs(filter(None, read), arguments.overwrite)
    return run(
        items, arguments, outputs, files=files, load=load_depth, read=read_one, estimate=estimate
    )


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


def inputs(given: list[str], arguments: argparse.Namespace) -> list[str]:
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


def check_exr(arguments: argparse.Namespace) -> None:
    if "exr" in arguments.formats and importlib.util.find_spec("OpenEXR") is None:
        raise MarigoldError("EXR files need the OpenEXR package: pip install OpenEXR")


def load(arguments: argparse.Namespace) -> Marigold:
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        from ..engine import Marigold

        options = {
            "base": arguments.base,
            "variant": arguments.variant,
            "revision": arguments.revision,
            "device": arguments.device or device_of_process(),
            "dtype": arguments.dtype,
            "vae": arguments.tiny_vae,
        }
        named = {name: value for name, value in options.items() if value is not None}
        if arguments.low_memory:
            named["low_memory"] = True
        marigold = Marigold.from_pretrained(arguments.checkpoint, **named)
    where = f"{marigold.device}, {str(marigold.dtype).removeprefix('torch.')}"
    say(f"{printable(arguments.checkpoint)}: loaded in {seconds['load']:.2f} s ({where})")
    return marigold


def device_of_process() -> str | None:
    """The GPU of this process, where several share the machine; None leaves the choice."""
    import torch

    number = os.environ.get("LOCAL_RANK", "")
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return f"cuda:{number}" if several and number and torch.cuda.is_available() else None


def options_of(arguments: argparse.Namespace) -> Options:
    """Raises MarigoldError, before the checkpoint is loaded."""
    return Options(
        num_inference_steps=arguments.steps,
        ensemble_size=arguments.ensemble,
        processing_resolution=arguments.resolution,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def predict(
    marigold: Marigold, image: Any, name: str, mask: Any, arguments: argparse.Namespace
) -> Any:
    with steps(name) as step_done:
        return marigold(image, options_of(arguments), mask=mask, callback=step_done)


def _save(
    item: BatchItem,
    image: Any,
    depth_map: DepthMap,
    depth: DepthMap,
    truth: DepthMap | None,
    arguments: argparse.Namespace,
) -> dict[Path, str]:
    """Write a picture's outputs; depth: as asked for, in metres perhaps. Each file with a note."""
    files = {}
    for kind, file in _outputs(item, arguments, truth is not None):
        files[file] = ""
        if kind == "color":
            shown = depth_map if depth.fit is None else depth.normalize(mode="percentile")
            shown.save(file, colormap=arguments.colormap)
        elif kind == "uncertainty":
            scale = depth.save_uncertainty(file)
            files[file] = f" (white = {scale:.3g})" if file.suffix == ".png" else ""
        elif kind == "compared" and truth is not None:
            error = _compare(file, unit_range(image), depth_map, truth)
            files[file] = f" (AbsRel {error:.3f} after the best scale and shift)"
        else:
            depth.save(file)
    return files


def _compare(file: Path, image: Any, depth_map: DepthMap, truth: DepthMap) -> float:
    """Write the picture that has the truth beside the estimate; the mean relative error."""
    known = truth.depth > 0
    if truth.mask is not None:
        known &= truth.mask
    sheet = side_by_side(image, depth_map.depth, truth.depth, known, depth_map.uncertainty)
    write_picture(file, sheet)
    return mean_relative_error(depth_map.depth, truth.depth, known)


def _as_asked(depth_map: DepthMap, arguments: argparse.Namespace) -> DepthMap:
    """The depth that is written. The colour picture stays as it is: red is near in every run."""
    if arguments.disparity:
        near, far = arguments.disparity
        return depth_map.normalize(mode="inverse", near=near, far=far, invert=arguments.invert)
    return inverted(depth_map) if arguments.invert else depth_map


def inverted(depth_map: DepthMap) -> DepthMap:
    return depth_map.normalize(mode="fixed", near=0, far=1, invert=True)


def _outputs(
    item: BatchItem, arguments: argparse.Namespace, compared: bool = False
) -> Iterator[tuple[str, Path]]:
    """Kind and file of each output of one picture; compared: with the truth beside the estimate."""

    def named(kind: str, suffix: str) -> tuple[str, Path]:
        return kind, item.target.with_name(f"{item.target.name}_{kind}.{suffix}")

    for suffix in arguments.formats:
        yield named("depth", suffix)
    if arguments.colormap != "none":
        yield named("color", "png")
    if arguments.ensemble > 1:
        for suffix in arguments.formats:
            yield named("uncertainty", suffix)
    if compared:
        yield named("compared", "png")
