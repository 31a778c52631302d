from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoint_builders import build_checkpoint

from marigold_core.checkpoints import empty_prompt


@pytest.fixture
def user_cache(tmp_path, monkeypatch):
    """With it no test reads or writes the caches of whoever runs it, or the network."""
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(empty_prompt, "user_cache_folder", lambda: folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """One v1-1 checkpoint, to be copied."""
    return build_checkpoint(tmp_path_factory.mktemp("built") / "v1-1")


@pytest.fixture
def folder(built, tmp_path):
    """A copy of it, to be changed and broken."""
    return Path(shutil.copytree(built, tmp_path / "checkpoint"))
