"""What a training run survives: kills, full disks, damaged states, losses that are not finite."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_runs import SIX, assert_identical, flags, train, weights

pytest.importorskip("accelerate", reason="training needs the extra [train]")
resource = pytest.importorskip("resource", reason="the full disk is played with POSIX limits")
import checkpointing  # noqa: E402
import finetune  # noqa: E402
from diffusers import AutoencoderKL  # noqa: E402
from filelock import FileLock, Timeout  # noqa: E402
from run_setup import output_folder  # noqa: E402

from marigold_core import engine  # noqa: E402
from marigold_core.checkpoints.checksums import verify_checksums  # noqa: E402
from marigold_core.errors import MarigoldError  # noqa: E402
from marigold_core.memory import too_little_memory  # noqa: E402


class Killed(BaseException):
    """No `except Exception` and no clean-up sees it, as none sees a kill."""


def test_a_run_that_is_stopped_and_resumed_ends_bit_identical(base, pictures, whole, tmp_path):
    output = tmp_path / "run"
    train(flags(base, pictures, output, *SIX, "--steps", 3))
    train(flags(base, pictures, output, *SIX, "--resume"))
    assert_identical(output, whole)


def test_a_state_at_the_last_step_is_what_the_checkpoint_becomes(base, pictures, tmp_path):
    """A longer run was stopped after a state, and is told that this is enough."""
    rare = [*SIX, "--val-every", 9, "--save-every", 1]
    train(flags(base, pictures, tmp_path / "short", *rare, "--steps", 3))
    output = tmp_path / "run"
    train(flags(base, pictures, output, *rare, "--steps", 4))
    shutil.rmtree(output / "run" / "state-00000004")
    train(flags(base, pictures, output, *rare, "--steps", 3, "--resume"))
    expected, got = weights(tmp_path / "short"), weights(output)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize(
    "moment", ["save_state", "flush", "clean", "rename", "write_unet", "backward"]
)
def test_a_run_that_is_killed_goes_on_from_the_last_complete_state(
    base, pictures, whole, tmp_path, monkeypatch, moment
):
    """Killed inside its second save, between its parts, or in a step; `clean` runs before each."""
    output, calls = tmp_path / "run", []
    from accelerate import Accelerator

    owner = {
        "save_state": Accelerator, "backward": Accelerator, "write_unet": finetune, "rename": Path,
    }.get(moment, checkpointing)  # fmt: skip
    real = getattr(owner, moment)

    def dies(*arguments, **named):
        calls.append(moment)
        if len(calls) == {"backward": 7}.get(moment, 2):
            if moment == "save_state":  # some files written, the last one half
                real(*arguments, **named)
                half = next(Path(arguments[1]).glob("optimizer*"))
                half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
            raise Killed
        return real(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, moment, dies)
        train(flags(base, pictures, output, *SIX))
    assert [p.name for p in checkpointing.states(output / "run")] == ["state-00000002"]
    train(flags(base, pictures, output, *SIX, "--resume"))
    assert_identical(output, whole)
    left = sorted(p.name for p in (output / "run").glob("*-*"))
    assert left == ["state-00000004", "state-00000006"]


@contextmanager
def files_may_not_grow_beyond(size: int):
    """The disk refuses: the kernel's own limit, which Python meets as OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["step", "recipe", "best", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON.map(json.dumps) | st.text(max_size=40), st.integers(0, 60))
def test_what_is_read_of_a_damaged_state_is_sound_or_one_error(tmp_path_factory, text, cut):
    file = tmp_path_factory.getbasetemp() / "state.json"
    for content in (text, text[:cut]):
        file.write_text(content, encoding="utf-8", errors="surrogatepass")
        try:
            progress = checkpointing.read_progress(file)
        except ValueError:
            continue
        assert isinstance(progress["step"], int)
        assert isinstance(progress["recipe"], dict)


def test_two_runs_in_one_folder_are_refused(base, pictures, tmp_path, monkeypatch):
    output = tmp_path / "run"
    real, second = finetune.denoising_loss, []

    def starts_another(*arguments, **named):
        if not second:
            second.append(1)
            lock = FileLock(output / "run" / "lock")
            with pytest.raises(Timeout):
                lock.acquire(timeout=0)
            recipe = Namespace(output=output, resume=True)
            with pytest.raises(MarigoldError, match="Another run is writing to"):
                with output_folder(recipe, base, Namespace(is_main_process=True)):
                    pass
        return real(*arguments, **named)

    monkeypatch.setattr(finetune, "denoising_loss", starts_another)
    train(flags(base, pictures, output, "--steps", 1))
    assert second
    train(flags(base, pictures, output, "--steps", 2, "--resume"))


@pytest.mark.parametrize(
    "file", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
             "unet/diffusion_pytorch_model.safetensors"]
)  # fmt: skip
def test_a_checkpoint_that_a_power_cut_zeroed_is_written_again(
    base, pictures, whole, tmp_path, file, capsys
):
    output = tmp_path / "run"
    train(flags(base, pictures, output, *SIX, "--steps", 2))
    damaged = output / file
    damaged.write_bytes(bytes(damaged.stat().st_size))
    train(flags(base, pictures, output, *SIX, "--resume"))
    assert f"{file} has changed" in capsys.readouterr().out
    for path in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (output / path).read_bytes() == (whole / path).read_bytes()
    assert_identical(output, whole)
    assert verify_checksums(output) == verify_checksums(whole)


def test_a_validation_that_runs_out_of_memory_does_not_end_the_run(
    base, pictures, tmp_path, monkeypatch, capsys
):
    def too_large(*arguments):
        raise too_little_memory() from torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "encode", too_large)
    output = tmp_path / "run"
    train(flags(base, pictures, output, "--steps", 2, "--val-every", 1))
    said = capsys.readouterr().out
    assert "step 1: no memory to validate" in said
    assert f"wrote {output}" in said
    assert json.loads((output / "recipe.json").read_text())["steps_done"] == 2  # the newest


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_validation_that_is_not_finite_does_not_end_the_run(
    base, pictures, tmp_path, monkeypatch, capsys, select
):
    """The weights of before stay published, and nothing says that a download was damaged."""
    output, calls = tmp_path / "run", []
    real = AutoencoderKL.decode

    def overflows(self, latents, *arguments, **named):
        calls.append(1)
        found = real(self, latents, *arguments, **named)
        return (found[0] * (torch.nan if len(calls) == 2 else 1),)

    monkeypatch.setattr(AutoencoderKL, "decode", overflows)
    more = ["--steps", 6, "--val-every", 2, "--save-every", 2, "--select", select]
    train(flags(base, pictures, output, *more))
    said = capsys.readouterr().out
    assert "is not finite: the run diverges; try a lower --learning-rate" in said
    assert f"step 4: {output} was not updated" in said
    assert "download" not in said
    assert f"wrote {output}" in said


def test_weights_that_are_not_finite_are_not_published(base, pictures, tmp_path, monkeypatch):
    output, last = tmp_path / "run", ["--select", "last"]
    train(flags(base, pictures, output, "--steps", 2, *last))
    before = weights(output)
    real = finetune.plain_weights

    def broken(state):
        found = real(state)
        found["conv_in.bias"][0] = torch.inf
        return found

    monkeypatch.setattr(finetune, "plain_weights", broken)
    with pytest.raises(MarigoldError, match="not finite.*state-00000004 is complete"):
        train(flags(base, pictures, output, "--steps", 4, "--resume", *last))
    assert all(torch.equal(before[name], weight) for name, weight in weights(output).items())


def test_a_disk_that_refuses_loses_nothing(base, pictures, whole, tmp_path, capfd):
    output = tmp_path / "run"
    train(flags(base, pictures, output, *SIX, "--steps", 2))
    before = weights(output)
    capfd.readouterr()
    with files_may_not_grow_beyond(50_000):
        with pytest.raises(MarigoldError, match="could not be written .*state-00000002 is comple"):
            train(flags(base, pictures, output, *SIX, "--resume", "--steps", 4))
    said = capfd.readouterr().out
    assert "wrote" not in said
    assert f"step 4: {output} was not updated" in said
    assert "step 4: no state was written" in said
    assert "state-00000002 is complete" in said
    after = weights(output)
    assert all(torch.equal(before[name], after[name]) for name in before)
    train(flags(base, pictures, output, *SIX, "--resume"))
    assert_identical(output, whole)


def test_a_cache_that_does_not_fit_stops_by_name_and_goes_on_later(base, pictures, tmp_path, capfd):
    output = tmp_path / "run"
    with files_may_not_grow_beyond(1000):
        with pytest.raises(MarigoldError, match="cannot be written .* --cache"):
            train(flags(base, pictures, output, "--steps", 1))
    train(flags(base, pictures, output, "--steps", 1))
    assert (output / "model_index.json").is_file()


def test_a_step_without_a_finite_loss_is_left_out(base, pictures, tmp_path, monkeypatch, capsys):
    real, calls = finetune.denoising_loss, []

    def sometimes(*arguments, **named):
        calls.append(1)
        loss = real(*arguments, **named)
        return loss * torch.nan if len(calls) in (4, 5) else loss

    monkeypatch.setattr(finetune, "denoising_loss", sometimes)
    train(flags(base, pictures, tmp_path / "run", "--steps", 4))
    said = capsys.readouterr().out
    assert "step 2 is left out" in said
    assert "step 3 is left out" in said
    assert "step 4" not in said.split("left out")[-1].split("its samples")[0]
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "run").values())


def test_a_run_without_a_finite_loss_stops_and_says_what_is_safe(
    base, pictures, tmp_path, monkeypatch
):
    real, calls = finetune.denoising_loss, []

    def then_never(*arguments, **named):
        calls.append(1)
        return real(*arguments, **named) * (torch.nan if len(calls) > 4 else 1)

    monkeypatch.setattr(finetune, "denoising_loss", then_never)
    with pytest.raises(MarigoldError, match="10 steps in a row.*state-00000002 is complete"):
        train(flags(base, pictures, tmp_path / "run", "--steps", 40, "--save-every", 2))
    state = load_file(tmp_path / "run" / "run" / "state-00000002" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in state.values())


@pytest.mark.parametrize("damaged", ["half", "bit", "zeros"])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "state.json"])
def test_a_damaged_state_is_named_and_the_one_before_serves(
    base, pictures, whole, tmp_path, file, damaged
):
    output = tmp_path / "run"
    train(flags(base, pictures, output, *SIX, "--steps", 4))
    state = output / "run" / "state-00000004"
    content = bytearray((state / file).read_bytes())
    middle = len(content) // 2
    if damaged == "half":
        content = content[:middle]
    elif damaged == "bit":
        content[middle] ^= 1
    else:
        content = bytearray(len(content))
    (state / file).write_bytes(content)
    again = flags(base, pictures, output, *SIX, "--resume")
    with pytest.raises(MarigoldError, match="state-00000004 cannot be read .*from state-00000002"):
        train(again)
    shutil.rmtree(state)
    train(again)
    assert_identical(output, whole)


def test_a_run_from_before_an_option_goes_on_with_its_default(base, pictures, tmp_path):
    output = tmp_path / "run"
    train(flags(base, pictures, output, "--steps", 1))
    file = checkpointing.states(output / "run")[-1] / "state.json"
    content = json.loads(file.read_text())
    del content["recipe"]["dropout"]
    file.write_text(json.dumps(content))
    (file.parent / "SHA256SUMS").unlink()  # which states of then have not, either
    with pytest.raises(MarigoldError, match="dropout was 0.0, now 0.2"):
        train(flags(base, pictures, output, "--steps", 2, "--resume", "--dropout", 0.2))
    train(flags(base, pictures, output, "--steps", 2, "--resume"))
    assert checkpointing.states(output / "run")[-1].name == "state-00000002"
