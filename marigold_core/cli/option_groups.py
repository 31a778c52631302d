"""Options that several commands share, as groups of argparse."""

from __future__ import annotations

import argparse

OUTPUT_FOLDER = "marigold_output"
FORMATS = ("png", "exr", "tiff", "npy")
COLOUR_FORMATS = ("png", "exr", "npy")


def add_picture(parser: argparse.ArgumentParser) -> None:
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


def add_near_and_far(parser: argparse._ActionsContainer) -> None:
    from ..geometry.points import FAR, NEAR

    parser.add_argument(
        "--near", type=float, help=f"distance of the nearest point (default: {NEAR:g})"
    )
    parser.add_argument(
        "--far", type=float, help=f"distance of the farthest point (default: {FAR:g})"
    )


def add_known(parser: argparse.ArgumentParser) -> None:
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


def add_pictures(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
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


def add_output(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        default=OUTPUT_FOLDER,
        help="where the files go; folders keep their structure (default: ./%(default)s)",
    )
    return output


def add_model(parser: argparse.ArgumentParser, checkpoint: str | None = "nano") -> None:
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
    sampling.add_argument("--steps", type=at_least_one, metavar="N", help="denoising steps")
    sampling.add_argument(
        "--ensemble",
        type=at_least_one,
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
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision of the model (default: the fastest that is safe; float32 for the same"
        " result on every CPU)",
    )
    machine.add_argument(
        "--batch-size",
        type=at_least_one,
        metavar="N",
        help="predictions at once (default: what fits)",
    )
    machine.add_argument(
        "--low-memory",
        action="store_true",
        help="for a GPU of 3 GB: the U-Net is there only while it denoises",
    )
    add_debug(machine)


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that this command did not write for the same picture (inputs never)",
    )


def add_debug(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--debug", action="store_true", help="show the Python traceback of an error"
    )


def formats(text: str, known: tuple[str, ...] = FORMATS) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(part.strip().lower().lstrip(".") for part in text.split(",")))
    unknown = [name for name in formats if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is not one of {', '.join(known)}; separate several with commas"
        )
    return formats


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


at_least_one.__name__ = "whole number"  # what argparse calls a wrong value
