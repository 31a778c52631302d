"""Downloads a published checkpoint, with ComfyUI's progress bar and its Cancel.

The download is a process of its own, because one that waits for the network cannot be cancelled
in any other way. What has arrived is kept, and the next run continues from there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import comfy.model_management
import comfy.utils

from ..marigold_core import MarigoldError
from ..marigold_core.checkpoints.hub import offline, repo_id_of

PACK = Path(__file__).parents[1]
POLL_SECONDS = 0.2
# The bar before the size is known; ComfyUI shows nothing for a total of 0.
UNKNOWN_SIZE = 1
# -c, as a Python with a ._pth file (ComfyUI's portable one) ignores PYTHONPATH and -m's folder.
PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from marigold_core.checkpoints.hub import download, download_size
from marigold_core.errors import MarigoldError
name, folder = sys.argv[2:]
try:
    print(download_size(name), flush=True)
    download(name, folder=folder)
except MarigoldError as error:
    print(error, flush=True)
    sys.exit(1)
"""


def download(name: str, folder: Path) -> Path:
    """Fetch the published checkpoint or VAE `name` into `folder`, and return that.

    Raises MarigoldError with what went wrong, and ComfyUI's exception when the user cancels.
    """
    if offline():
        raise MarigoldError(
            f"{name} is not on this computer, and HF_HUB_OFFLINE forbids downloads: unset it, or "
            f"download https://huggingface.co/{repo_id_of(name)} elsewhere and put the folder at "
            f"{folder}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # A file, because a full pipe that nobody reads would block the process.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(PACK), name, str(folder)], stdout=output
        )
        try:
            wait(process, folder, output)
        finally:
            process.kill()
            process.wait()
        lines = lines_of(output)
    if process.returncode:
        raise MarigoldError(
            lines[-1]
            if lines
            else f"The download of {name} ended without a message; ComfyUI's console has the "
            "details."
        )
    return folder


def wait(process: subprocess.Popen, folder: Path, output: IO[str]) -> None:
    """Show the progress until the process ends."""
    bar = comfy.utils.ProgressBar(UNKNOWN_SIZE)
    while process.poll() is None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        lines = lines_of(output)
        if lines and lines[0].isdigit():
            total = int(lines[0])
            bar.update_absolute(min(bytes_in(folder), total), total)
        time.sleep(POLL_SECONDS)


def lines_of(output: IO[str]) -> list[str]:
    output.seek(0)
    return output.read().splitlines()


def bytes_in(folder: Path) -> int:
    """Also those of unfinished files, which are in the hidden .cache/ of the folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # renamed in between
            continue
    return total
