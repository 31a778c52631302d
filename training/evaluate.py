"""How good a checkpoint is, by the published protocol of its target, beside trivial maps.

    python training/evaluate.py nano                        # procedural scenes it never saw
    python training/evaluate.py nano --rgbd path/to/pictures        # and photographed frames
    python training/evaluate.py prs-eth/marigold-depth-v1-1 --settings 1x10 \\
        --data nyuv2:DATA/nyuv2 kitti:DATA/kitti eth3d:DATA/eth3d scannet:DATA/scannet \\
        diode:DATA/diode
    python training/evaluate.py nano --sweep members --values 1 2 5 10 20 --seeds 1 2 3
    python training/evaluate.py runs/gaussian runs/annealed --sweep checkpoint
    python training/evaluate.py prs-eth/marigold-normals-v1-1 nano --settings 4x10 \\
        --data nyuv2:DATA/nyuv2 ibims:DATA/ibims        # and the normals of nano's depth
    python training/evaluate.py runs/appearance --data folder:runs/heldback
    accelerate launch --num_processes 4 training/evaluate.py ...

The trivial maps of depth take the same fit: the single best constant, and a vertical ramp (depth
grows towards the top of the picture). Those of normals face the viewer, and of intrinsic images the
albedo is the picture itself. A checkpoint is of use where it beats them.

Predictions are kept under --output: the same command continues a run that was stopped. See
docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data.benchmark_sets import PROTOCOLS
from data.normal_sets import NORMALS_PROTOCOLS
from metrics import FITS
from predictions import METHODS, NOISES, REDUCTIONS, Predictor, Setting
from report import Evaluation, markdown, write_json, write_plot
from scoring import (
    CEILING,
    SPLITS,
    Case,
    Processes,
    open_set,
    results_of,
    score_set,
    started_processes,
    trivial_cases,
)
from targets import TARGETS, target_of_base

from marigold_core import Marigold, MarigoldError
from marigold_core.diffusion import SPACINGS
from marigold_core.files import atomic_path, exit_on_sigterm

# What each sweep goes through unless --values says otherwise.
SWEEPS = {
    "members": ["1", "2", "5", "10", "20"],
    "steps": ["1", "2", "4", "10", "25", "50"],
    "noise": list(NOISES),
    "alignment": [f"{method}/{reduction}" for method in METHODS for reduction in REDUCTIONS],
    "fit": ["least_squares", "median", "disparity", "scale"],
    "checkpoint": [],
}


def planned_cases(args: argparse.Namespace) -> list[Case]:
    """The rows asked for: the settings, or the first of them with one thing varied."""

    def case(setting: Setting, method: str, fit: str = args.fit) -> Case:
        seeds = tuple(setting._replace(seed=seed) for seed in args.seeds)
        return Case(method, seeds, fit)

    bases = [Setting.parse(text) for text in args.settings]
    bases = [base._replace(noise=args.noise, spacing=args.timestep_spacing) for base in bases]
    base = bases[0]
    if args.sweep in (None, "checkpoint"):
        return [case(setting, str(setting)) for setting in bases]
    if args.sweep == "fit":
        return [case(base, f"{base}, fit {fit}", fit) for fit in args.values]
    varied = []
    for value in args.values:
        if args.sweep in ("members", "steps"):
            if not (value.isdecimal() and int(value)):
                raise MarigoldError(f"--sweep {args.sweep} goes through numbers, not {value!r}.")
            number = int(value)
            setting = base._replace(members=number)
            if args.sweep == "steps":
                setting = base._replace(steps=number)
        elif args.sweep == "noise":
            setting = base._replace(noise=value)
        else:
            method, _, reduction = value.partition("/")
            setting = base._replace(method=method, reduction=reduction or "median")
        varied.append(case(setting, f"{args.sweep} {value} ({setting})"))
    return varied


def evaluate(args: argparse.Namespace, processes: Processes) -> list[Evaluation]:
    if args.target is None:
        args.target = target_of_base(args.checkpoints[0])
    target = args.target
    if args.target != "depth" and args.sweep in ("alignment", "fit"):
        raise MarigoldError(f"--sweep {args.sweep} is of depth, not of {args.target}.")
    if args.target != "depth" and (args.farthest is not None or args.fit != "least_squares"):
        raise MarigoldError(f"--farthest and --fit are of depth; leave them out for {args.target}.")
    cases = planned_cases(args)
    more = {"fov_degrees": args.fov_degrees, "material_power": args.material_power}
    sets = []
    for spec in args.data:
        dataset, rules = open_set(spec, target, args.split, args.farthest)
        sets.append((spec, dataset, rules._replace(**more)))
    evaluations = {
        spec: Evaluation(spec, target, spec.partition(":")[0], rules.title, rules.expected, [], {})
        for spec, _, rules in sets
    }
    for number, checkpoint in enumerate(args.checkpoints):
        marigold = Marigold.from_pretrained(
            checkpoint, device=args.device or processes.device, dtype=args.dtype
        )
        check_target(marigold, target, checkpoint)
        # A checkpoint for depth stands beside those for normals, by the normals of its depth.
        of_depth = target == "normals" and marigold.target.name == "depth"
        mine = [case._replace(method=f"normals of its depth, {case.method}") for case in cases]
        mine = mine if of_depth else cases
        for spec, dataset, rules in sets:
            resolution = rules.resolution
            if args.processing_resolution is not None:
                resolution = args.processing_resolution
            predictor = Predictor(marigold, args.output / "predictions", resolution)
            rivals = trivial_cases(dataset, target) if number == 0 else []
            wanted = [*rivals, *[CEILING] * args.ceiling, *mine]
            rows = score_set(dataset, predictor, target, wanted, rules, processes)
            found = evaluations[spec]
            found.results.extend(results_of(rows, wanted, checkpoint))
            found.failed.update({row.name: row.error for row in rows if row.error})
    return list(evaluations.values())


def check_target(marigold: Marigold, target: str, name: str) -> None:
    """Raise MarigoldError unless the checkpoint can be measured as that target."""
    maps = TARGETS[target].engine().maps
    if not maps:
        return marigold.expect(*(("normals", "depth") if target == "normals" else (target,)))
    marigold.expect("intrinsics")
    found = [one.name for one in marigold.target.maps]
    wanted = [one.name for one in maps]
    if found != wanted:
        raise MarigoldError(
            f"{name} estimates {', '.join(found)}; {target} is {', '.join(wanted)}."
        )


def write_results(evaluations: list[Evaluation], args: argparse.Namespace) -> None:
    text = "\n".join(markdown(evaluation, args.per_frame) for evaluation in evaluations)
    print(text, end="")
    name = f"sweep-{args.sweep}" if args.sweep else "results"
    with atomic_path(args.output / f"{name}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    command = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()
    }
    write_json(evaluations, command, args.output / f"{name}.json")
    if args.sweep:
        by_checkpoint = args.sweep == "checkpoint"
        values = [Path(c).name for c in args.checkpoints] if by_checkpoint else args.values
        try:
            write_plot(evaluations, args.sweep, values, len(values), args.output / f"{name}.png")
        except MarigoldError as error:
            print(error, file=sys.stderr)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", help="bundled names, folders or hub ids")
    parser.add_argument(
        "--target", choices=list(TARGETS), help="what is measured; default: the first checkpoint's"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="SET",
        help=f"{', '.join(f'{kind}:PATH' for kind in (*PROTOCOLS, *SPLITS))}; of normals also "
        f"{', '.join(f'{kind}:PATH' for kind in NORMALS_PROTOCOLS)}",
    )
    data.add_argument("--scenes", type=int, help="held-out procedural scenes (400 without --data)")
    data.add_argument("--rgbd", type=Path, help="a folder of pictures with depth: folder:RGBD")
    data.add_argument("--split", help="of procedural, folder, hypersim or vkitti; not train")
    data.add_argument(
        "--farthest", type=float, help="metres that count, of data without a published protocol"
    )
    how = parser.add_argument_group("settings")
    how.add_argument(
        "--settings",
        nargs="+",
        default=["1x1", "4x1", "1x10", "4x10"],
        help="steps x ensemble members",
    )
    how.add_argument(
        "--processing-resolution",
        type=int,
        help="of the longer side, 0 the picture's own (the protocol's, or the checkpoint's)",
    )
    how.add_argument("--fit", choices=FITS, default="least_squares", help="to the true depth")
    how.add_argument(
        "--fov-degrees", type=float, help="across the longer side, of normals from depth"
    )
    how.add_argument(
        "--material-power",
        type=float,
        default=1.0,
        help="of predicted roughness and metallicity; 2.2 for marigold-iid-appearance-v1-1, which "
        "was trained on their power 1 / 2.2",
    )
    how.add_argument("--noise", choices=NOISES, default="gaussian", help="to start from")
    how.add_argument(
        "--timestep-spacing",
        choices=SPACINGS,
        default="trailing",
        help="leading: as Marigold v1-0's published figures",
    )
    how.add_argument("--seed", "--seeds", dest="seeds", type=int, nargs="+", default=[1234])
    how.add_argument("--sweep", choices=SWEEPS, help="vary this in the first of the settings")
    how.add_argument("--values", nargs="+", help="what the sweep goes through")
    run = parser.add_argument_group("run")
    run.add_argument(
        "--output",
        type=Path,
        default=Path("runs/evaluation"),
        help="predictions, tables, JSON, plot",
    )
    run.add_argument(
        "--ceiling",
        action="store_true",
        help="a row for the true depth through the checkpoint's VAE: what no U-Net can exceed",
    )
    run.add_argument("--per-frame", action="store_true", help="a row for each picture")
    run.add_argument("--device")
    run.add_argument("--dtype", default="float32", help="the protocol's is float32")
    args = parser.parse_args(argv)
    if args.scenes is None and not args.data:
        args.scenes = 400
    if args.scenes:
        args.data = [*args.data, f"procedural:{args.scenes}"]
    if args.rgbd:
        args.data = [*args.data, f"folder:{args.rgbd}"]
    if args.sweep and args.ceiling:
        parser.error("--ceiling is for the table of settings, not for a sweep")
    if args.sweep == "checkpoint":
        args.settings = args.settings[:1]
    args.values = args.values or SWEEPS.get(args.sweep)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    try:
        processes = started_processes()
        evaluations = evaluate(args, processes)
        if processes.rank == 0:
            write_results(evaluations, args)
    except (MarigoldError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command continues from here.")
    processes.finish()
    if any(not evaluation.measured for evaluation in evaluations):
        sys.exit("evaluate.py: a data set has no picture that could be measured.")


if __name__ == "__main__":
    exit_on_sigterm()
    main()
