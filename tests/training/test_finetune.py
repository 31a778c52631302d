"""A training run on a tiny network: what it writes and what it learns."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import SIX, assert_identical, build_base, build_pictures, flags, train, weights

pytest.importorskip("accelerate", reason="training needs the extra [train]")
import finetune  # noqa: E402
from checkpoint_builders import build_checkpoint  # noqa: E402

from marigold_core import Marigold  # noqa: E402
from marigold_core.errors import MarigoldError  # noqa: E402


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


def test_dropout_is_for_training_alone(base, pictures, whole, tmp_path):
    output = tmp_path / "run"
    train(flags(base, pictures, output, *SIX, "--dropout", 0))
    without, ours = weights(output), weights(whole)
    assert not torch.equal(without["conv_in.weight"], ours["conv_in.weight"])
    config = json.loads((whole / "unet" / "config.json").read_text())
    assert config["dropout"] == json.loads((output / "unet" / "config.json").read_text())["dropout"]
    assert config["dropout"] == 0


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
