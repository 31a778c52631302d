"""The command line: `marigold depth`, `normals`, `intrinsics`, `mesh`, `points` and
`checkpoints`.

Results go to stdout, progress and errors to stderr. Exit status: 0 all done, 1 some pictures
failed, 2 wrong usage or nothing done, 130 interrupted. torch loads when a model is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..files import exit_on_sigterm
from .reporting import FAILED, INTERRUPTED, NOTHING_DONE, explain, is_expected

OUTPUT_FOLDER = "marigold_output"
FORMATS = ("png", "exr", "tiff", "npy")
COLOUR_FORMATS = ("png", "exr", "npy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    exit_on_sigterm()
    warnings.formatwarning = lambda message, *_, **__: f"marigold: {message}\n"
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, wrong usage: argparse has said it
        return stop.code if isinstance(stop.code, int) else NOTHING_DONE
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("marigold: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `marigold ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if arguments.debug or not is_expected(error):
            raise
        print(f"marigold: {explain(error)}", file=sys.stderr)
        return NOTHING_DONE


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="marigold",
        description="Depth, normals and intrinsic images of one picture, with Marigold's diffusion"
        " models.",
    )
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_depth(commands)
    _add_normals(commands)
    _add_intrinsics(commands)
    _add_mesh(commands)
    _add_points(commands)
    _add_checkpoints(commands)
    return parser


class PrintVersion(argparse.Action):
    """As argparse's own, but looking the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"marigold {__version__}")
        parser.exit()


def _add_depth(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..colormaps import COLORMAPS

    parser = commands.add_parser(
        "depth",
        help="pictures -> depth maps",
        description="Estimate the depth of pictures: NAME_depth.png (16 bit, black = near),"
        " NAME_color.png, NAME_uncertainty.png when --ensemble is above 1, and"
        " NAME_compared.png where the true depth is known.",
    )
    pictures = _add_pictures(parser)
    pictures.add_argument(
        "--truth",
        metavar="FILE",
        help="the true depth (.png .exr .tiff .npy; 0 = unknown), to be compared with; for a"
        " single picture; the example has its own",
    )
    output = _add_output(parser)
    output.add_argument(
        "--format",
        type=_formats,
        default=("png",),
        metavar="LIST",
        dest="formats",
        help="of the depth map, with commas: png (16 bit), exr, tiff (32-bit float), npy"
        " (default: png)",
    )
    output.add_argument(
        "--colormap",
        choices=(*COLORMAPS, "none"),
        default="Spectral",
        help="of the colour picture (default: %(default)s)",
    )
    output.add_argument("--invert", action="store_true", help="white = near, instead of far")
    output.add_argument(
        "--disparity",
        nargs=2,
        type=float,
        metavar=("NEAR", "FAR"),
        help="write inverse depth for these distances of the nearest and farthest point, white ="
        " near, as ControlNet's depth models expect",
    )
    _add_overwrite(output)
    _add_known(parser)
    _add_model(parser)
    parser.set_defaults(run=_depth)


def _add_normals(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..normals import CONVENTIONS

    parser = commands.add_parser(
        "normals",
        help="pictures -> normal maps",
        description="Estimate the normals of surfaces: NAME_normals.png (16 bit), and"
        " NAME_normals_uncertainty.png when --ensemble is above 1. x right, y up, z towards the"
        " viewer. A checkpoint for depth works too: the normals are then those of its depth.",
    )
    _add_pictures(parser)
    output = _add_output(parser)
    output.add_argument(
        "--format",
        type=partial(_formats, known=COLOUR_FORMATS),
        default=("png",),
        metavar="LIST",
        dest="formats",
        help="with commas: png (16 bit), exr, npy (32-bit float vectors) (default: png)",
    )
    output.add_argument(
        "--convention",
        choices=tuple(CONVENTIONS),
        default="opengl",
        help="of the green channel: opengl = up (Blender, Unity), directx = down (Unreal)"
        " (default: %(default)s)",
    )
    _add_overwrite(output)
    depth = parser.add_argument_group("camera (for a checkpoint for depth)")
    depth.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="field of view across the picture's longer side (default: the picture's EXIF, or 50)",
    )
    depth.add_argument("--near", type=float, help="distance of the nearest point (default: 1)")
    depth.add_argument("--far", type=float, help="distance of the farthest point (default: 5)")
    _add_model(parser)
    parser.set_defaults(run=_normals)


def _add_intrinsics(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..intrinsics import SPACES

    parser = commands.add_parser(
        "intrinsics",
        help="pictures -> albedo, roughness, metallicity, or albedo, shading, residual",
        description="Estimate intrinsic images with a checkpoint for them: NAME_albedo.png and so"
        " on, 16 bit, and NAME_albedo_uncertainty.png when --ensemble is above 1.",
    )
    _add_pictures(parser)
    output = _add_output(parser)
    output.add_argument(
        "--format",
        type=partial(_formats, known=COLOUR_FORMATS),
        default=("png",),
        metavar="LIST",
        dest="formats",
        help="with commas: png (16 bit) and npy (32-bit float), a file for each map; exr, one file"
        " with a layer for each map (default: png)",
    )
    output.add_argument(
        "--space",
        choices=SPACES,
        help="of the values in the files (default: srgb for colours in png, else linear)",
    )
    _add_overwrite(output)
    _add_model(parser, None)
    parser.set_defaults(run=_intrinsics)


def _add_mesh(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..geometry.points import MAX_VERTICES

    parser = commands.add_parser(
        "mesh",
        help="picture -> textured 3D mesh",
        description="Turn a picture into a mesh as its camera sees it: .glb, .ply or .obj.",
    )
    _add_picture(parser)
    mesh = parser.add_argument_group("mesh")
    mesh.add_argument(
        "-o", "--output", metavar="FILE", help="(default: ./PICTURE'S NAME.glb)", type=Path
    )
    _add_near_and_far(mesh)
    mesh.add_argument(
        "--tear",
        type=float,
        metavar="RATIO",
        help="leave out faces whose far corner is this many times as far as the near one; inf ="
        " none (default: what turns more than 87 degrees away)",
    )
    mesh.add_argument(
        "--max-vertices",
        type=int,
        default=MAX_VERTICES,
        metavar="N",
        help="thin larger depth maps (default: %(default)d)",
    )
    _add_overwrite(mesh)
    _add_known(parser)
    _add_model(parser)
    parser.set_defaults(run=_mesh)


def _add_points(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "points",
        help="picture -> point cloud",
        description="Turn a picture into a coloured point cloud (.ply) in camera axes: x right, y"
        " down, z forward. In metres where distances are known.",
    )
    _add_picture(parser)
    points = parser.add_argument_group("points")
    points.add_argument(
        "-o", "--output", metavar="FILE", help="(default: ./PICTURE'S NAME.ply)", type=Path
    )
    _add_near_and_far(points)
    _add_overwrite(points)
    _add_known(parser)
    _add_model(parser)
    parser.set_defaults(run=_points)


def _add_picture(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("picture")
    source.add_argument(
        "picture", nargs="?", metavar="PICTURE", help="the picture, and its colours"
    )
    source.add_argument("--example", action="store_true", help="use the bundled example picture")
    source.add_argument(
        "--depth", metavar="FILE", help="use this depth map (.png .exr .tiff .npy), not the model"
    )
    source.add_argument(
        "--invert", action="store_true", help="the file of --depth has white = near"
    )
    source.add_argument("--mask", metavar="FILE", help="white = use this pixel; the rest is cut")


def _add_near_and_far(parser: argparse._ActionsContainer) -> None:
    from ..geometry.points import FAR, NEAR

    parser.add_argument(
        "--near", type=float, help=f"distance of the nearest point (default: {NEAR:g})"
    )
    parser.add_argument(
        "--far", type=float, help=f"distance of the farthest point (default: {FAR:g})"
    )


def _add_known(parser: argparse.ArgumentParser) -> None:
    from ..geometry.points import FOV_DEGREES

    known = parser.add_argument_group("metres (from what is known; see docs/metric.md)")
    known.add_argument(
        "--known",
        metavar="FILE",
        help="known depths: a table x, y, metres (.csv), a sparse depth picture (.png .tiff .exr"
        " .npy; 0 = unknown), a COLMAP model's folder, a point cloud (.ply .las)",
    )
    known.add_argument(
        "--known-scale",
        "--colmap-scale",
        type=float,
        metavar="METRES",
        help="metres per unit of that file (default: 0.001 for integer pictures, 1 for others;"
        " a COLMAP model has none)",
    )
    known.add_argument(
        "--pose", metavar="FILE", help="4 x 4 matrix, point cloud to camera (default: identity)"
    )
    known.add_argument(
        "--length",
        nargs=5,
        type=float,
        action="append",
        metavar=("X1", "Y1", "X2", "Y2", "METRES"),
        help="the distance in space between two pixels; may be repeated",
    )
    known.add_argument(
        "--camera-height",
        type=float,
        metavar="METRES",
        help="above the ground that the lower quarter of the picture shows",
    )
    known.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="the camera's field of view across the picture's longer side (default: from the"
        f" picture's EXIF, else {FOV_DEGREES:g})",
    )
    known.add_argument(
        "--guided",
        action="store_true",
        help="let the points of --known steer the sampling (slower: 50 steps by default, each"
        " several times as long)",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("inputs", nargs="*", metavar="INPUT", help="picture files and folders")
    pictures.add_argument("--example", action="store_true", help="use the bundled example picture")
    pictures.add_argument(
        "--mask", metavar="FILE", help="white = use this pixel; for a single picture"
    )
    pictures.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out pictures whose outputs are all there",
    )
    return pictures


def _add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        default=OUTPUT_FOLDER,
        help="where the files go; folders keep their structure (default: ./%(default)s)",
    )
    return output


def _add_model(parser: argparse.ArgumentParser, checkpoint: str | None = "nano") -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--checkpoint",
        default=checkpoint,
        required=checkpoint is None,
        metavar="NAME",
        help="bundled or published name, folder, or hub id; see `marigold checkpoints list`"
        + (" (default: %(default)s)" if checkpoint else ""),
    )
    model.add_argument(
        "--base", metavar="NAME", help="where a checkpoint of only a U-Net has its other parts"
    )
    model.add_argument("--variant", metavar="NAME", help="weight files to take, such as fp16")
    model.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a hub id or published name"
    )
    model.add_argument(
        "--tiny-vae",
        nargs="?",
        const="tiny",
        metavar="NAME",
        help="a faster, coarser VAE: folder or hub id (without one: madebyollin/taesd)",
    )
    sampling = parser.add_argument_group("sampling (default: the checkpoint's own)")
    sampling.add_argument("--steps", type=_at_least_one, metavar="N", help="denoising steps")
    sampling.add_argument(
        "--ensemble",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="predictions to merge; above 1 there is an uncertainty",
    )
    sampling.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="longer side while processing; 0 = the picture's own",
    )
    sampling.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)d)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    machine.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="precision of the model"
    )
    machine.add_argument(
        "--batch-size",
        type=_at_least_one,
        metavar="N",
        help="predictions at once (default: what fits)",
    )
    _add_debug(machine)


def _add_overwrite(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that this command did not write for the same picture (inputs never)",
    )


def _add_debug(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--debug", action="store_true", help="show the Python traceback of an error"
    )


def _add_checkpoints(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "checkpoints", help="list, download, inspect", description="The models and where they are."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="bundled and published checkpoints")
    listing.set_defaults(action="list")
    download = actions.add_parser("download", help="fetch a published checkpoint into the cache")
    download.add_argument("name", help="published name or hub id")
    download.add_argument("--variant", help="weight files to take, such as fp16 (half the size)")
    download.add_argument("--revision", help="branch, tag or commit of the hub's repository")
    download.set_defaults(action="download")
    inspect = actions.add_parser("inspect", help="what a checkpoint is, from its files' headers")
    inspect.add_argument("name", help="bundled or published name, folder, or hub id")
    inspect.add_argument("--base", help="where a checkpoint of only a U-Net has its other parts")
    inspect.add_argument("--variant", help="weight files to look at, such as fp16")
    inspect.add_argument("--revision", help="branch, tag or commit of the hub's repository")
    inspect.add_argument(
        "--verify",
        action="store_true",
        help="compare every file with SHA256SUMS in the folder, or with the digests of the hub",
    )
    inspect.set_defaults(action="inspect")
    for action in (listing, download, inspect):
        _add_debug(action)
        action.set_defaults(run=_checkpoints)


def _formats(text: str, known: tuple[str, ...] = FORMATS) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(part.strip().lower().lstrip(".") for part in text.split(",")))
    unknown = [name for name in formats if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is not one of {', '.join(known)}; separate several with commas"
        )
    return formats


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


_at_least_one.__name__ = "whole number"  # what argparse calls a wrong value


def _depth(arguments: argparse.Namespace) -> int:
    from .commands import estimate_depth

    return estimate_depth(arguments)


def _normals(arguments: argparse.Namespace) -> int:
    from .surfaces import estimate_normals

    return estimate_normals(arguments)


def _intrinsics(arguments: argparse.Namespace) -> int:
    from .surfaces import estimate_intrinsics

    return estimate_intrinsics(arguments)


def _mesh(arguments: argparse.Namespace) -> int:
    from .shapes import build_mesh

    return build_mesh(arguments)


def _points(arguments: argparse.Namespace) -> int:
    from .shapes import build_points

    return build_points(arguments)


def _checkpoints(arguments: argparse.Namespace) -> int:
    from . import commands

    if arguments.action == "list":
        return commands.list_checkpoints()
    if arguments.action == "download":
        return commands.download_checkpoint(arguments)
    return commands.describe_checkpoint(arguments)
