"""Many pictures in one run: which files are meant, what their outputs are called, and the loop."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from ..errors import MarigoldError, printable
from ..images import PICTURE_SUFFIXES
from ..progress import timed
from .outputs import Outputs
from .reporting import FAILED, NOTHING_DONE, complain, count, say, stages

# What the commands append to a picture's name; a later run over the same folder skips them.
OUTPUT_ENDINGS = (
    "_depth", "_color", "_uncertainty", "_compared", "_normals", "_intrinsics",
    "_albedo", "_roughness", "_metallicity", "_shading", "_residual",
)  # fmt: skip


@dataclass(frozen=True)
class BatchItem:
    """One picture and the path, without ending, that its outputs start with."""

    source: Path
    target: Path


def plan(
    inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> list[BatchItem]:
    """Files and folders -> the pictures to process, each with a target of its own under `output`.

    A file goes to OUTPUT/STEM, a folder's files keep their folders below OUTPUT. Targets that
    would be the same keep their folders too, and then their suffix as well. A file that is named
    is taken whatever it is called; from a folder come the files with a picture's suffix, except
    hidden ones, those under `output`, and earlier outputs beside their picture. A picture that is
    named twice is taken once.

    Raises MarigoldError where an input is missing, or a folder has no pictures.
    """
    output = Path(output)
    names: dict[Path, Path] = {}
    if not all(map(os.fspath, inputs)):
        raise MarigoldError("The name of a picture is empty; name a file or a folder.")
    for given in map(Path, inputs):
        if given.is_dir():
            found = list(_pictures(given, output))
            if not found:
                raise MarigoldError(f"There are no pictures in the folder {given}.")
            for file in found:
                names.setdefault(file, file.relative_to(given).with_suffix(""))
        elif given.exists():
            names.setdefault(given, Path(given.stem))
        else:
            raise MarigoldError(f"There is no file or folder {given}.")
    by_file: dict[str, Path] = {}
    for file in names:
        by_file.setdefault(os.path.abspath(file), file)
    names = {file: names[file] for file in by_file.values()}

    for rename in (_with_folders, _with_suffix):
        shared = _shared(names)
        names |= rename(shared)
    # A folder that holds a.jpg and A.jpg tells those apart, so the output may, too.
    clash = _shared(names, ignore_case=False)
    if clash:
        first, second, *_ = clash
        raise MarigoldError(
            f"{first} and {second} would have the same output files; run them one at a time, each"
            " with its own output folder."
        )
    return [BatchItem(file, output / name) for file, name in names.items()]


# Writes the outputs; returns each file with a note to print behind it.
Save = Callable[[], dict[Path, str]]


def run(
    items: Sequence[BatchItem],
    arguments: argparse.Namespace,
    outputs: Outputs,
    *,
    files: Callable[[BatchItem], Iterable[Path]],
    load: Callable[[], Any],
    read: Callable[[BatchItem], Any],
    estimate: Callable[[Any, BatchItem, Any, dict[str, float]], Save],
) -> int:
    """Process pictures; the exit status. One that fails is reported, and the others continue.

    Of several processes (see `share`) each does its own pictures of `items`.
    files: what a picture's run may write, all of which `outputs` must allow; with --skip-existing,
    pictures that have all of them are left out. load: the engine, called once and only if a picture
    is left; its dtype is recorded. read: what `estimate` gets of a picture, beside the engine, the
    item, and the seconds of each stage, to add to. See `overlapped` for their threads.
    """

    items = share(items)

    def is_done(item: BatchItem) -> bool:
        return all(outputs.is_whole(file, item.source) for file in files(item))

    waiting = [item for item in items if not (arguments.skip_existing and is_done(item))]
    for item in waiting:
        outputs.check(files(item), item.source)
    skipped, failed = len(items) - len(waiting), 0
    if skipped:
        say(f"{count(skipped)} skipped: the outputs are there.")
    if not waiting:
        return 0
    engine = load()
    dtype = str(engine.dtype).removeprefix("torch.")

    def timed_read(item: BatchItem) -> tuple[Any, dict[str, float]]:
        seconds: dict[str, float] = {}
        with timed(seconds, "read"):
            return read(item), seconds

    def timed_estimate(
        item: BatchItem, was_read: tuple[Any, dict[str, float]]
    ) -> Callable[[], None]:
        picture, seconds = was_read
        return partial(finish, item, estimate(engine, item, picture, seconds), seconds)

    def finish(item: BatchItem, save: Save, seconds: dict[str, float]) -> None:
        with timed(seconds, "save"):
            written = save()
        outputs.note(written, item.source, dtype=dtype)
        listed = "".join(f"\n  {printable(file)}{note}" for file, note in written.items())
        say(f"{printable(item.source)}: {stages(seconds)}{listed}")

    several = len(waiting) > 1
    done = overlapped(waiting, timed_read, timed_estimate)
    # disable=None: bars belong on a terminal, not in a log.
    with tqdm(
        done, total=len(waiting), unit="picture", leave=False, disable=None if several else True
    ) as bar:
        for item, work in bar:
            try:
                work.result()
            except Exception as error:
                if arguments.debug:
                    raise
                failed += 1
                complain(item.source, error)
    if several:
        say(f"{count(len(waiting) - failed)} done, {failed} failed.")
    if failed == len(items):
        return NOTHING_DONE
    return FAILED if failed else 0


def overlapped(
    items: Sequence[BatchItem],
    read: Callable[[BatchItem], Any],
    estimate: Callable[[BatchItem, Any], Callable[[], None]],
) -> Iterator[tuple[BatchItem, Future[None]]]:
    """Do read(item), then estimate(item, ...), then what that returned, for each item; yield each
    in order with its end, to wait for, which raises what any of the three raised.

    While one is estimated, in the caller's thread, the next is read and the last is finished, each
    in a thread of its own. So the device does not wait for the disk, and three pictures are held at
    most, however many there are. When the caller is interrupted, a file being written is completed.
    """
    last: tuple[BatchItem, Future[None]] | None = None
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        following: Future[Any] | None = reader.submit(read, items[0])
        for item, after in zip_longest(items, items[1:]):
            assert following is not None
            reading = following
            following = reader.submit(read, after) if after else None
            try:
                finish = estimate(item, reading.result())
            except Exception as error:
                finish = partial(_fail, error)
            if last is not None:
                yield last
            last = item, writer.submit(finish)
            del reading, finish  # they hold the picture
        if last is not None:
            yield last


def _fail(error: Exception) -> None:
    raise error


def share(items: Sequence[BatchItem]) -> Sequence[BatchItem]:
    """The pictures of this process, where `accelerate launch` or torchrun started several.

    Every n-th, whatever is done already: processes that looked for what is left, each at its own
    time, would overlap or leave pictures out. Raises MarigoldError for a rank that cannot be.
    """
    stated = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, processes = map(int, stated)
    except ValueError:
        rank, processes = -1, 0
    if not 0 <= rank < processes:
        raise MarigoldError(
            f"RANK is {stated[0]!r} and WORLD_SIZE {stated[1]!r} in the environment; start several"
            " processes with accelerate launch or torchrun, or unset both."
        )
    return items[rank::processes]


def _pictures(folder: Path, output: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _same(here / name, output)
        )
        pictures = [
            here / name
            for name in sorted(files)
            if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")
        ]
        stems = {file.stem for file in pictures}
        yield from (file for file in pictures if not _is_output(file.stem, stems))


def _same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _is_output(stem: str, stems: set[str]) -> bool:
    return any(
        stem.endswith(ending) and stem.removesuffix(ending) in stems for ending in OUTPUT_ENDINGS
    )


def _shared(names: dict[Path, Path], ignore_case: bool = True) -> list[Path]:
    """The files whose name is another one's, too; many file systems ignore case."""
    keys = {
        file: str(name).casefold() if ignore_case else str(name) for file, name in names.items()
    }
    counts = Counter(keys.values())
    return [file for file, key in keys.items() if counts[key] > 1]


def _with_folders(files: list[Path]) -> dict[Path, Path]:
    if not files:
        return {}
    absolute = {file: Path(os.path.abspath(file)) for file in files}
    try:
        root = os.path.commonpath([file.parent for file in absolute.values()])
    except ValueError:  # on different drives
        return {}
    return {file: path.relative_to(root).with_suffix("") for file, path in absolute.items()}


def _with_suffix(files: list[Path]) -> dict[Path, Path]:
    """a.jpg and a.png -> a_jpg and a_png, in the folders that `_with_folders` found."""
    folders = _with_folders(files)
    return {
        file: name.with_name(f"{file.stem}_{file.suffix.removeprefix('.')}")
        for file, name in folders.items()
    }
