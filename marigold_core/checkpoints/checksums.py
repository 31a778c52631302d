"""SHA-256 of a folder's files, kept beside them in `SHA256SUMS`, the format of `sha256sum`.

So `sha256sum --check SHA256SUMS` in that folder verifies the same.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError
from ..files import atomic_path

FILE_NAME = "SHA256SUMS"
# "<digest>  <path>", or " *" before the path where the file was read as binary.
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
# What the hub's cache names a file by.
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MOST_BYTES = 1 << 20  # of SHA256SUMS itself: a checkpoint has some tens of files
CHUNK = 1 << 20


def write_checksums(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Write `SHA256SUMS` for the files below `folder`, or for those named.

    None: every regular file but `SHA256SUMS` and hidden ones. Raises OSError as the file system
    does.
    """
    if files is None:
        files = (p for p in folder.rglob("*") if not is_hidden(p.relative_to(folder)))
    names = sorted({p.relative_to(folder).as_posix() for p in files if p.is_file()} - {FILE_NAME})
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    with atomic_path(folder / FILE_NAME) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> int | None:
    """How many files are listed in `SHA256SUMS`, after comparing each; None without that file.

    Raises CheckpointError that names what is missing or differs, or why `SHA256SUMS` itself cannot
    be used. Files that are not listed are not looked at.
    """
    listed = read_checksums(folder)
    if listed is None:
        return None
    damaged = damaged_files(folder, listed)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise CheckpointError(
            f"{folder} is not what its {FILE_NAME} lists: {', '.join(damaged[:3])}{more}; "
            "copy or download it again."
        )
    return len(listed)


def damaged_files(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """Of the files listed, those that are missing or differ: "unet/config.json has changed"."""
    damaged = []
    for name, digest in listed.items():
        file = folder / name
        try:
            if not file.is_file():
                damaged.append(f"{name} is missing")
            elif sha256(file) != digest:
                damaged.append(f"{name} has changed")
        except OSError as error:
            damaged.append(f"{name} cannot be read ({error.strerror or error})")
    return damaged


def verify_download(snapshot: Path) -> int | None:
    """How many files of a snapshot in the hub's cache were compared; None for other folders.

    The cache names each file by its digest on the hub: SHA-256, or git's SHA-1 for small files.
    Raises CheckpointError that names what differs.
    """
    links = [path for path in sorted(snapshot.rglob("*")) if path.is_symlink()]
    named = {link: link.resolve() for link in links}
    named = {link: blob for link, blob in named.items() if DIGEST.fullmatch(blob.name)}
    for link, blob in named.items():
        digest = sha256(blob) if len(blob.name) == 64 else git_sha1(blob)
        if digest != blob.name:
            raise CheckpointError(
                f"{link.relative_to(snapshot).as_posix()} has changed since it was downloaded; "
                f"delete {blob} and download the checkpoint again."
            )
    return len(named) or None


def read_checksums(folder: Path) -> dict[str, str] | None:
    """Relative path -> digest, as `SHA256SUMS` lists them; None without that file.

    The file may be a stranger's: a path that leads out of the folder is refused.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{file} is longer than {MOST_BYTES} bytes; it is no list.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}).") from error
    listed = {}
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is None or not is_inside(match[2]):
            raise CheckpointError(
                f"{file}, line {number}: this is not a SHA-256 and a path inside the folder; "
                "copy or download it again."
            )
        listed[match[2]] = match[1].lower()
    return listed


def is_inside(name: str) -> bool:
    """Whether a listed path stays in its folder, on every platform."""
    path = PurePosixPath(name)
    safe = name.isprintable() and "\\" not in name and ":" not in name
    return safe and not path.is_absolute() and ".." not in path.parts


def is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def sha256(file: str | os.PathLike[str]) -> str:
    """The digest of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def git_sha1(file: Path) -> str:
    """The name that git has for a file's content (gitformat-pack, "blob")."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
