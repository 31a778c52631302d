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

import comfy.model_management
import comfy.utils

from ..marigold_core import MarigoldError
from ..marigold_core.checkpoints.hub import offline
from ..marigold_core.checkpoints.published import PUBLISHED, TINY_VAE

PACK = Path(__file__).parents[1]
POLL_SECONDS = 0.2
# -c, as a Python with a ._pth file (ComfyUI's portable one) ignores PYTHONPATH and -m's folder.
PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from marigold_core.checkpoints.hub import download
from marigold_core.errors import MarigoldError
name, folder = sys.argv[2:]
try:
    download(name, folder=folder)
except MarigoldError as error:
    print(error, flush=True)
    sys.exit(1)
"""


def download(name: str, folder: Path) -> Path:
    """Fetch the published checkpoint or VAE `name` into `folder`, and return that.

    Raises MarigoldError with what went wrong, and ComfyUI's exception when the user cancels.
    """
    published = (PUBLISHED | TINY_VAE)[name]
    if offline():
        raise MarigoldError(
            f"{name} is not on this computer, and HF_HUB_OFFLINE forbids downloads: unset it, or "
            f"download https://huggingface.co/{published.repo_id} elsewhere and put the folder at "
            f"{folder}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    bar = comfy.utils.ProgressBar(published.size_bytes)
    # A file, because a full pipe that nobody reads would block the process.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(PACK), name, str(folder)], stdout=output
        )
        try:
            while process.poll() is None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update_absolute(min(bytes_in(folder), published.size_bytes))
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        message = output.read().strip()
    if process.returncode:
        raise MarigoldError(
            message or f"The download of {name} ended without a message; see ComfyUI's console."
        )
    return folder


def bytes_in(folder: Path) -> int:
    """Also those of unfinished files, which are in the hidden .cache/ of the folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # renamed in between
            continue
    return total
