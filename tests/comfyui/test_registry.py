"""What the ComfyUI registry is given: an archive of the right files, an icon, a banner."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SHIPPED = (
    "__init__.py",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "install.py",
    "nodes/__init__.py",
    "marigold_core/engine.py",
    "marigold_core/assets/nano/unet/diffusion_pytorch_model.safetensors",
    "web/docs/Node.md",
    "web/docs/images/node.jpg",
    "locales/zh/nodeDefs.json",
    "example_workflows/depth.json",
    "example_workflows/depth.jpg",
)
LEFT_OUT = (
    "tests/test_engine.py",
    "training/finetune.py",
    "benchmarks/engine.py",
    "blender_addon/__init__.py",
    "docs/images/banner.png",
    ".github/workflows/ci.yml",
    ".ci/run",
    "constraints.txt",
)


def test_the_archive_holds_what_the_nodes_need_and_nothing_else(tmp_path):
    if not shutil.which("git"):
        pytest.skip("git reads .comfyignore here, as it has .gitignore's syntax")
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    shutil.copy(ROOT / ".comfyignore", tmp_path / ".gitignore")
    run = subprocess.run(
        [*git, "check-ignore", "--no-index", *SHIPPED, *LEFT_OUT], capture_output=True, text=True
    )
    assert run.stdout.splitlines() == list(LEFT_OUT)


def test_every_line_of_the_ignore_list_is_about_something():
    later = {"blender_addon"}  # a room that may not be furnished yet
    for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert line.startswith("/"), f"{line} is not anchored: it would match in web/ too"
            name = line.strip("/")
            assert name in later or (ROOT / name).exists(), f"{line}: there is no such thing"


def test_icon_and_banner_are_as_the_registry_wants_them():
    with Image.open(ROOT / "docs" / "images" / "icon.png") as icon:
        assert icon.size[0] == icon.size[1] <= 400
        assert icon.mode == "RGBA"
    with Image.open(ROOT / "docs" / "images" / "banner.png") as banner:
        assert banner.size[0] * 9 == banner.size[1] * 21
