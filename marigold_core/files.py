"""Files on disk: written so that they survive a crash and a power cut, read only if regular.

Everything that this project writes goes through `atomic_path` or `copy_file`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import MarigoldError

try:
    import fcntl
except ImportError:  # Windows has no locks on folders; there a leftover is known by its age
    fcntl = None  # type: ignore[assignment]

_LEFTOVER = re.compile(r"\..*\.\w{8}\.marigold-part", re.DOTALL)
_LEFTOVER_SECONDS = 24 * 3600
_tidied: set[Path] = set()  # folders in which this process has looked for leftovers


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; on success that file becomes `path`, flushed to the disk first.

    A crash, a kill, a full disk or a power cut leaves the old file or the whole new one, never a
    part. The temporary file has the name of `path`, in a hidden folder beside it that a killed run
    leaves behind and the next run removes. Missing folders are created. Raises MarigoldError where
    `path` is a folder, a pipe or a device, and OSError as the file system does.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise MarigoldError(
            f"{target} is not a regular file, so it is not replaced; choose another."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    folder, lock = _locked_folder(target)
    try:
        temporary = folder / target.name
        yield temporary
        # Names may reach the disk before data does: XFS then has an empty file after a power cut.
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a regular file's content to `target`, as safely as `atomic_path` writes."""
    with open_regular(source) as opened, atomic_path(target) as temporary:
        with temporary.open("wb") as copy:
            shutil.copyfileobj(opened, copy, 1 << 20)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading bytes. Pipes and devices, which may never end, are refused.

    Raises MarigoldError for what is not a regular file, OSError as `open` does.
    """
    refusal = MarigoldError(f"{os.fspath(path)} is not a regular file, but a folder or a device.")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise refusal
    # Without waiting, should the file have become a pipe since it was looked at.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal
    return os.fdopen(descriptor, "rb")


# For a program's environment, before torch's first tensor: large ones get pages of 2 MB (Linux).
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE", "1"


def exit_on_sigterm() -> None:
    """Make SIGTERM end this program as sys.exit does, so that temporary files are removed.

    For programs, in their main thread; inside ComfyUI or Blender the handler is theirs to set.
    """

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    """A new hidden folder beside `target`, locked for as long as this process lives."""
    while True:
        folder = Path(
            tempfile.mkdtemp(
                prefix=f".{target.stem[:40]}.", suffix=".marigold-part", dir=target.parent
            )
        )
        if fcntl is None:
            return folder, None
        with suppress(FileNotFoundError):  # another process took it for a leftover: once more
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError:  # a network file system without locks
                pass
            return folder, lock


def _remove_leftovers(parent: Path) -> None:
    """Remove what killed runs left in a folder; once in each folder, as large ones take a while."""
    if parent in _tidied:
        return
    _tidied.add(parent)
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if _LEFTOVER.fullmatch(entry.name)]
    for folder in found:
        with suppress(OSError):
            if _is_abandoned(folder):
                shutil.rmtree(folder)


def _is_abandoned(folder: str) -> bool:
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        return False
    if fcntl is None:
        return time.time() - os.stat(folder).st_mtime > _LEFTOVER_SECONDS
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # its writer lives, or cannot be asked
        return False
    finally:
        os.close(lock)


def flush_folder(folder: Path) -> None:
    """Make a new name in a folder reach the disk, on systems where folders can be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)
