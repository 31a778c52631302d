"""evaluate.py for normals and intrinsic images: scores, sets, rivals, and its tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import evaluate
import intrinsic_metrics
import numpy as np
import pytest
import torch
from checkpoint_builders import build_checkpoint
from data.normal_sets import NORMALS_PROTOCOLS, open_normals
from data.registry import open_dataset
from data.sample import DataError
from data_builders import picture
from intrinsic_metrics import (
    comparable,
    least_squares_scale,
    lpips_network,
    map_score,
    psnr,
    ssim,
    why_no_lpips,
)
from measures import MEASURES, Rules
from normal_metrics import NormalScore, normal_score
from targets import TARGETS
from training_runs import build_mapped

from marigold_core import IntrinsicImages, Marigold

SMALL = ["--processing-resolution", "64", "--settings", "1x2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_mapped(tmp_path_factory.mktemp("data") / "balls", 3)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: build_checkpoint(root / family, family)
            for family in ("normals-v1-1", "iid-appearance", "iid-lighting", "v1-1")}  # fmt: skip


def run(folder: Path, output: Path, *arguments: Any) -> dict:
    words = [*map(str, arguments), "--data", f"folder:{folder}", "--output", str(output), *SMALL]
    evaluate.main(words)
    return json.loads((output / "results.json").read_text())["data"][0]


def turned(degrees: float) -> np.ndarray:
    """Normals (8, 8, 3) so far from the viewer's direction."""
    angle = math.radians(degrees)
    return np.full((8, 8, 3), (math.sin(angle), 0, math.cos(angle)), np.float32)


@pytest.mark.parametrize("degrees", [0, 1e-3, 4.9, 11, 12, 90, 179.99])
def test_angles_are_exact_from_thousandths_of_a_degree_to_the_opposite(degrees):
    valid = np.zeros((8, 8), bool)
    valid[2:5] = True
    found = normal_score(turned(degrees) * 0.7, turned(0), valid)
    assert found.mean == pytest.approx(degrees, abs=1e-5)
    assert found.median == pytest.approx(degrees, abs=1e-5)
    assert found.within_11_25 == float(degrees < 11.25)
    assert found.within_5 == float(degrees < 5)


def test_means_medians_and_shares_are_of_the_valid_pixels():
    normals, valid = turned(0), np.ones((8, 8), bool)
    normals[:2], normals[2:4] = turned(20)[:2], turned(40)[:2]
    valid[5:] = False
    found = normal_score(normals, turned(0), valid)
    assert found.mean == pytest.approx((2 * 20 + 2 * 40) / 5, abs=1e-4)
    assert found.median == pytest.approx(20, abs=1e-4)
    assert found.within_22_5 == pytest.approx(3 / 5)
    assert found.rmse == pytest.approx(math.sqrt((2 * 400 + 2 * 1600) / 5), abs=1e-4)


def test_ssim_is_the_mean_over_gaussian_windows():
    """Wang et al. 2004, equation 13, window by window."""
    rng = np.random.default_rng(0)
    x = rng.random((14, 13, 2))
    y = (x + rng.normal(0, 0.1, x.shape)).clip(0, 1)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for top, left, c in np.ndindex(4, 3, 2):
        a, b = (v[top : top + 11, left : left + 11, c] for v in (x, y))
        mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
        var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
        both = (weight * (a - mean_a) * (b - mean_b)).sum()
        found.append(
            (2 * mean_a * mean_b + 1e-4)
            * (2 * both + 9e-4)
            / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
        )
    assert ssim(x, y) == pytest.approx(np.mean(found), rel=1e-9)
    assert psnr(y, x) == pytest.approx(-10 * np.log10(np.mean((x - y) ** 2)))


def test_ssim_is_one_for_the_same_and_what_the_formula_says_for_two_flat_pictures():
    flat = np.full((16, 16, 1), 0.25)
    assert ssim(flat, flat) == pytest.approx(1)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim(flat, flat + 0.5) == pytest.approx(expected)
    assert math.isnan(ssim(flat[:5], flat[:5]))


def test_a_perfect_map_and_one_that_is_a_tenth_off():
    truth, valid = np.full((16, 16, 3), 0.5), np.ones((16, 16), bool)
    valid[0] = False
    wrong = truth.copy()
    wrong[0] = 1
    assert map_score(wrong, truth, valid).psnr == math.inf  # what is not valid does not count
    assert map_score(truth + 0.1, truth, valid).psnr == pytest.approx(20)


def test_light_is_compared_after_its_scale_and_colours_at_the_power_of_a_display():
    rng = np.random.default_rng(0)
    maps = {name: rng.random((12, 12, 3), np.float32) for name in ("albedo", "shading")}
    spaces, loose = {"albedo": "linear", "shading": "linear"}, frozenset({"shading"})
    truth = IntrinsicImages(maps, spaces, up_to_scale=loose)
    guess = IntrinsicImages({**maps, "shading": maps["shading"] * 0.3}, spaces, up_to_scale=loose)
    valid = np.ones((12, 12), bool)
    for p, g in (comparable(name, guess, truth, valid) for name in maps):
        np.testing.assert_allclose(p, g, atol=1e-5)
    albedo = comparable("albedo", guess, truth, valid)[1]
    np.testing.assert_allclose(albedo, maps["albedo"] ** (1 / 2.2), rtol=1e-5)
    bright = comparable("shading", guess, truth, valid)[1] @ np.array([0.3, 0.59, 0.11])
    assert np.percentile(bright, 90) == pytest.approx(0.8, abs=0.02)
    coded = IntrinsicImages(maps, {**spaces, "albedo": "srgb"}, up_to_scale=loose)
    assert comparable("albedo", coded, truth, valid)[0] is not maps["albedo"]
    np.testing.assert_allclose(comparable("albedo", coded, truth, valid)[0], maps["albedo"])
    assert least_squares_scale(np.zeros(3), np.ones(3)) == 0


@pytest.mark.parametrize("target", ["normals", "appearance", "lighting"])
def test_the_truth_itself_has_a_perfect_score(folder, target):
    dataset = open_dataset(f"folder:{folder}", "all", maps=TARGETS[target].maps)
    sample = dataset[0]
    found = MEASURES[target].of(TARGETS[target].truth(sample), sample, "", Rules("data"))
    if isinstance(found, NormalScore):
        assert found.mean < 0.1 and found.within_5 == 1
    else:
        values = found._asdict()
        assert all(v > 100 for k, v in values.items() if k.endswith("psnr"))
        assert all(v > 0.999 for k, v in values.items() if k.endswith("ssim"))


def test_a_table_of_normals_has_the_engines_own_figures_and_a_rival_from_depth(
    folder, checkpoints, tmp_path, capsys
):
    names = [checkpoints["normals-v1-1"], checkpoints["v1-1"]]
    found = run(folder, tmp_path, *names, "--fov-degrees", 40)
    rows = {row["method"]: row["mean"] for row in found["results"]}
    assert list(rows) == [
        "all towards the viewer", "1 steps x 2", "normals of its depth, 1 steps x 2",
    ]  # fmt: skip
    dataset = open_dataset(f"folder:{folder}", "all", maps=("normals",))
    marigolds = [Marigold.from_pretrained(name, device="cpu") for name in names]
    expected: list[list[float]] = [[], []]
    for sample in (dataset[i] for i in range(len(dataset))):
        truth = sample.maps["normals"].permute(1, 2, 0).numpy()
        for scores, marigold in zip(expected, marigolds, strict=True):
            result: Any = marigold(
                sample.image.permute(1, 2, 0).numpy(), num_inference_steps=1, ensemble_size=2,
                processing_resolution=64, generator=torch.Generator().manual_seed(1234),
            )  # fmt: skip
            if marigold.target.name == "depth":
                result = result.normals(fov_degrees=40)
            scores.append(normal_score(result.normals, truth, sample.valid.numpy()).mean)
    ours = [rows["1 steps x 2"]["mean"], rows["normals of its depth, 1 steps x 2"]["mean"]]
    assert ours == pytest.approx([np.mean(scores) for scores in expected], rel=1e-4)
    said = capsys.readouterr().out
    assert "| mean ° ↓ |" in said and "< 11.25° ↑" in said
    assert "paper" not in said  # published rows are of depth


@pytest.mark.parametrize(("family", "target"), [("iid-appearance", "appearance"),
                                                ("iid-lighting", "lighting")])  # fmt: skip
def test_a_table_of_intrinsic_images(folder, checkpoints, tmp_path, capsys, family, target):
    found = run(folder, tmp_path, checkpoints[family], "--ceiling")
    rows = {row["method"]: row["mean"] for row in found["results"]}
    assert list(rows) == ["the picture as albedo", "truth through the VAE", "1 steps x 2"]
    assert {f"{m.name}_psnr" for m in TARGETS[target].engine().maps} < rows["1 steps x 2"].keys()
    assert all(math.isfinite(rows[r]["albedo_psnr"]) for r in rows)
    said = capsys.readouterr().out
    assert "albedo PSNR ↑" in said and "albedo SSIM ↑" in said
    assert ("LPIPS ↓" in said) == (rows["1 steps x 2"]["albedo_lpips"] is not None)
    assert ("LPIPS is not measured" in said) == (why_no_lpips() is not None)
    again = run(folder, tmp_path, checkpoints[family], "--ceiling")  # from what was kept
    assert again["results"] == found["results"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty place for torch's downloads, and no network known of before."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    lpips_network.cache_clear()
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    lpips_network.cache_clear()


def test_without_its_package_or_weights_lpips_says_what_is_missing(hub, monkeypatch):
    grey = np.random.default_rng(0).random((32, 32), np.float32)
    monkeypatch.setattr(intrinsic_metrics, "find_spec", lambda name: None)
    assert why_no_lpips() == ("LPIPS is not measured: the package is missing, `pip install lpips`.")
    monkeypatch.setattr(intrinsic_metrics, "find_spec", lambda name: name)
    assert why_no_lpips() == (
        "LPIPS is not measured: put https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
        f" into {hub}."
    )
    assert math.isnan(map_score(grey, grey, grey > -1).lpips)


def test_lpips_of_the_package_with_a_random_backbone(hub):
    """The published weights cannot be in a test; the package's own code and linear layers are."""
    pytest.importorskip("lpips", exc_type=ImportError)
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(alexnet().state_dict(), hub / "alexnet-owt-7be5be79.pth")
    rng = np.random.default_rng(0)
    truth = rng.random((64, 80, 3)).astype(np.float32)
    far, near = (truth + s * rng.normal(size=truth.shape).astype(np.float32) for s in (0.3, 0.03))
    valid = np.ones(truth.shape[:2], bool)
    scores = [map_score(p.clip(0, 1), truth, valid).lpips for p in (truth, near, far)]
    assert scores[0] == 0 and 0 < scores[1] < scores[2]
    grey = truth[..., 0]
    assert map_score(grey, grey, valid).lpips == 0
    assert map_score(grey * 0.5, grey, valid).lpips > 0


def test_a_power_of_the_predicted_material_changes_only_that(folder, checkpoints, tmp_path):
    plain = run(folder, tmp_path / "a", checkpoints["iid-appearance"])["results"][-1]["mean"]
    power = run(folder, tmp_path / "b", checkpoints["iid-appearance"], "--material-power", 2.2)
    power = power["results"][-1]["mean"]
    changed = {name for name in plain if plain[name] != power[name]}
    assert {"roughness_psnr", "metallicity_psnr"} <= changed
    assert not any(name.startswith("albedo") for name in changed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["iid-lighting", "--target", "appearance"], "estimates albedo, shading, residual"),
        (["iid-lighting", "--target", "normals"], "estimates intrinsic images"),
        (["normals-v1-1", "--target", "depth"], "no pictures with depth"),
        (["normals-v1-1", "--sweep", "fit"], "is of depth, not of normals"),
        (["normals-v1-1", "--farthest", "80"], "leave them out for normals"),
    ],
)
def test_what_cannot_be_measured_is_said(folder, checkpoints, tmp_path, arguments, words):
    name, *more = arguments
    with pytest.raises(SystemExit, match=words):
        run(folder, tmp_path, checkpoints[name], *more)


@pytest.mark.parametrize("kind", NORMALS_PROTOCOLS)
def test_an_evaluation_set_in_the_authors_layout(tmp_path, kind):
    protocol = NORMALS_PROTOCOLS[kind]
    picture(tmp_path / "a" / "000_img.png", 24, 32)
    normals = np.zeros((24, 32, 3), np.float64)
    normals[:, 4:] = (0, 0.3, 0.4)  # half of unit length
    np.save(tmp_path / "a" / "000_normal.npy", normals)
    (tmp_path / protocol.listed).write_text("a/000_img.png a/000_normal.npy\n")
    dataset = open_normals(f"{kind}:{tmp_path}")
    sample = dataset[0]
    assert (len(dataset), dataset.name(0)) == (1, "a/000_img.png")
    assert not sample.valid[:, :4].any() and sample.valid[:, 4:].all()
    expected = torch.tensor([0, 0.6, 0.8])
    torch.testing.assert_close(sample.maps["normals"][:, 3, 9], expected, rtol=0, atol=1e-6)
    with pytest.raises(DataError, match="no such list"):
        open_normals(f"{kind}:{tmp_path / 'a'}")


def test_a_set_of_normals_is_evaluated_by_name(checkpoints, tmp_path, capsys):
    picture(tmp_path / "set" / "000_img.png", 64, 64)
    np.save(tmp_path / "set" / "000_normal.npy", np.full((64, 64, 3), (0, 0, 1), np.float32))
    (tmp_path / "set" / "ibims_test.txt").write_text("000_img.png 000_normal.npy\n")
    evaluate.main(
        [str(checkpoints["normals-v1-1"]), "--data", f"ibims:{tmp_path / 'set'}", "--output",
         str(tmp_path / "out"), *SMALL]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "iBims-1: 1 pictures" in said and "figures are of 100 pictures" in said
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["data"][0]["results"]
    assert rows[0]["mean"]["mean"] == pytest.approx(0, abs=1e-4)
