"""evaluate.py: the engine's own numbers; a stopped run resumes; one bad file is only named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from checkpoint_builders import build_checkpoint
from data.registry import open_dataset
from data_builders import grey_16, picture, rendered_folder
from evaluate import arguments, planned_cases
from metrics import score
from predictions import Predictor, Setting, fingerprint

from marigold_core import Marigold, MarigoldError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", "v1-1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rendered_folder(tmp_path_factory.mktemp("pictures"), 4, 40, 48)


def run(checkpoint, folder, output, *arguments: str) -> dict:
    evaluate.main(
        [str(checkpoint), "--data", f"folder:{folder}", "--output", str(output),
         "--processing-resolution", "48", *arguments]
    )  # fmt: skip
    name = next(iter(sorted(output.glob("*.json"))))
    return json.loads(name.read_text())["data"][0]


def by_method(data: dict) -> dict[str, dict]:
    return {result["method"]: result for result in data["results"]}


@pytest.fixture
def predicted(monkeypatch):
    """The ensemble sizes that the engine was asked for, one entry a call."""
    calls: list[int] = []
    original = Marigold.predict

    def counted(self, *args, **keywords):
        calls.append(keywords["ensemble_size"])
        return original(self, *args, **keywords)

    monkeypatch.setattr(Marigold, "predict", counted)
    return calls


def test_one_step_and_one_member_are_the_engines_own(checkpoint, folder, tmp_path):
    found = by_method(run(checkpoint, folder, tmp_path, "--settings", "1x1", "2x1"))
    marigold = Marigold.from_pretrained(checkpoint, device="cpu")
    dataset = open_dataset(f"folder:{folder}", "all")
    for steps in (1, 2):
        expected = []
        for i in range(len(dataset)):
            sample = dataset[i]
            depth = marigold(
                sample.image.permute(1, 2, 0).numpy(),
                num_inference_steps=steps,
                ensemble_size=1,
                processing_resolution=48,
                generator=torch.Generator().manual_seed(1234),
            ).depth
            expected.append(score(depth, sample.depth.numpy(), sample.valid.numpy()).abs_rel)
        mean = found[f"{steps} steps x 1"]["mean"]["abs_rel"]
        assert mean == pytest.approx(np.mean(expected), rel=1e-6)
    assert {"constant", "ramp"} <= found.keys()
    assert found["constant"]["mean"]["boundary_f1"] in (0, None)


def test_leading_timesteps_are_the_engines_own(checkpoint, folder, tmp_path):
    """Marigold v1-0's published rows are of leading timesteps."""
    found = by_method(run(checkpoint, folder, tmp_path, "--settings", "2x1",
                          "--timestep-spacing", "leading"))  # fmt: skip
    trailing = by_method(run(checkpoint, folder, tmp_path, "--settings", "2x1"))
    marigold = Marigold.from_pretrained(checkpoint, device="cpu")
    dataset = open_dataset(f"folder:{folder}", "all")
    expected = []
    for sample in (dataset[i] for i in range(len(dataset))):
        depth = marigold(
            sample.image.permute(1, 2, 0).numpy(),
            num_inference_steps=2,
            processing_resolution=48,
            timestep_spacing="leading",
            generator=torch.Generator().manual_seed(1234),
        ).depth
        expected.append(score(depth, sample.depth.numpy(), sample.valid.numpy()).abs_rel)
    mean = found["2 steps x 1, leading"]["mean"]["abs_rel"]
    assert mean == pytest.approx(np.mean(expected), rel=1e-6)
    assert mean != pytest.approx(trailing["2 steps x 1"]["mean"]["abs_rel"], rel=1e-6)


def test_a_checkpoint_for_something_else_is_refused(folder, tmp_path):
    normals = build_checkpoint(tmp_path / "normals", "normals-v1-1")
    with pytest.raises(SystemExit, match="estimates normals, and a checkpoint for depth is needed"):
        run(normals, folder, tmp_path / "out", "--target", "depth")


def test_the_ceiling_is_the_true_depth_through_the_vae(tmp_path):
    evaluate.main(["nano", "--data", "procedural:3", "--settings", "1x1", "--ceiling",
                   "--processing-resolution", "0", "--output", str(tmp_path)])  # fmt: skip
    found = by_method(json.loads((tmp_path / "results.json").read_text())["data"][0])
    vae = Marigold.from_pretrained("nano", device="cpu").vae
    dataset = open_dataset("procedural:3", "test")
    expected = []
    for sample in (dataset[i] for i in range(len(dataset))):
        low, high = torch.quantile(sample.depth[sample.valid], torch.tensor([0.02, 0.98]))
        target = ((sample.depth - low) / (high - low)).clamp(0, 1).where(sample.valid, 1.0)
        with torch.no_grad():
            latent = vae.encode((target * 2 - 1).repeat(1, 3, 1, 1)).latents
            decoded = vae.decode(latent).sample[0].mean(0).clamp(-1, 1)
        expected.append(score(decoded.numpy(), sample.depth.numpy(), sample.valid.numpy()).abs_rel)
    ceiling = found["truth through the VAE"]
    assert ceiling["mean"]["abs_rel"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert ceiling["mean"]["abs_rel"] < found["1 steps x 1"]["mean"]["abs_rel"] / 2
    assert ceiling["checkpoint"] == "nano"


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_table(
    checkpoint, folder, tmp_path, monkeypatch, capsys
):
    settings = ["--settings", "1x1", "1x3", "2x2"]
    whole = run(checkpoint, folder, tmp_path / "whole", *settings)
    table = capsys.readouterr().out
    calls = []
    original = Marigold.predict

    def killed_at_the_fourth(self, *args, **keywords):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Marigold, "predict", killed_at_the_fourth)
        with pytest.raises(SystemExit, match="continues"):
            run(checkpoint, folder, tmp_path / "stopped", *settings)
    assert not list((tmp_path / "stopped").glob("*.json"))
    capsys.readouterr()

    def counted(self, *args, **keywords):
        calls.append(1)
        return original(self, *args, **keywords)

    monkeypatch.setattr(Marigold, "predict", counted)
    calls.clear()
    assert run(checkpoint, folder, tmp_path / "stopped", *settings) == whole
    assert capsys.readouterr().out == table
    # Four pictures, a prediction for one step (1x1 and 1x3 together) and one for two: 8, 3 done.
    assert len(calls) == 5


def test_everything_done_is_read_and_a_broken_prediction_made_anew(
    checkpoint, folder, tmp_path, predicted
):
    first = run(checkpoint, folder, tmp_path, "--settings", "1x2")
    assert predicted == [2] * 4
    assert run(checkpoint, folder, tmp_path, "--settings", "1x2") == first
    assert len(predicted) == 4
    files = sorted((tmp_path / "predictions").rglob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    assert run(checkpoint, folder, tmp_path, "--settings", "1x2") == first
    assert len(predicted) == 6


def test_a_checkpoint_trained_on_under_the_same_name_is_a_new_one(checkpoint):
    marigold = Marigold.from_pretrained(checkpoint, device="cpu")
    before = fingerprint(marigold)
    assert fingerprint(Marigold.from_pretrained(checkpoint, device="cpu")) == before
    with torch.no_grad():
        marigold.unet.conv_out.bias[0] += 1e-6
    assert fingerprint(marigold) != before


def test_a_changed_picture_is_a_new_one(checkpoint, tmp_path, predicted):
    predictor = Predictor(Marigold.from_pretrained(checkpoint, device="cpu"), tmp_path, 48)
    image = np.random.default_rng(0).random((40, 48, 3)).astype(np.float32)
    first = predictor.results(image, [Setting(1, 1)])[0].depth
    image[0, 0, 0] = 1 - image[0, 0, 0]
    second = predictor.results(image, [Setting(1, 1)])[0].depth
    assert len(predicted) == 2
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("size", [(40, 48), (24, 40)])
def test_small_ensembles_are_the_beginning_of_large_ones(checkpoint, size):
    predictor = Predictor(Marigold.from_pretrained(checkpoint, device="cpu"), None, 48)
    image = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    together = [r.depth for r in predictor.results(image, [Setting(1, n) for n in (1, 2, 5)])]
    for n, depth in zip((1, 2, 5), together, strict=True):
        alone = predictor.results(image, [Setting(1, n)])[0].depth
        np.testing.assert_allclose(depth, alone, atol=1e-4)


def test_a_bad_file_is_named_and_the_rest_measured(checkpoint, tmp_path, capsys):
    rendered_folder(tmp_path / "data", 3, 40, 48)
    torn = tmp_path / "data/depth/000001.exr"
    torn.write_bytes(torn.read_bytes()[:200])
    (tmp_path / "data/images/000002.png").unlink()
    data = run(checkpoint, tmp_path / "data", tmp_path / "out", "--settings", "1x1")
    assert data["pictures"] == 1
    assert {*data["failed"]} == {"images/000001.png", "images/000002.png"}
    assert "000001.exr" in data["failed"]["images/000001.png"]
    assert "2 left out" in capsys.readouterr().out


def test_a_set_with_nothing_to_measure_is_an_error(checkpoint, tmp_path):
    rendered_folder(tmp_path / "data", 1, 40, 48)
    (tmp_path / "data/depth/000000.exr").write_bytes(b"")
    with pytest.raises(SystemExit, match="no picture"):
        run(checkpoint, tmp_path / "data", tmp_path / "out", "--settings", "1x1")


def test_published_values_stand_beside_ours(checkpoint, tmp_path, capsys):
    picture(tmp_path / "data/a.png", 480, 640)
    grey_16(tmp_path / "data/d.png", np.linspace(1500, 4000, 480 * 640).reshape(480, 640))
    (tmp_path / "data/filename_list_test.txt").write_text("a.png d.png f.png\n")
    output = tmp_path / "out"
    evaluate.main([str(checkpoint), "--data", f"nyuv2:{tmp_path / 'data'}", "--settings", "1x1",
                   "--processing-resolution", "48", "--output", str(output)])  # fmt: skip
    table = capsys.readouterr().out
    assert "| *Marigold v1-0, 50 steps x 10 (paper)* | 0.0550 | 0.9640 |" in table
    assert "654 pictures" in table
    assert (output / "results.md").read_text() == table
    data = json.loads((output / "results.json").read_text())["data"][0]
    # The slope has no boundary: null, not NaN, which is no JSON.
    assert by_method(data)["constant"]["mean"]["boundary_f1"] is None


def test_seeds_have_a_spread(checkpoint, folder, tmp_path):
    found = by_method(
        run(checkpoint, folder, tmp_path, "--settings", "1x1", "--seeds", "1", "2", "3")
    )
    assert found["1 steps x 1"]["std"]["abs_rel"] > 0
    assert found["constant"]["std"] is None


def test_a_sweep_costs_its_largest_ensemble_and_draws_itself(
    checkpoint, folder, tmp_path, predicted
):
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    data = run(checkpoint, folder, tmp_path, "--settings", "1x1", "--sweep", "members",
               "--values", "1", "2", "4", "--seeds", "1", "2")  # fmt: skip
    assert predicted == [4] * 8
    assert [r["method"] for r in data["results"][2:]] == [
        f"members {n} (1 steps x {n})" for n in (1, 2, 4)
    ]
    from PIL import Image

    with Image.open(tmp_path / "sweep-members.png") as plot:
        assert plot.width > 900
    assert (tmp_path / "sweep-members.md").is_file()


def test_every_sweep_varies_one_thing():
    def cases(*words: str):
        return planned_cases(arguments(["nano", "--settings", "4x5", *words]))

    assert {c.settings[0].steps for c in cases("--sweep", "steps")} == {1, 2, 4, 10, 25, 50}
    assert {c.settings[0].members for c in cases("--sweep", "steps")} == {5}
    alignments = {c.settings[0][2:4] for c in cases("--sweep", "alignment")}
    assert len(alignments) == 4
    assert ("paper", "mean") in alignments
    assert len({c.settings[0].noise for c in cases("--sweep", "noise")}) == 3
    assert len({c.fit for c in cases("--sweep", "fit")}) == 4
    assert len(cases("--sweep", "checkpoint")) == 1
    for case in cases("--sweep", "members", "--seeds", "7", "8"):
        assert [s.seed for s in case.settings] == [7, 8]


@pytest.mark.parametrize("text", ["4", "x", "0x1", "4x0", "axb", "-1x2"])
def test_wrong_settings(text):
    with pytest.raises(MarigoldError, match="4x10"):
        Setting.parse(text)


def test_without_words_it_measures_procedural_scenes():
    assert arguments(["nano"]).data == ["procedural:400"]
    args = arguments(["nano", "--scenes", "7", "--rgbd", "pictures"])
    assert args.data == ["procedural:7", "folder:pictures"]
    assert arguments(["nano", "--data", "kitti:x"]).data == ["kitti:x"]


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(checkpoint, folder, tmp_path):
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    one = run(checkpoint, folder, tmp_path / "one", "--settings", "1x1", "1x2")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               str(ROOT / "training/evaluate.py"), str(checkpoint), "--data", f"folder:{folder}",
               "--processing-resolution", "48", "--settings", "1x1", "1x2",
               "--output", str(tmp_path / "two")]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    two = json.loads((tmp_path / "two/results.json").read_text())["data"][0]
    assert two == one
