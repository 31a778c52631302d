"""Known depths, metres, guided sampling and point clouds, by known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

HEIGHT, WIDTH = 48, 64
POINTS = [(4, 5), (60, 7), (33, 40), (10, 30), (50, 44), (22, 22)]


@pytest.fixture
def picture():
    return torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def scene(run):
    """(MARIGOLD_DEPTH in [0, 1], its true metres (H, W))."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    relative = (rows / HEIGHT + 0.3 * np.sin(columns / 9)).astype(np.float32)
    relative = (relative - relative.min()) / np.ptp(relative)
    image = torch.from_numpy(relative)[None, ..., None].repeat(1, 1, 1, 3)
    depth = run("DepthFromImage", image=image, near_is_white=False)[0]
    return depth, 2 + 6 * depth[0].depth


def lines(metres, places=POINTS):
    return "\n".join(f"{x}, {y}, {metres[y, x]:.5f}" for x, y in places)


def test_typed_points_give_the_scene_in_metres(run, picture, scene):
    depth, metres = scene
    known, preview = run("KnownDepths", image=picture, points=lines(metres)).args
    assert preview.shape == picture.shape
    # Near is red, far is blue.
    nearest = min(POINTS, key=lambda place: metres[place[1], place[0]])
    assert preview[0, nearest[1], nearest[0]].tolist() == [1, 0, 0]
    fitted, report, scale, shift, error = run("MetricDepth", depth=depth, known=known).args
    assert np.allclose(fitted[0].depth, metres, rtol=1e-3)
    assert not fitted[0].scale_invariant
    assert scale == pytest.approx(6, rel=1e-3) and shift == pytest.approx(2, rel=1e-3)
    assert 0 <= error < 1e-2
    assert report.startswith("z = 6 d + 2 m") and "expected error" in report


def test_a_wrong_point_is_named(run, picture, scene):
    depth, metres = scene
    rng = np.random.default_rng(0)
    places = [(int(x), int(y)) for x, y in rng.integers(0, (WIDTH, HEIGHT), (30, 2))]
    text = lines(metres, places).splitlines()
    x, y = places[3]
    text[3] = f"{x}, {y}, {metres[y, x] * 3}"
    known = run("KnownDepths", image=picture, points="\n".join(text))[0]
    fitted, report, *_ = run("MetricDepth", depth=depth, known=known).args
    assert np.allclose(fitted[0].depth, metres, rtol=1e-2)
    assert f"point 4 at x = {x}, y = {y}" in report


def test_points_of_a_file_and_of_a_sparse_picture(run, picture, scene, comfy):
    depth, metres = scene
    folder = Path(comfy.root) / "input"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "points.csv").write_text("x,y,metres\n" + lines(metres))
    sparse = np.zeros((HEIGHT, WIDTH), np.float32)
    for x, y in POINTS:
        sparse[y, x] = metres[y, x]
    np.save(folder / "sparse.npy", sparse)
    image = torch.from_numpy(sparse / 10)[None, ..., None].repeat(1, 1, 1, 3)
    from_file = run("KnownDepths", image=picture, file="points.csv")[0]
    from_npy = run("KnownDepths", image=picture, file="sparse.npy")[0]
    from_image = run("KnownDepths", image=picture, sparse_depth=image, metres_per_unit=10.0)[0]
    for known in (from_file, from_npy, from_image):
        assert len(known) == len(POINTS)
        fitted = run("MetricDepth", depth=depth, known=known)[0]
        assert np.allclose(fitted[0].depth, metres, rtol=1e-2)
    # Several sources are used together.
    both = run("KnownDepths", image=picture, file="points.csv", points="1 1 2")[0]
    assert len(both) == len(POINTS) + 1


def test_a_length_and_the_cameras_height_are_hints(run, picture, scene):
    depth, _ = scene
    known = run("KnownDepths", image=picture, lengths="5, 5, 50, 5, 1.5", camera_height=1.6)[0]
    assert known.lengths.tolist() == [[5, 5, 50, 5, 1.5]] and known.camera_height == 1.6
    assert not run("MetricDepth", depth=depth, known=known)[0][0].scale_invariant


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "Nothing is known"),
        ({"points": "1 2 three"}, "points: line 1 is '1 2 three'"),
        ({"points": "1 2 3 4 5"}, "points: line 1 has 5 columns"),
        ({"points": "1 2 3\n4 99 3"}, "lies outside the picture"),
        ({"points": "1 2 -3"}, "a distance is above 0"),
        ({"lengths": "1 2 3"}, "lengths: line 1 has 3 columns; all have x1, y1, x2, y2, metres"),
        ({"sparse_depth": torch.ones(1, 20, 90, 3)}, "sparse_depth is 90 x 20"),
        ({"image": torch.ones(2, HEIGHT, WIDTH, 3), "points": "1 2 3"}, "image has 2 pictures"),
    ],
)
def test_what_cannot_be_read_is_one_message(run, picture, error, given, says):
    with pytest.raises(error, match=says) as raised:
        run("KnownDepths", **{"image": picture, **given})
    assert "\n" not in str(raised.value)


def test_known_depths_are_of_one_picture(run, picture, scene, error):
    depth, metres = scene
    known = run("KnownDepths", image=picture, points=lines(metres))[0]
    with pytest.raises(error, match="2 depth maps"):
        run("MetricDepth", depth=depth + depth, known=known)


def test_a_file_that_is_gone(nodes, comfy):
    answer = nodes["KnownDepths"].validate_inputs(file="gone.csv")
    assert answer == "There is no file 'gone.csv' in the input folder."


@pytest.mark.parametrize("save_memory", [True, False])
def test_guided_depth_in_comfyuis_inference_mode(run, model, picture, save_memory):
    from marigold_core import KnownDepths, Marigold
    from marigold_core.metric.guided import guided_depth

    text = "4 5 2\n60 7 3\n33 40 6\n10 30 4"
    known = run("KnownDepths", image=picture, points=text)[0]
    settings = {"steps": 2, "resolution": 64, "seed": 3, "save_memory": save_memory}
    depth, report = run("EstimateGuidedDepth", model=model, image=picture, known=known, **settings)
    wanted = guided_depth(
        Marigold.from_pretrained("nano", device="cpu"),
        picture[0].numpy(),
        KnownDepths([(4, 5), (60, 7), (33, 40), (10, 30)], [2.0, 3, 6, 4], size=(HEIGHT, WIDTH)),
        num_inference_steps=2,
        processing_resolution=64,
        seed=3,
    )
    assert np.allclose(depth[0].depth, wanted.depth, rtol=1e-4)
    assert report.startswith("z = ")
    # The model still runs as it did.
    again = run("EstimateDepth", model=model, image=picture, steps=1, resolution=64)[0]
    assert again[0].members.isfinite().all()


def test_weights_that_comfyui_moved_in_inference_mode(run, model, picture):
    with torch.inference_mode():
        for module in model.patcher.model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(weight.clone(), requires_grad=False))
    known = run("KnownDepths", image=picture, points="4 5 2\n60 7 3")[0]
    depth = run(
        "EstimateGuidedDepth", model=model, image=picture, known=known, steps=1, resolution=64
    )[0]
    assert np.isfinite(depth[0].depth).all()


def test_guided_depth_is_cancelled_and_reports(run, model, picture, comfy, scene):
    depth, metres = scene
    known = run("KnownDepths", image=picture, points=lines(metres), lengths="5 5 50 5 1.5")[0]
    shown = []
    comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, preview, node_id=None: shown.append(
        (value, total)
    )
    settings = {"model": model, "image": picture, "known": known, "steps": 2, "resolution": 64}
    report = run("EstimateGuidedDepth", depth=depth, **settings)[1]
    assert shown == [(1, 3), (2, 3), (3, 3)]
    assert "known lengths did not" in report
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run("EstimateGuidedDepth", **settings)
