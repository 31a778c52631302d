"""finetune.py as a program of its own: killed for real, in two processes, and from end to end."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import (
    FINETUNE,
    assert_identical,
    build_pictures,
    flags,
    spawn,
    weights,
)

pytest.importorskip("accelerate", reason="training needs the extra [train]")
pytestmark = pytest.mark.slow

TEN = "--steps 10 --save-every 1 --val-every 2 --select last --ema 0.9".split()


def finished(program, name: str) -> str:
    said, _ = program.communicate(timeout=300)
    assert program.returncode == 0, f"{name}:\n{said}"
    return said


def test_a_program_killed_again_and_again_ends_bit_identical(base, pictures, tmp_path):
    """SIGKILL at moments that nobody chose: while states of every step are written."""
    finished(spawn(FINETUNE, *flags(base, pictures, tmp_path / "whole", *TEN)), "whole")
    output, random = tmp_path / "killed", np.random.default_rng(0)
    kills = 0
    for _ in range(4):
        program = spawn(FINETUNE, *flags(base, pictures, output, *TEN, "--resume"))
        before = {path.name for path in (output / "run").glob("state-*")}
        while program.poll() is None:
            now = {path.name for path in (output / "run").glob("state-*")}
            if now - before:  # a new state: from here on at any moment
                time.sleep(random.uniform(0, 0.3))
                program.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        program.communicate()
        kills += program.returncode == -signal.SIGKILL
    assert kills >= 2
    finished(spawn(FINETUNE, *flags(base, pictures, output, *TEN, "--resume")), "last")
    assert_identical(output, tmp_path / "whole")


def losses(output: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(output / "run" / "logs"))
    log.Reload()
    return [event.value for event in log.Scalars("train/loss")]


def test_two_processes_are_one_with_twice_the_accumulation(base, pictures, tmp_path):
    """`accelerate launch` over gloo, micro-batches of 2: 1 x 4 against 2 x 2 of them a step."""
    pytest.importorskip("tensorboard")
    more = "--steps 8 --batch-size 8 --learning-rate 1e-3 --tensorboard".split()
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    finished(spawn(FINETUNE, *flags(base, pictures, alone, *more)), "one process")
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1".split()
    launch += "--mixed_precision no --dynamo_backend no --main_process_port 0".split()
    cache = ["--cache", tmp_path / "other"]  # filled by both processes, too
    finished(
        spawn(*launch, FINETUNE, *flags(base, pictures, shared, *more, *cache)), "two processes"
    )
    assert len(losses(alone)) == 8
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-3)
    ours, theirs = weights(alone), weights(shared)
    start = weights(base)
    moved = torch.cat([(ours[n] - start[n]).flatten() for n in ours if n != "conv_in.weight"])
    apart = torch.cat([(ours[n] - theirs[n]).flatten() for n in ours if n != "conv_in.weight"])
    assert float(apart.norm() / moved.norm()) < 0.05
    # Not because nothing happens: another order of the data is another curve.
    other = tmp_path / "other-seed"
    finished(spawn(FINETUNE, *flags(base, pictures, other, *more, "--seed", 1)), "other seed")
    assert max(abs(np.subtract(losses(other), losses(alone)))) > 0.01


def abs_rel(checkpoint: Path | str, pictures: Path) -> float:
    """What validation says of a checkpoint before training: a run of one step at rate 0."""
    from data.registry import open_dataset
    from validation import validate

    from marigold_core import Marigold

    dataset = open_dataset(f"folder:{pictures}", "all", None)
    samples = {"pictures": [dataset[i] for i in range(len(dataset))]}
    marigold = Marigold.from_pretrained(checkpoint, device="cpu")
    return validate(marigold, samples, seed=0).metrics["pictures"]["AbsRel"]


def test_fine_tuning_the_bundled_checkpoint_lowers_its_error(tmp_path):
    """From a folder of pictures to a checkpoint: on pictures that it did not see."""
    train = build_pictures(tmp_path / "train", 64, size=96, seed=1)
    held_out = build_pictures(tmp_path / "held-out", 12, size=96, seed=2)
    output = tmp_path / "mine"
    more = "--steps 80 --batch-size 8 --micro-batch 8 --learning-rate 5e-4 --warmup 5".split()
    more += "--decay-steps 80 --val-every 80 --max-grad-norm 1 --terminal-share 0.5".split()
    said = finished(spawn(FINETUNE, *flags("nano", train, output, *more)), "nano")
    assert "wrote" in said
    before, after = abs_rel("nano", held_out), abs_rel(output, held_out)
    print(f"AbsRel {before:.4f} -> {after:.4f}")
    assert after < 0.7 * before
    card = (output / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (output / "recipe.json").read_text()


def test_a_wrong_command_is_one_sentence(base, pictures, tmp_path):
    program = spawn(FINETUNE, *flags(base, pictures, tmp_path / "run", "--micro-batch", 3))
    said, _ = program.communicate()
    assert program.returncode == 1
    assert re.search(r"^finetune: --batch-size 4 is not a multiple", said, re.M)
    assert "Traceback" not in said
