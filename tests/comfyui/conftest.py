from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # comfyui_server


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    """A real ComfyUI with this pack, previews on."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH names no ComfyUI tree (and COMFYUI_PYTHON its Python)")
    from comfyui_server import ComfyUIServer

    base = tmp_path_factory.mktemp("comfyui")
    # glibc then gives each freed tensor back at once, so that the process shows what is in use.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with ComfyUIServer(base, "--preview-method", "auto", environment=malloc) as server:
        yield server
