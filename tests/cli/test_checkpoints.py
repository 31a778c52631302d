"""`marigold checkpoints inspect`: where a checkpoint is from, and whether its files are whole."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from checkpoint_builders import unet_file

from marigold_core.checkpoints.checksums import write_checksums
from marigold_core.checkpoints.published import PUBLISHED
from marigold_core.cli.arguments import main

pytestmark = pytest.mark.usefixtures("user_cache")


def hub_cache(folder: Path, cache: Path, commit: str, revision: str = "main") -> Path:
    """`folder` as a download leaves it: files named by their digest, links to them by commit."""
    repo = cache / f"models--{PUBLISHED['v1-1'].repo_id.replace('/', '--')}"
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / revision).write_text(commit)
    snapshot = repo / "snapshots" / commit
    for file in filter(Path.is_file, folder.rglob("*")):
        content = file.read_bytes()
        if file.suffix == ".safetensors":
            digest = hashlib.sha256(content).hexdigest()
        else:
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        shutil.copyfile(file, repo / "blobs" / digest)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repo / "blobs" / digest)
    return snapshot


def said(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(["checkpoints", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_inspect_shows_the_downloaded_commit(built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub_cache(built, tmp_path, "a" * 40)
    hub_cache(built, tmp_path, "b" * 40, "v2")
    for options, commit in (((), "a" * 40), (("--revision", "v2"), "b" * 40)):
        status, out, err = said(capsys, "inspect", "v1-1", *options)
        assert (status, err) == (0, "")
        assert f"commit:       {commit}" in out
    status, _, err = said(capsys, "inspect", "v1-1", "--revision", "v3")
    assert status == 2
    assert "--revision v3" in err
    assert "commit" not in said(capsys, "inspect", built)[1]
    assert "no revision" in said(capsys, "inspect", built, "--revision", "v2")[2]


def test_a_download_is_verified_by_the_hubs_digests(built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = hub_cache(built, tmp_path, "a" * 40)
    status, out, _ = said(capsys, "inspect", "v1-1", "--verify")
    files = len(list(filter(Path.is_file, built.rglob("*"))))
    assert status == 0
    assert f"verified:     {files} files" in out
    for file, end in ((unet_file(snapshot), b"\1"), (snapshot / "model_index.json", b" }")):
        whole = file.read_bytes()
        file.resolve().write_bytes(whole[:-1] + end)
        status, _, err = said(capsys, "inspect", "v1-1", "--verify")
        assert status == 2
        assert f"{file.relative_to(snapshot)} has changed" in err
        file.resolve().write_bytes(whole)


def test_a_folder_is_verified_by_its_list(folder, capsys):
    status, _, err = said(capsys, "inspect", folder, "--verify")
    assert status == 2
    assert "SHA256SUMS" in err
    write_checksums(folder)
    assert said(capsys, "inspect", folder, "--verify")[0] == 0
    with unet_file(folder).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert said(capsys, "inspect", folder)[0] == 0
    status, _, err = said(capsys, "inspect", folder, "--verify")
    assert status == 2
    assert "unet/diffusion_pytorch_model.safetensors has changed" in err
