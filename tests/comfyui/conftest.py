from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from checkpoint_builders import build_checkpoint

NANO = Path(__file__).parents[2] / "marigold_core" / "assets" / "nano"
sys.path.insert(0, str(Path(__file__).parent))
from comfyui_server import ComfyUIServer, installations  # noqa: E402


@pytest.fixture(
    scope="session", params=installations() or [None], ids=lambda one: one.version if one else "-"
)
def installation(request):
    """Each ComfyUI that COMFYUI_PATH names."""
    if request.param is None:
        pytest.skip("COMFYUI_PATH names no ComfyUI tree (and COMFYUI_PYTHON its Python)")
    return request.param


# Published name -> family of the small random checkpoint that stands in for its download.
DOWNLOADED = {"normals-v1-1": "normals-v1-1", "iid-appearance": "iid-appearance"}


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory, installation):
    """A real ComfyUI with this pack, previews on."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(NANO, base / "elsewhere" / "of my own")
    paths = base / "extra_model_paths.yaml"
    paths.write_text(f"mine:\n  base_path: {base.as_posix()}\n  marigold: elsewhere\n")
    arguments = ("--preview-method", "auto", "--extra-model-paths-config", str(paths))
    # glibc then gives each freed tensor back at once, so that the process shows what is in use.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with ComfyUIServer(base, installation, *arguments, environment=malloc) as server:
        yield server


@pytest.fixture(scope="session")
def downloaded(comfyui):
    """Published checkpoints for normals and intrinsic images, where a download would be."""
    for name, family in DOWNLOADED.items():
        build_checkpoint(comfyui.base / "models" / "marigold" / name, family)
