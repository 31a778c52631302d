from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from checkpoint_builders import unet_file

from marigold_core.checkpoints import hub
from marigold_core.checkpoints.loading import load_checkpoint
from marigold_core.checkpoints.published import BUNDLED, PUBLISHED
from marigold_core.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("user_cache")


def test_names_that_are_nothing(tmp_path):
    for name, words in (
        ("nanoo", "v1-1"),
        (str(tmp_path / "absent"), "neither a folder"),
        ("./absent/folder/here", "neither a folder"),
        ("", "neither a folder"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(name)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["v1-1", "marigold-depth-v1-1", "prs-eth/marigold-depth-v1-1"])
def test_offline_without_the_checkpoint_says_how_to_get_it(name):
    with pytest.raises(CheckpointError, match=f"marigold checkpoints download {name}"):
        load_checkpoint(name)


def cache_as_hub_does(folder: Path, cache: Path, repo_id: str) -> Path:
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    commit = "0" * 40
    (repo / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, repo / "snapshots" / commit))


def test_a_cached_checkpoint_is_loaded_without_a_network(built, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "download", unreachable)
    cache = tmp_path / "hub"
    snapshot = cache_as_hub_does(built, cache, PUBLISHED["v1-1"].repo_id)
    for name in ("v1-1", PUBLISHED["v1-1"].repo_id):
        assert load_checkpoint(name, cache_dir=cache).info.folder == snapshot
    known = {entry.name: entry for entry in hub.list_known(cache)}
    assert known["v1-1"].folder == snapshot
    assert known["v1-1"].size_bytes > unet_file(snapshot).stat().st_size
    assert known["v1-0"].folder is None
    assert set(BUNDLED) | set(PUBLISHED) <= set(known)
    unet_file(snapshot).unlink()
    with pytest.raises(CheckpointError, match="only partly in the cache"):
        load_checkpoint("v1-1", cache_dir=cache)


def test_what_is_fetched_of_a_repository():
    names = [
        ".gitattributes", "README.md", "LICENSE-MODEL.txt", "model_index.json", "v2.ckpt",
        "v2.safetensors", "pipeline.py", "unet/config.json",
        "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json", "text_encoder/model.safetensors.index.json",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "safety_checker/model.safetensors",
    ]  # fmt: skip
    plain = hub.files_to_fetch(names)
    texts = {"README.md", "LICENSE-MODEL.txt", "model_index.json", "unet/config.json",
             "vae/config.json", "text_encoder/config.json",
             "text_encoder/model.safetensors.index.json",
             "text_encoder/model.safetensors.index.fp16.json"}  # fmt: skip
    assert set(plain) - texts == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
    }
    assert set(hub.files_to_fetch(names, "fp16")) - texts == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
    }
    assert texts <= set(plain)
    taesd = ["config.json", "diffusion_pytorch_model.safetensors", "taesd_encoder.safetensors"]
    assert hub.files_to_fetch(taesd) == taesd[:2]


def failure(kind: str) -> Exception:
    from huggingface_hub import errors

    if kind == "disk":
        return OSError(28, "No space left on device")
    if kind == "network":
        error = RuntimeError("HTTPSConnectionPool(host='huggingface.co'): Max retries exceeded")
        error.__cause__ = socket.gaierror(-2, "Name or service not known")
        return error
    classes: dict[str, Any] = {
        "gated": errors.GatedRepoError,
        "absent": errors.RepositoryNotFoundError,
        "offline": errors.OfflineModeIsEnabled,
    }
    # Their constructors want a response of whichever HTTP library is beneath.
    return classes[kind].__new__(classes[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("disk", "disk is full"),
        ("network", "huggingface.co cannot be reached.*continues where it stopped"),
        ("gated", "accept its terms"),
        ("absent", "no public checkpoint at https://huggingface.co/some/thing"),
        ("offline", "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_failed_download_says_what_to_do(monkeypatch, kind, words):
    def fail(*_, **__):
        raise failure(kind)

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(CheckpointError, match=words) as caught:
        hub.download("some/thing")
    assert "\n" not in str(caught.value)


def test_pickle_only_repositories_are_not_fetched(monkeypatch):
    files = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(CheckpointError, match="no .safetensors"):
        hub.download("some/thing")
