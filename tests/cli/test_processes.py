"""A folder spread over processes, as `accelerate launch` and torchrun start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marigold_core.cli import main
from marigold_core.cli.batch import BatchItem, share
from marigold_core.cli.outputs import RECORD
from marigold_core.errors import MarigoldError

ROOT = Path(__file__).parents[2]
COUNT = 6


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        picture = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def command(photos, *options):
    return [
        *("depth", str(photos), "-o", str(photos.parent / "depth"), "--resolution", "32"),
        *("--device", "cpu", "--format", "npy", "--colormap", "none", *options),
    ]


def start(rank, photos, *options):
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "marigold_core", *command(photos, *options)]
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def numbers(folder):
    return sorted(int(file.name.split("_")[0]) for file in folder.glob("*_depth.npy"))


def test_each_process_takes_its_share(monkeypatch):
    items = [BatchItem(Path(f"{n}.png"), Path(str(n))) for n in range(7)]
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(share(items))
    assert sorted((item for part in shares for item in part), key=items.index) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "")])
def test_a_rank_that_cannot_be_is_one_message(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(MarigoldError, match="RANK is .*accelerate launch"):
        share([])


def test_after_a_kill_the_same_command_does_what_is_left_and_nothing_twice(photos):
    depth = photos.parent / "depth"
    first, second = start(0, photos), start(1, photos, "--steps", "200")
    assert first.wait(timeout=300) == 0
    deadline = time.monotonic() + 300
    while not set(numbers(depth)) & {1, 3, 5} and time.monotonic() < deadline:
        time.sleep(0.05)
    second.kill()
    second.communicate()
    left = set(range(COUNT)) - set(numbers(depth))
    assert left and left < {1, 3, 5}, "it was to be killed with one picture done and one not"
    before = {file: file.stat().st_mtime_ns for file in depth.glob("*.npy")}

    both = [start(rank, photos, "--skip-existing") for rank in (0, 1)]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert numbers(depth) == list(range(COUNT))
    assert "3 pictures skipped" in told[0][0]
    assert "loaded" not in told[0][0], "a process with nothing to do loads nothing"
    assert {file: file.stat().st_mtime_ns for file in before} == before
    names = {f"{number}_depth.npy" for number in range(COUNT)} | {RECORD}
    assert {entry.name for entry in depth.iterdir()} == names, "what the killed process left"
    lines = (depth / RECORD).read_text().splitlines()
    assert {json.loads(line)["dtype"] for line in lines} == {"float32"}
    # And one process alone sees that all is done.
    assert main(command(photos, "--skip-existing")) == 0


@pytest.mark.slow
def test_torchrun_starts_them(photos):
    """`accelerate launch --multi_gpu` calls the same program."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [*launcher, "--nproc-per-node", "2", "-m", "marigold_core", *command(photos)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert numbers(photos.parent / "depth") == list(range(COUNT))
    assert done.stdout.count("loaded in") == 2
