"""Normals and intrinsic images: what their runs learn from, write, and how they are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_builders import APPEARANCE, LIGHTING, TEXT_WIDTH, build_checkpoint, tiny_unet
from data.registry import open_dataset
from training_runs import (
    assert_identical,
    build_mapped,
    build_pictures,
    flags,
    train,
    weights,
)

pytest.importorskip("accelerate", reason="training needs the extra [train]")
import finetune  # noqa: E402
from base_model import widen_conv_in, widen_conv_out  # noqa: E402
from objective import angular_error  # noqa: E402
from recipe import read_recipe  # noqa: E402
from targets import TARGETS, brightest, target_of_base  # noqa: E402

from marigold_core import IntrinsicImages, Marigold, NormalMap  # noqa: E402
from marigold_core.errors import MarigoldError  # noqa: E402

NAMES = ("normals", "appearance", "lighting")
PIPELINES = {
    "normals": "MarigoldNormalsPipeline", "appearance": "MarigoldIntrinsicsPipeline",
    "lighting": "MarigoldIntrinsicsPipeline",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return build_mapped(tmp_path_factory.mktemp("data") / "balls")


def sample_of(pictures: Path, target: str, index: int = 0) -> Any:
    return open_dataset(f"folder:{pictures}", "all", maps=TARGETS[target].maps)[index]


@pytest.mark.parametrize("target", NAMES)
def test_a_run_writes_a_checkpoint_that_opens_everywhere(base, pictures, tmp_path, target):
    import diffusers

    output = tmp_path / "run"
    train(flags(base, pictures, output, "--target", target, "--steps", 2, "--variants", 1))
    marigold = Marigold.from_pretrained(output, device="cpu")
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    latents = TARGETS[target].latents
    noise = torch.randn(1, 4 * latents, 8, 8, generator=torch.Generator().manual_seed(0))
    how = {"num_inference_steps": 2, "processing_resolution": 64}
    ours: Any = marigold(picture, **how, latents=noise)
    pipeline = getattr(diffusers, PIPELINES[target]).from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(picture, **how, latents=noise).prediction
    if target == "normals":
        assert isinstance(ours, NormalMap)
        np.testing.assert_allclose(ours.normals, theirs[0], atol=1e-3)
    else:
        assert isinstance(ours, IntrinsicImages)
        properties = APPEARANCE if target == "appearance" else LIGHTING
        assert ours.up_to_scale == ({"shading", "residual"} if target == "lighting" else set())
        for latent, name in enumerate(properties["target_names"]):
            if name == "material":
                for channel, part in enumerate(("roughness", "metallicity")):
                    found = theirs[latent][..., channel]
                    np.testing.assert_allclose(ours.maps[part], found, atol=1e-4)
            else:
                np.testing.assert_allclose(ours.maps[name], theirs[latent], atol=1e-4)
    index = json.loads((output / "model_index.json").read_text())
    assert index["_class_name"] == PIPELINES[target]
    card = (output / "README.md").read_text()
    assert PIPELINES[target] in card and f"- {target}\n" in card and "depth" not in card.lower()


@pytest.mark.parametrize("target", ["normals"])
def test_a_run_that_is_stopped_and_resumed_ends_bit_identical(base, pictures, tmp_path, target):
    more = ["--target", target, "--save-every", 2, "--val-every", 2, "--select", "last"]
    train(flags(base, pictures, tmp_path / "whole", *more, "--steps", 4))
    train(flags(base, pictures, tmp_path / "halves", *more, "--steps", 2))
    train(flags(base, pictures, tmp_path / "halves", *more, "--steps", 4, "--resume"))
    assert_identical(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("target", ["lighting"])
def test_one_batch_can_be_learnt_by_heart(base, pictures, tmp_path, capsys, target):
    more = ["--overfit-one-batch", "--steps", 40, "--decay-steps", 400, "--terminal-share", 1]
    train(flags(base, pictures, tmp_path / "run", "--target", target, *more))
    said = capsys.readouterr().out
    first, last = said.split("the loss went from ")[1].split("\n")[0].split(" to ")
    assert float(last) < 0.6 * float(first)


def test_end_to_end_normals_are_one_deterministic_step_with_a_falling_angle(
    base, pictures, tmp_path, capsys
):
    output = tmp_path / "run"
    more = ["--target", "normals", "--objective", "e2e", "--no-zero-snr", "--variants", 1]
    more += ["--overfit-one-batch", "--steps", 30, "--decay-steps", 400]
    train(flags(base, pictures, output, *more))
    said = capsys.readouterr().out
    first, last = said.split("the loss went from ")[1].split("\n")[0].split(" to ")
    assert float(last) < 0.8 * float(first)
    marigold = Marigold.from_pretrained(output, device="cpu")
    assert (marigold.family, marigold.target.name) == ("e2e", "normals")
    with pytest.raises(MarigoldError, match="e2e has no recipe for --target lighting"):
        train(flags(base, pictures, tmp_path / "no", "--target", "lighting", "--objective", "e2e"))


def test_the_target_is_the_bases_where_it_has_one(pictures, tmp_path, capsys):
    for family, target in (
        ("normals-v1-1", "normals"), ("iid-appearance", "appearance"), ("iid-lighting", "lighting"),
        ("v1-1", "depth"), ("normals-e2e", "normals"),
    ):  # fmt: skip
        folder = build_checkpoint(tmp_path / family, family)
        assert target_of_base(str(folder)) == target
    normals = tmp_path / "normals-v1-1"
    before = weights(normals)
    train(flags(normals, pictures, tmp_path / "run", "--steps", 1))
    assert "this run trains it to estimate" not in capsys.readouterr().out
    after = weights(tmp_path / "run")
    # The first step has a learning rate of 0, as the released schedule has.
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(MarigoldError, match="has 16 input and 12 output .* or 12 and 8"):
        lighting = tmp_path / "iid-lighting"
        train(flags(lighting, pictures, tmp_path / "no", "--target", "appearance"))


def test_a_run_from_before_there_were_targets_continues_with_depth(base, tmp_path):
    pictures, output = build_pictures(tmp_path / "pictures", 4), tmp_path / "run"
    train(flags(base, pictures, output, "--steps", 1))
    file = next((output / "run").glob("state-*")) / "state.json"
    content = json.loads(file.read_text())
    del content["recipe"]["target"]
    file.write_text(json.dumps(content))
    (file.parent / "SHA256SUMS").unlink()
    train(flags(base, pictures, output, "--steps", 2, "--resume"))


@pytest.mark.parametrize("latents", [1, 2, 3])
def test_a_widened_base_gives_each_target_what_it_gave_for_copies_of_one_latent(latents):
    torch.manual_seed(0)
    unet = tiny_unet(in_channels=4).eval()
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, 2, TEXT_WIDTH)
    t = torch.tensor([3, 700])
    with torch.no_grad():
        expected = unet(latent, t, text).sample
        widen_conv_out(widen_conv_in(unet, latents), latents)
        found = unet(torch.cat([latent] * (latents + 1), 1), t, text).sample
    assert (unet.config.in_channels, unet.config.out_channels) == (4 * (latents + 1), 4 * latents)
    torch.testing.assert_close(found, torch.cat([expected] * latents, 1), rtol=0, atol=1e-5)


def test_a_widened_marigold_keeps_what_it_sees_of_the_picture():
    torch.manual_seed(0)
    unet = tiny_unet().eval()
    image, target, text = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 2, 32)
    with torch.no_grad():
        expected = unet(torch.cat([image, target], 1), 500, text).sample
        widen_conv_out(widen_conv_in(unet, 3), 3)
        found = unet(torch.cat([image] + [target] * 3, 1), 500, text).sample
    torch.testing.assert_close(found, torch.cat([expected] * 3, 1), rtol=0, atol=1e-5)


def test_mirrored_normals_are_those_of_the_mirrored_scene(pictures):
    """Of a ball that is mirrored with its picture: they point away from its centre again."""
    target, sample = TARGETS["normals"], sample_of(pictures, "normals")
    mirrored = target.mirrored(target.pictures(sample, "ignore"))[0]
    ball = mirrored[2] < 0.95
    columns = torch.arange(64).expand(64, 64)[ball].float()
    x = mirrored[0][ball]
    assert float(torch.corrcoef(torch.stack([columns, x]))[0, 1]) > 0.9
    assert torch.equal(TARGETS["lighting"].mirrored(mirrored[None])[0], mirrored.flip(-1))


@pytest.mark.parametrize("target", NAMES)
def test_what_is_encoded_decodes_to_the_truth(pictures, target):
    """The engine's own decoding of the training pictures, and a perfect score for it."""
    sample = sample_of(pictures, target)
    truth = TARGETS[target].truth(sample)
    if target == "normals":
        close = {"atol": 1e-5}
        np.testing.assert_allclose(
            truth.normals, sample.maps["normals"].permute(1, 2, 0).numpy(), **close
        )
        assert TARGETS[target].measure(truth, sample)["mean angle"] < 0.1
        return
    assert all(value > 60 for value in TARGETS[target].measure(truth, sample).values())
    for name, values in truth.maps.items():
        stored = sample.maps["base_colour" if name == "albedo" and target == "appearance" else name]
        stored = stored.permute(1, 2, 0).numpy()
        if target == "appearance" and name == "albedo":
            stored = stored ** (1 / 2.2)
        if name in truth.up_to_scale:
            stored = (stored / brightest(sample)).clip(0, 1)
        np.testing.assert_allclose(values.reshape(stored.shape), stored, atol=1e-5)


def test_light_keeps_its_proportions(pictures):
    """albedo * shading + residual is the picture, up to one factor."""
    sample = sample_of(pictures, "lighting")
    truth = TARGETS["lighting"].truth(sample).maps
    picture = truth["albedo"] * truth["shading"] + truth["residual"]
    maps = {k: v.permute(1, 2, 0).numpy() for k, v in sample.maps.items()}
    whole = maps["albedo"] * maps["shading"] + maps["residual"]
    uncut = (truth["shading"] < 0.99) & (truth["residual"] < 0.99)
    factor = (whole / picture)[uncut]
    np.testing.assert_allclose(factor, factor.mean(), rtol=1e-4)


def test_the_angular_error_is_the_mean_angle_and_can_be_descended():
    decoded = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    truth = torch.nn.functional.normalize(torch.randn(2, 3, 8, 8), dim=1)
    valid = torch.rand(2, 8, 8) > 0.3
    cut = decoded.clamp(-1, 1).requires_grad_()
    unit = torch.nn.functional.normalize(cut.detach().double(), dim=1)
    expected = torch.acos((unit * truth).sum(1))[valid].mean()
    found = angular_error(cut, truth, valid)
    assert found.item() == pytest.approx(float(expected), abs=1e-4)
    found.backward()
    assert torch.isfinite(cut.grad).all() and not cut.grad[:, :, ~valid[0]][0].any()
    same = truth.clone().requires_grad_()
    angular_error(same, truth, valid).backward()
    assert torch.isfinite(same.grad).all()


def test_the_recipes_are_the_released_ones():
    """The authors' train_marigold_normals, _iid_appearance and _iid_lighting.yaml."""
    for target, rate, steps, decay in (
        ("depth", 3e-5, 30000, 25000), ("normals", 6e-5, 30000, 25000),
        ("appearance", 3e-5, 50000, 25000), ("lighting", 8e-5, 50000, 45000),
    ):  # fmt: skip
        recipe = read_recipe(None, ["--base", "b", "--output", "o", "--target", target])
        assert (recipe.learning_rate, recipe.steps, recipe.decay_steps) == (rate, steps, decay)
    mixed = ["--data", "hypersim:a", "folder:b", "folder:c", "--target", "normals"]
    recipe = read_recipe(None, ["--base", "b", "--output", "o", *mixed])
    assert (recipe.weights, recipe.variants) == ([0.5, 0.49, 0.01], [2, 2, 2])
    for option in (["--farthest", "80"], ["--invalid", "far"]):
        with pytest.raises(MarigoldError, match="is of depth; leave it out for normals"):
            read_recipe(None, ["--base", "b", "--output", "o", "--target", "normals", *option])


@pytest.mark.parametrize(
    ("target", "scores", "kept"),
    [("normals", (50.0, 20.0, 40.0), 4), ("appearance", (10.0, 12.0, 11.0), 4)],
)
def test_the_best_checkpoint_by_the_targets_measure_is_what_stays(
    base, pictures, tmp_path, monkeypatch, target, scores, kept
):
    values, real = iter(scores), finetune.validate

    def validate(*arguments):
        found = real(*arguments)
        first = next(iter(next(iter(found.metrics.values()))))
        metrics = {data: {**old, first: next(values)} for data, old in found.metrics.items()}
        return found._replace(metrics=metrics)

    monkeypatch.setattr(finetune, "validate", validate)
    output = tmp_path / "run"
    train(flags(base, pictures, output, "--target", target, "--steps", 6, "--val-every", 2))
    assert json.loads((output / "recipe.json").read_text())["steps_done"] == kept


def test_samples_that_teach_nothing_are_named_and_left_out(base, tmp_path, capsys):
    pictures = build_mapped(tmp_path / "balls", 4)
    for kind in ("shading", "residual"):
        np.save(pictures / kind / "01.npy", np.zeros((64, 64, 3), np.float32))
    np.save(pictures / "albedo" / "02.npy", np.full((64, 64, 3), np.nan, np.float32))
    train(flags(base, pictures, tmp_path / "run", "--target", "lighting", "--steps", 1))
    said = capsys.readouterr().out
    assert "2 of 4 samples are left out" in said
    assert "01: there is no light" in said
    assert "02: no pixel has a valid albedo and shading and residual" in said


@pytest.mark.parametrize("target", NAMES)
def test_the_data_check_draws_what_is_encoded(base, pictures, tmp_path, target):
    from PIL import Image

    train(flags(base, pictures, tmp_path / "run", "--check-data", "--target", target))
    sheet = Image.open(tmp_path / "run.data.png")
    assert sheet.size == ((2 + TARGETS[target].latents) * 240, 6 * 196)


def test_low_rank_runs_of_several_targets_train_both_ends(base, pictures, tmp_path):
    pytest.importorskip("peft")
    more = ["--target", "appearance", "--lora-rank", 2, "--steps", 3, "--select", "last"]
    train(flags(base, pictures, tmp_path / "run", *more))
    after, before = weights(tmp_path / "run"), weights(base)
    assert not torch.equal(after["conv_out.weight"][:4], before["conv_out.weight"])
    Marigold.from_pretrained(tmp_path / "run", device="cpu")
