"""Which files a command may replace: its own for the same input, and never an input.

Each output folder has a record of what was written there, one JSON object a line, so that a command
can be repeated. A file that is not in it, or has changed since, is somebody else's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoints.checksums import sha256
from ..depth_files import read_array
from ..errors import MarigoldError
from ..images import open_picture

RECORD = ".marigold_outputs.jsonl"
MOST_BYTES = 1 << 28  # of a record: a million files


class Outputs:
    """The records of the output folders of one run; each is read once."""

    def __init__(self, inputs: Iterable[str | os.PathLike[str]], overwrite: bool) -> None:
        self._inputs = {identity for file in inputs if (identity := _identity(file)) is not None}
        self._overwrite = overwrite
        self._records: dict[Path, dict[str, dict[str, Any]]] = {}

    def check(self, files: Iterable[Path], source: Path) -> None:
        """Raise MarigoldError where one of `files`, made from `source`, must not be replaced."""
        for file in files:
            identity = _identity(file)
            if identity is None:
                continue
            if identity in self._inputs:
                raise MarigoldError(
                    f"{file} is read by this command and would be replaced by its output; choose"
                    " another output with -o."
                )
            if not self._overwrite and file.stat().st_size and not self.is_own(file, source):
                raise MarigoldError(
                    f"{file} is there already, and was not written by this command for {source};"
                    " choose another output with -o, or replace it with --overwrite."
                )

    def is_own(self, file: Path, source: Path) -> bool:
        """Whether a file is still what an earlier run wrote for the same input."""
        entry = self._record(file.parent).get(file.name)
        if entry is None or entry.get("source") != _relative(source, file.parent):
            return False
        facts = file.stat()
        if facts.st_size != entry.get("bytes"):
            return False
        return facts.st_mtime_ns == entry.get("mtime_ns") or sha256(file) == entry.get("sha256")

    def is_whole(self, file: Path, source: Path) -> bool:
        """Whether a file is there and complete: as it was written, or else it can be decoded."""
        if not file.is_file():
            return False
        if self.is_own(file, source):
            return True
        for read in (read_array, open_picture):
            with suppress(MarigoldError):
                read(file)
                return True
        return False

    def note(self, files: Iterable[Path], source: Path, **facts: str) -> None:
        """Add files that were just written to the records of their folders; facts: how made."""
        for file in files:
            status = file.stat()
            entry = {
                "name": file.name,
                "source": _relative(source, file.parent),
                "bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "sha256": sha256(file),
                **facts,
            }
            self._record(file.parent)[file.name] = entry
            # One write to the end of the file: another run may add to it at the same time.
            line = json.dumps(entry).encode("ascii") + b"\n"
            with (file.parent / RECORD).open("ab") as record:
                record.write(line)

    def _record(self, folder: Path) -> dict[str, dict[str, Any]]:
        if folder not in self._records:
            self._records[folder] = _read_record(folder / RECORD)
        return self._records[folder]


def _read_record(file: Path) -> dict[str, dict[str, Any]]:
    """File name -> the last entry of it. Lines that are damaged count as absent."""
    entries: dict[str, dict[str, Any]] = {}
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return entries
    for line in file.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            entries[entry["name"]] = entry
    return entries


def _relative(source: Path, folder: Path) -> str:
    """So that a folder that is moved with its pictures keeps its record."""
    source, folder = source.resolve(), folder.resolve()
    try:
        return Path(os.path.relpath(source, folder)).as_posix()
    except ValueError:  # on different drives
        return source.as_posix()


def _identity(file: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The same for every name of one file, links and letter case included; None: absent."""
    try:
        facts = os.stat(file)
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino
