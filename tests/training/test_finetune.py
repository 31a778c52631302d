"""A training run on a tiny network: what it writes, how it resumes, and what it survives."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_runs import assert_identical, build_base, build_pictures, flags, weights

pytest.importorskip("accelerate", reason="training needs the extra [train]")
resource = pytest.importorskip("resource", reason="the full disk is played with POSIX limits")
import checkpointing  # noqa: E402
import finetune  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from checkpoint_builders import build_checkpoint  # noqa: E402
from diffusers import AutoencoderKL  # noqa: E402
from filelock import FileLock, Timeout  # noqa: E402
from run_setup import output_folder  # noqa: E402

from marigold_core import Marigold, engine  # noqa: E402
from marigold_core.checkpoints.checksums import verify_checksums  # noqa: E402
from marigold_core.errors import MarigoldError  # noqa: E402
from marigold_core.memory import too_little_memory  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return build_pictures(tmp_path_factory.mktemp("data") / "pictures")


def train(arguments: list[str]) -> None:
    """As a program of its own would: accelerate keeps its state in the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums come out otherwise with another number
    try:
        finetune.main(arguments)
    finally:
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(scope="module")
def whole(base, pictures, tmp_path_factory):
    """A run that nothing stopped: 6 steps, a state and a validation every 2."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(flags(base, pictures, output, *SIX))
    return output


SIX = "--steps 6 --save-every 2 --val-every 2 --select last --ema 0.9 --dropout 0.1".split()


class Killed(BaseException):
    """No `except Exception` and no clean-up sees it, as none sees a kill."""


def test_a_run_writes_a_checkpoint_that_opens_everywhere(whole):
    from diffusers import MarigoldDepthPipeline

    assert {p.name for p in whole.iterdir()} == {
        "README.md", "SHA256SUMS", "model_index.json", "recipe.json", "run",
        "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    }  # fmt: skip
    assert not list(whole.glob("*/*.bin"))
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = Marigold.from_pretrained(whole, device="cpu")(
        picture, num_inference_steps=2, processing_resolution=64, latents=noise
    )
    pipeline = MarigoldDepthPipeline.from_pretrained(whole)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(picture, num_inference_steps=2, processing_resolution=64, latents=noise)
    np.testing.assert_allclose(ours.depth, theirs.prediction[0, ..., 0], atol=1e-4)
    assert json.loads((whole / "model_index.json").read_text())["default_denoising_steps"] == 4


def test_only_the_unet_changes(base, whole):
    vae = "vae/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / vae), load_file(whole / vae)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert weights(whole)["conv_in.weight"].shape[1] == 8


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


def test_dropout_is_for_training_alone(base, pictures, whole, tmp_path):
    output = tmp_path / "run"
    train(flags(base, pictures, output, *SIX, "--dropout", 0))
    without, ours = weights(output), weights(whole)
    assert not torch.equal(without["conv_in.weight"], ours["conv_in.weight"])
    config = json.loads((whole / "unet" / "config.json").read_text())
    assert config["dropout"] == json.loads((output / "unet" / "config.json").read_text())["dropout"]
    assert config["dropout"] == 0


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


def test_a_base_that_predicts_noise_is_said_to_learn_velocity(base, pictures, tmp_path, capsys):
    other = tmp_path / "base"
    shutil.copytree(base, other)
    config = other / "scheduler" / "scheduler_config.json"
    stored = json.loads(config.read_text()) | {"prediction_type": "epsilon"}
    stored["rescale_betas_zero_snr"] = False
    config.write_text(json.dumps(stored))
    train(flags(other, pictures, tmp_path / "run", "--steps", 1))
    assert "predicts epsilon; this run trains it to predict v_prediction" in capsys.readouterr().out
    train(flags(base, pictures, tmp_path / "plain", "--steps", 1))
    assert "this run trains it to predict" not in capsys.readouterr().out


def test_a_base_for_normals_is_said_to_learn_depth(pictures, tmp_path, capsys):
    normals = build_checkpoint(tmp_path / "base", "normals-v1-1")
    train(flags(normals, pictures, tmp_path / "run", "--steps", 1, "--target", "depth"))
    assert "estimates normals; this run trains it to estimate depth" in capsys.readouterr().out
    assert Marigold.from_pretrained(tmp_path / "run", device="cpu").target.name == "depth"


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


def test_samples_that_teach_nothing_are_named_and_left_out(base, pictures, tmp_path, capsys):
    broken = tmp_path / "pictures"
    shutil.copytree(pictures, broken)
    (broken / "images" / "00.png").write_bytes(b"\x89PNG and then nothing")
    np.save(broken / "depth" / "01.npy", np.full((64, 64), 2, np.float32))
    np.save(broken / "depth" / "02.npy", np.full((64, 64), np.nan, np.float32))
    thin = np.zeros((64, 64), np.float32)
    thin[::4] = np.linspace(1, 5, 64)
    np.save(broken / "depth" / "03.npy", thin)
    train(flags(base, broken, tmp_path / "run", "--steps", 2))
    said = capsys.readouterr().out
    assert "4 of 6 samples are left out" in said
    for words in ("00.png", "01: the depth is constant", "02: no pixel", "03: no 8 x 8 block"):
        assert words in said
    assert "2 samples" in (tmp_path / "run" / "README.md").read_text()


def test_all_samples_broken_is_an_error(base, tmp_path):
    flat = build_pictures(tmp_path / "flat", 2)
    for file in (flat / "depth").iterdir():
        np.save(file, np.ones((64, 64), np.float32))
    with pytest.raises(MarigoldError, match="has no usable sample; the first: .*constant"):
        train(flags(base, flat, tmp_path / "run", "--steps", 1))


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


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("---\nlicense: openrail++\n---\n", ("license: openrail++", "pass on the restrictions",
                                             "LICENSE-MODEL.txt")),
        ("---\nlicense: apache-2.0\n---\n", ("license: apache-2.0", "as the base's")),
        (None, ("license: other", "does not say", "attachment A")),
    ],
)  # fmt: skip
def test_the_bases_licence_is_handed_on(base, pictures, tmp_path, card, words):
    licensed, output = tmp_path / "base", tmp_path / "run"
    shutil.copytree(base, licensed)
    (licensed / "LICENSE-MODEL.txt").write_text("the licence")
    if card:
        (licensed / "README.md").write_text(card)
    train(flags(licensed, pictures, output, "--steps", 1))
    written = (output / "README.md").read_text()
    assert all(word in written for word in words)
    assert (output / "LICENSE-MODEL.txt").read_text() == "the licence"


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


def test_what_must_not_be_mixed_up_is_refused(base, pictures, whole, tmp_path):
    for change, words in (
        ([], "holds a run at step 6; add --resume"),
        (["--resume", "--seed", 1], "seed was 2024, now 1"),
    ):
        with pytest.raises(MarigoldError, match=words):
            train(flags(base, pictures, whole, *SIX, *change))
    with pytest.raises(MarigoldError, match="is the base itself"):
        train(flags(base, pictures, base))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(MarigoldError, match="not empty and holds no run"):
        train(flags(base, pictures, tmp_path))
    with pytest.raises(MarigoldError, match="not a multiple"):
        train(flags(base, pictures, tmp_path / "run", "--micro-batch", 3))


def test_the_best_checkpoint_by_abs_rel_is_what_stays(base, pictures, tmp_path, monkeypatch):
    errors = iter([0.5, 0.2, 0.4])
    real = finetune.validate

    def validate(*arguments):
        found = real(*arguments)
        scores = {
            data: {**values, "AbsRel": next(errors)} for data, values in found.metrics.items()
        }
        return found._replace(metrics=scores)

    monkeypatch.setattr(finetune, "validate", validate)
    output = tmp_path / "run"
    train(flags(base, pictures, output, "--steps", 6, "--val-every", 2))
    recipe = json.loads((output / "recipe.json").read_text())
    assert recipe["steps_done"] == 4
    assert "0.2000" in (output / "README.md").read_text()


def test_one_batch_can_be_learnt_by_heart(base, pictures, tmp_path, capsys):
    output = tmp_path / "run"
    more = ["--overfit-one-batch", "--steps", 40, "--decay-steps", 400, "--terminal-share", 1]
    train(flags(base, pictures, output, *more))
    said = capsys.readouterr().out
    first, last = said.split("the loss went from ")[1].split("\n")[0].split(" to ")
    assert float(last) < 0.5 * float(first)


def test_end_to_end_makes_a_checkpoint_of_one_deterministic_step(base, pictures, tmp_path):
    from diffusers import MarigoldDepthPipeline

    output = tmp_path / "run"
    train(flags(base, pictures, output, "--objective", "e2e", "--no-zero-snr", "--steps", 3))
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    marigold = Marigold.from_pretrained(output, device="cpu")
    assert (marigold.family, marigold.num_inference_steps) == ("e2e", 1)
    ours = [
        marigold(picture, generator=torch.Generator().manual_seed(s), processing_resolution=0).depth
        for s in (0, 1)
    ]
    assert (ours[0] == ours[1]).all()
    pipeline = MarigoldDepthPipeline.from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    zeros = torch.zeros(1, 4, 8, 8)
    theirs = pipeline(picture, latents=zeros, num_inference_steps=1, processing_resolution=0)
    np.testing.assert_allclose(ours[0], theirs.prediction[0, ..., 0], atol=1e-4)


def test_low_rank_runs_resume_and_open_as_plain_checkpoints(base, pictures, tmp_path):
    pytest.importorskip("peft")
    lora = ["--lora-rank", 4, "--save-every", 2, "--val-every", 2, "--select", "last"]
    train(flags(base, pictures, tmp_path / "whole", *lora, "--steps", 4))
    train(flags(base, pictures, tmp_path / "halves", *lora, "--steps", 2))
    train(flags(base, pictures, tmp_path / "halves", *lora, "--steps", 4, "--resume"))
    assert_identical(tmp_path / "whole", tmp_path / "halves")
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    after = weights(tmp_path / "whole")
    assert after.keys() == before.keys()
    changed = {n for n in after if n != "conv_in.weight" and not torch.equal(after[n], before[n])}
    assert any("to_q" in name for name in changed)
    assert not any("resnets" in name for name in changed)
    Marigold.from_pretrained(tmp_path / "whole", device="cpu")


def test_a_marigold_is_continued_from_its_eight_channels(pictures, tmp_path):
    base = build_base(tmp_path / "marigold", in_channels=8)
    before = weights(base)
    # The first step has a learning rate of 0, as the released schedule has.
    train(flags(base, pictures, tmp_path / "run", "--steps", 1))
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_base_with_other_channels_is_refused(pictures, tmp_path):
    base = build_base(tmp_path / "iid", in_channels=12)
    with pytest.raises(MarigoldError, match="has 12 input and 4 output channels"):
        train(flags(base, pictures, tmp_path / "run"))


def test_a_base_with_a_tiny_vae_is_refused(base, pictures, tmp_path):
    from diffusers import AutoencoderTiny

    tiny = tmp_path / "tiny"
    shutil.copytree(base, tiny)
    shutil.rmtree(tiny / "vae")
    widths = {
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
    }
    AutoencoderTiny(**widths).save_pretrained(tiny / "vae")
    with pytest.raises(MarigoldError, match="AutoencoderTiny.*AutoencoderKL itself"):
        train(flags(tiny, pictures, tmp_path / "run"))


def test_half_precision_and_gradient_checkpointing_train(base, pictures, tmp_path):
    more = ["--mixed-precision", "bf16", "--gradient-checkpointing", "--optimizer", "adamw"]
    train(flags(base, pictures, tmp_path / "run", "--steps", 2, *more))
    assert weights(tmp_path / "run")["conv_in.weight"].dtype == torch.float32


def test_what_is_not_installed_is_named(base, pictures, tmp_path):
    try:
        import bitsandbytes  # noqa: F401

        pytest.skip("bitsandbytes is installed")
    except ImportError:
        pass
    with pytest.raises(MarigoldError, match="pip install bitsandbytes"):
        train(flags(base, pictures, tmp_path / "run", "--optimizer", "adam8bit"))


def test_curves_and_pictures_are_logged(base, pictures, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    more = ["--steps", 2, "--val-every", 2, "--tensorboard", "--val-data", f"folder:{pictures}"]
    train(flags(base, pictures, tmp_path / "run", *more))
    log = events.EventAccumulator(str(tmp_path / "run" / "run" / "logs"))
    log.Reload()
    assert [e.step for e in log.Scalars("train/loss")] == [1, 2]
    assert [e.value for e in log.Scalars("train/learning_rate")] == pytest.approx([0, 1e-2])
    assert any(tag.endswith("AbsRel") for tag in log.Tags()["scalars"])
    image = log.Images(log.Tags()["images"][0])[0]
    assert (image.width, image.height) == (4 * 64, 64)  # input, truth, prediction, error


def test_the_data_check_draws_what_it_finds(base, pictures, tmp_path, capsys):
    from PIL import Image

    broken = tmp_path / "pictures"
    shutil.copytree(pictures, broken)
    np.save(broken / "depth" / "01.npy", np.full((64, 64), 2, np.float32))
    (broken / "images" / "02.png").write_bytes(b"nothing")
    train(flags(base, broken, tmp_path / "run", "--check-data"))
    said = capsys.readouterr().out
    assert "cannot be used: 01: the depth is constant" in said
    assert "02.png" in said
    assert not (tmp_path / "run").exists()
    sheet = Image.open(tmp_path / "run.data.png")
    assert sheet.width == 4 * 240
    assert sheet.height % 196 == 0
