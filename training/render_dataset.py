"""Render RGB-D training samples with Cycles, from procedural worlds or from your own scenes.

    pip install "bpy==4.5.*" "numpy<2"                                   # Python 3.11
    python training/render_dataset.py runs/worlds --count 2000 --processes 2
    python training/render_dataset.py runs/film --scenes shot1.blend shot2.blend --count 500
    python training/fetch_assets.py runs/assets
    python training/render_dataset.py runs/rooms --count 2000 --worlds furnished desk \\
        --environments runs/assets/environments --textures runs/assets/textures \\
        --models runs/assets/models --focal-length 22 40

or by an installed Blender, of the scene that it opened:

    blender -b shot1.blend -P training/render_dataset.py -- runs/shot1 --count 100

Stop it at any time, by Ctrl-C or worse: the same command resumes where it stopped. Sample i is a
function of the settings and i alone, however many processes there are. Depth is planar metres at
the pixels' centres, of the first surface also where that is glass or a mirror; the sky has none.
What a texture makes less than half opaque, such as the gaps between painted leaves, is no surface.
Normals are written too, and with --passes intrinsic images: see docs/training.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORLDS = ("room", "corridor", "street", "terrain", "table_top", "people")
# These are furnished with --models.
FURNISHED = ("furnished", "desk")
SETTINGS = "settings.json"
# Blender's add-on renders from a copy of the scene, which it keeps there meanwhile.
COPY = "scene"


def blender_program() -> str:
    """The Blender that runs this script; "" in a plain Python."""
    bpy = sys.modules.get("bpy")
    return bpy.app.binary_path if bpy else ""


def load_siblings() -> None:
    """Blender's -P, unlike python, does not look beside a script for its modules."""
    folder = HERE / "render"
    spec = importlib.util.spec_from_file_location(
        "render", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    sys.modules["render"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["render"])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="render_dataset.py", description="Render RGB-D training samples with Blender's Cycles."
    )
    add = parser.add_argument
    add("output", type=Path, help="folder of the data set; an unfinished one is continued")
    add("--count", type=int, default=100, help="samples in the finished data set")
    add("--seed", type=int, default=0)
    what = parser.add_argument_group("what is rendered")
    add = what.add_argument
    add("--scenes", nargs="+", type=Path, metavar="BLEND", help="your own scenes")
    add("--worlds", nargs="+", choices=[*WORLDS, *FURNISHED], default=list(WORLDS),
        help="procedural worlds")  # fmt: skip
    add("--environments", type=Path, metavar="FOLDER", help="of .exr or .hdr maps to light with")
    add("--textures", type=Path, metavar="FOLDER", help="of pictures to cover surfaces with")
    add("--models", type=Path, metavar="FOLDER",
        help="of OBJ, glTF or PLY files: furniture, or put into your own scenes")  # fmt: skip
    add("--views-per-scene", type=int, default=16, help="samples in a row from one file")
    add("--random-frames", action="store_true", help="any frame of a scene's animation")
    add("--light-jitter", type=float, default=0.5, help="stops, for lights of --scenes")
    camera = parser.add_argument_group("camera and picture")
    add = camera.add_argument
    add("--size", type=int, default=256, help="longer side in pixels")
    add("--aspects", nargs="+", default=["4:3", "3:2", "16:9", "1:1", "3:4", "2:3"])
    add("--focal-length", nargs=2, type=float, default=(16, 55), metavar=("MIN", "MAX"),
        help="mm, across the longer side of 36 mm")  # fmt: skip
    add("--exposure-jitter", type=float, default=0.4, help="stops around the metered exposure")
    add("--samples", type=int, default=4, help="light paths a pixel")
    add("--bounces", type=int, default=2)
    add("--passes", action="store_true",
        help="write intrinsic images too: albedo, shading, residual, base colour, roughness, "
             "metallicity")  # fmt: skip
    machine = parser.add_argument_group("machine")
    add = machine.add_argument
    add("--processes", type=int, default=1)
    add("--threads", type=int, default=0, help="a process; 0: all cores shared out")
    add("--time-limit", type=float, default=600, help="seconds a sample, then it is given up")
    args = parser.parse_args(arguments)
    args.aspects = [ratio(parser, text) for text in args.aspects]
    if min(args.count, args.samples, args.processes, args.views_per_scene) < 1 or args.size < 16:
        parser.error("counts must be at least 1 and --size at least 16")
    catalogue = args.models / "models.json" if args.models else None
    if set(args.worlds) & set(FURNISHED) and not (catalogue and catalogue.is_file()):
        parser.error(f"--worlds {' and '.join(FURNISHED)} want --models with a models.json, as "
                     "training/fetch_assets.py makes it")  # fmt: skip
    if not 1 <= args.focal_length[0] <= args.focal_length[1]:
        parser.error("--focal-length wants the shorter one first, in mm, at least 1")
    return args


def ratio(parser: argparse.ArgumentParser, text: str) -> float:
    try:
        width, height = (float(part) for part in text.split(":"))
        if not 0.1 <= width / height <= 10:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        parser.error(f"--aspects: {text} is not a ratio like 4:3 between 1:10 and 10:1")
    return width / height


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides how a sample looks (the fields of `blender_settings.Settings`)."""
    scenes = [str(path.resolve()) for path in args.scenes or ()]
    opened = sys.modules["bpy"].data.filepath if blender_program() else ""
    if opened and not scenes:
        scenes = [opened]
    missing = [path for path in scenes if not Path(path).is_file()]
    if missing:
        sys.exit(f"There is no scene {missing[0]}; check the path after --scenes.")
    folders = {
        name: str(folder.resolve())
        for name in ("environments", "textures", "models")
        if (folder := getattr(args, name))
    }
    for name, folder in folders.items():
        if not Path(folder).is_dir():
            sys.exit(f"There is no folder {folder}; check the path after --{name}.")
    return {
        "seed": args.seed,
        "scenes": scenes,
        "worlds": [] if scenes else args.worlds,
        "views_per_scene": args.views_per_scene,
        "focal": list(args.focal_length),
        "aspects": args.aspects,
        "size": args.size,
        "samples": args.samples,
        "bounces": args.bounces,
        "light_stops": args.light_jitter,
        "exposure_stops": args.exposure_jitter,
        "random_frames": args.random_frames,
        **folders,
        # A folder from before there were any can be continued.
        **({"passes": True} if args.passes else {}),
    }


def open_folder(folder: Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What is there already, after the traces of a kill are swept up."""
    from render.exr_png import write_whole
    from render.sample_folder import KINDS, read_manifest, write_manifest

    file = folder / SETTINGS
    if file.exists() and json.loads(file.read_text()) != settings:
        sys.exit(f"{folder} was begun with other settings ({file}); choose another folder.")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not file.exists() and there - {COPY}:
        sys.exit(f"{folder} has other files in it; choose an empty folder.")
    for kind in KINDS:
        for torn in (folder / kind).glob(".*"):
            torn.unlink(missing_ok=True)
    write_whole(file, json.dumps(settings, indent=1).encode())
    done = read_manifest(folder)
    write_manifest(folder, done.values())
    return done


def worker_command(job: dict[str, Any]) -> list[str]:
    program, tail = blender_program(), ["--worker", json.dumps(job)]
    if program:
        return [program, "-b", "--factory-startup", "--python-exit-code", "1",
                "-P", __file__, "--", *tail]  # fmt: skip
    return [sys.executable, __file__, *tail]


def run(args: argparse.Namespace) -> int:
    from render.blender_settings import Settings
    from render.render_pool import Progress, render_all
    from render.sample_folder import read_manifest, write_contact_sheet, write_manifest

    if not blender_program() and importlib.util.find_spec("bpy") is None:
        sys.exit('Blender is missing: pip install "bpy==4.5.*" "numpy<2" into Python 3.11, or run '
                 "blender -b -P training/render_dataset.py -- ...")  # fmt: skip
    values = settings_of(args)
    settings, folder = Settings(**values), args.output.resolve()
    done = open_folder(folder, values)
    todo = [index for index in range(args.count) if index not in done]
    if done:
        print(f"{args.count - len(todo)} of {args.count} samples are there already.")
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.processes)
    command = worker_command({"settings": values, "threads": threads, "folder": str(folder)})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    errors: dict[str, list[str]] = {}
    try:
        errors = render_all(
            folder, todo, settings.scene_of, command, args.processes, args.time_limit,
            Progress(args.count - len(todo), args.count),
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nStopped; {len(read_manifest(folder))} samples are complete. "
              "The same command resumes.")  # fmt: skip
        return 130
    except OSError as error:
        print(f"\n{folder} cannot be written to ({error.strerror}); make room there. The same "
              "command resumes.", file=sys.stderr)  # fmt: skip
        return 1
    for scene, whys in errors.items():
        name = scene or "procedural worlds"
        print(f"{name}: {len(whys)} failed, the first: {whys[0]}", file=sys.stderr)
    lines = read_manifest(folder)
    write_manifest(folder, lines.values())
    shown = write_contact_sheet(folder, folder / "contact_sheet.png")
    if shown:
        print(f"{len(lines)} samples in {folder}; {shown} of them on contact_sheet.png")
    return 0 if shown else 1


def main() -> int:
    arguments = sys.argv[1:]
    if blender_program():
        arguments = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
        load_siblings()
    if arguments[:1] == ["--worker"]:
        from render.blender_worker import work

        work(json.loads(arguments[1]))
        return 0
    return run(parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
