"""What the command line prints: results on stdout, errors on stderr, one line each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MarigoldError, is_out_of_memory, printable

if TYPE_CHECKING:
    from ..progress import Progress

FAILED, NOTHING_DONE, INTERRUPTED = 1, 2, 130


def is_expected(error: BaseException) -> bool:
    """Whether the line of `explain` is all that a user needs; if not, the error is a bug."""
    return isinstance(error, (MarigoldError, OSError)) or is_out_of_memory(error)


def explain(error: BaseException) -> str:
    """One line for the user."""
    if is_out_of_memory(error):
        return "Out of memory; try --batch-size 1, a smaller --resolution, or --dtype float16."
    if isinstance(error, OSError) and error.strerror:
        return printable(
            f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        )
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if is_expected(error) else f"{type(error).__name__}: {text} (--debug shows where)"


def complain(source: Path, error: BaseException) -> None:
    """Report a picture that failed; progress bars stay whole."""
    line = explain(error)
    where = "" if printable(source.name) in line else f"{printable(source)}: "
    say(f"marigold: {where}{line}", error=True)


def say(line: str, *, error: bool = False) -> None:
    """Print a line above the progress bars, if there are any."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.write(line, file=sys.stderr if error else sys.stdout)


@contextmanager
def steps(name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar of the run's steps; what it yields is the run's callback."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(desc=name, unit="step", leave=False, disable=None) as bar:

        def step_done(progress: Progress) -> None:
            bar.total = progress.total
            bar.update(progress.step - bar.n)

        yield step_done


def stages(seconds: dict[str, float]) -> str:
    """{"read": 0.1, "save": 0.2} -> "0.30 s (read 0.10, save 0.20)"."""
    listed = ", ".join(f"{stage} {duration:.2f}" for stage, duration in seconds.items())
    return f"{sum(seconds.values()):.2f} s ({listed})"


def count(pictures: int) -> str:
    return "1 picture" if pictures == 1 else f"{pictures} pictures"


def readable_size(size_bytes: int) -> str:
    unit, name = (1e9, "GB") if size_bytes >= 1e9 else (1e6, "MB")
    return f"{size_bytes / unit:.1f} {name}"
