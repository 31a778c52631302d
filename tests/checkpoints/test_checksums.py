"""SHA256SUMS: agrees with `sha256sum`, finds every kind of damage, and trusts no path."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from marigold_core.checkpoints.checksums import FILE_NAME, verify_checksums, write_checksums
from marigold_core.checkpoints.published import BUNDLED
from marigold_core.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(os.urandom(3 << 20))
    (tmp_path / "config with spaces.json").write_text("{}")
    (tmp_path / ".hidden").write_text("of the file manager")
    write_checksums(tmp_path)
    return tmp_path


def test_a_folder_agrees_with_its_own_list(folder):
    assert verify_checksums(folder) == 2
    assert ".hidden" not in (folder / FILE_NAME).read_text()
    write_checksums(folder)  # the list is not in the list
    assert verify_checksums(folder) == 2


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils is not installed")
def test_sha256sum_agrees(folder):
    run = subprocess.run(["sha256sum", "--check", FILE_NAME], cwd=folder, capture_output=True)
    assert run.returncode == 0
    text = subprocess.run(
        ["sha256sum", "--binary", "unet/weights.safetensors"], cwd=folder, capture_output=True
    ).stdout
    (folder / FILE_NAME).write_bytes(text)
    assert verify_checksums(folder) == 1


@pytest.mark.parametrize("damage", ["bit", "short", "gone", "fifo"])
def test_what_is_damaged_is_named(folder, damage):
    file = folder / "unet" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[2 << 20] ^= 1
        file.write_bytes(content)
    elif damage == "short":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    if damage == "fifo":
        os.mkfifo(file)
    with pytest.raises(CheckpointError, match=r"unet/weights\.safetensors (has changed|is miss)"):
        verify_checksums(folder)


def test_a_folder_without_a_list_has_nothing_to_verify(tmp_path):
    assert verify_checksums(tmp_path) is None


def test_only_the_named_files_are_listed(folder):
    write_checksums(folder, [folder / "config with spaces.json"])
    assert verify_checksums(folder) == 1


@pytest.mark.parametrize(
    "line",
    ["nonsense", "0" * 64 + "  /etc/passwd", "0" * 64 + "  ../other", "0" * 64 + "  a\x1b[31m",
     "0" * 63 + "  unet/weights.safetensors", "0" * 64 + "  C:/x", "\xff"],
)  # fmt: skip
def test_a_list_that_leads_elsewhere_is_refused(folder, line):
    (folder / FILE_NAME).write_text(line + "\n", encoding="latin-1")
    with pytest.raises(CheckpointError, match=FILE_NAME):
        verify_checksums(folder)


def test_an_endless_list_is_refused(folder):
    with (folder / FILE_NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="longer than"):
        verify_checksums(folder)


def test_the_bundled_checkpoint_is_what_its_checksums_list():
    assert verify_checksums(BUNDLED["nano"]) == 14
