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

from ..files import LARGE_PAGES, exit_on_sigterm
from .option_groups import (
    COLOUR_FORMATS,
    add_debug,
    add_known,
    add_model,
    add_near_and_far,
    add_output,
    add_overwrite,
    add_picture,
    add_pictures,
    formats,
)
from .reporting import FAILED, INTERRUPTED, NOTHING_DONE, explain, is_expected


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    exit_on_sigterm()
    os.environ.setdefault(*LARGE_PAGES)
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
    pictures = add_pictures(parser)
    pictures.add_argument(
        "--truth",
        metavar="FILE",
        help="the true depth (.png .exr .tiff .npy; 0 = unknown), to be compared with; for a"
        " single picture; the example has its own",
    )
    output = add_output(parser)
    output.add_argument(
        "--format",
        type=formats,
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
    add_overwrite(output)
    add_known(parser)
    add_model(parser)
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
    add_pictures(parser)
    output = add_output(parser)
    output.add_argument(
        "--format",
        type=partial(formats, known=COLOUR_FORMATS),
        default=("png",),
        metavar="LIST",
        dest="formats",
        help="with commas: png (16 bit), exr, npy (32-bit float vectors) (default: png)",
    )
    output.add_argument(
        "--convention",
        choices=tuple(CONVENTIONS),
        default="opengl",
        help="of the colours: opengl = red right, green up (Blender, Unity); directx = green down"
        " (Unreal); controlnet = red left (default: %(default)s)",
    )
    add_overwrite(output)
    depth = parser.add_argument_group("camera (for a checkpoint for depth)")
    depth.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="field of view across the picture's longer side (default: the picture's EXIF, or 50)",
    )
    depth.add_argument("--near", type=float, help="distance of the nearest point (default: 1)")
    depth.add_argument("--far", type=float, help="distance of the farthest point (default: 5)")
    add_model(parser)
    parser.set_defaults(run=_normals)


def _add_intrinsics(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..intrinsics import SPACES

    parser = commands.add_parser(
        "intrinsics",
        help="pictures -> albedo, roughness, metallicity, or albedo, shading, residual",
        description="Estimate intrinsic images with a checkpoint for them: NAME_albedo.png and so"
        " on, 16 bit, and NAME_albedo_uncertainty.png when --ensemble is above 1.",
    )
    add_pictures(parser)
    output = add_output(parser)
    output.add_argument(
        "--format",
        type=partial(formats, known=COLOUR_FORMATS),
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
    add_overwrite(output)
    add_model(parser, None)
    parser.set_defaults(run=_intrinsics)


def _add_mesh(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ..geometry.points import MAX_VERTICES

    parser = commands.add_parser(
        "mesh",
        help="picture -> textured 3D mesh",
        description="Turn a picture into a mesh as its camera sees it: .glb, .ply or .obj.",
    )
    add_picture(parser)
    mesh = parser.add_argument_group("mesh")
    mesh.add_argument(
        "-o", "--output", metavar="FILE", help="(default: ./PICTURE'S NAME.glb)", type=Path
    )
    add_near_and_far(mesh)
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
    mesh.add_argument(
        "--panorama",
        action="store_true",
        help="the picture is an equirectangular panorama: a mesh around its centre (not with --fill"
        " or metres)",
    )
    mesh.add_argument(
        "--fill",
        action="store_true",
        help="sharpen depth edges, and continue the background behind each tear in depth and"
        " colour: no hole from the picture's camera",
    )
    add_overwrite(mesh)
    add_known(parser)
    add_model(parser)
    parser.set_defaults(run=_mesh)


def _add_points(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "points",
        help="picture -> point cloud",
        description="Turn a picture into a coloured point cloud (.ply) in camera axes: x right, y"
        " down, z forward. In metres where distances are known.",
    )
    add_picture(parser)
    points = parser.add_argument_group("points")
    points.add_argument(
        "-o", "--output", metavar="FILE", help="(default: ./PICTURE'S NAME.ply)", type=Path
    )
    add_near_and_far(points)
    add_overwrite(points)
    add_known(parser)
    add_model(parser)
    parser.set_defaults(run=_points)


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
        add_debug(action)
        action.set_defaults(run=_checkpoints)


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
