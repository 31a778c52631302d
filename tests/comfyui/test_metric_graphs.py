"""Metres, guided sampling and point clouds through a real ComfyUI.

COMFYUI_PATH=... COMFYUI_PYTHON=... python -m pytest tests/comfyui -m slow
"""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 96, 64
# The table, and the wall behind it.
POINTS = "40, 36, 1.5\n30, 28, 1.6\n48, 40, 1.4\n48, 2, 5\n75, 3, 5.2\n62, 3, 4.8"


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def ours(name, /, **inputs):
    return node(f"MarigoldKit_{name}", **inputs)


def base(**known):
    inputs = {"points": POINTS, "file": "none", "metres_per_unit": 0.0, "lengths": "",
              "camera_height": 0.0, "field_of_view": 50.0}  # fmt: skip
    return {
        "picture": node("LoadImage", image="example.jpg"),
        "image": node("ImageScale", image=["picture", 0], upscale_method="area", width=WIDTH,
                      height=HEIGHT, crop="disabled"),
        "load": ours("LoadMarigold", checkpoint="nano", precision="fp32", vae="standard"),
        "estimate": ours("EstimateDepth", model=["load", 0], image=["image", 0], steps=2,
                         predictions=3, resolution=WIDTH, seed=0, invert_mask=False),
        "ensemble": ours("Ensemble", predictions=["estimate", 0], method="closed form",
                         reduction="median", uncertainty_scale=0.1),
        "known": ours("KnownDepths", image=["image", 0], **(inputs | known)),
        "metric": ours("MetricDepth", depth=["ensemble", 0], known=["known", 0], fit_in="auto"),
        "shown": node("PreviewAny", source=["metric", 1]),
    }  # fmt: skip


def test_metres_a_report_and_points(comfyui):
    graph = base() | {
        "dots": node("PreviewImage", images=["known", 1]),
        "error": node("PreviewAny", source=["metric", 4]),
        "exr": ours("SaveDepth", depth=["metric", 0], format="NPY", filename_prefix="metric/depth"),
        "mesh": ours("DepthToMesh", depth=["metric", 0], image=["image", 0], field_of_view=50.0,
                     near=1.0, far=5.0, tear=0.0, max_vertices=1000000, image_index=0,
                     file_format="glb", filename_prefix="metric/mesh"),
        "points": ours("DepthToPoints", depth=["metric", 0], image=["image", 0],
                       field_of_view=50.0, near=1.0, far=5.0, image_index=0,
                       filename_prefix="metric/points"),
    }  # fmt: skip
    known = comfyui.request("/object_info")
    if "PreviewPointCloud" in known:
        graph["viewer"] = node("PreviewPointCloud", model_3d=["points", 0], viewport_state="",
                               width=512, height=512)  # fmt: skip
    outputs = comfyui.run(graph)
    assert outputs["dots"]["images"]
    (report,) = outputs["shown"]["text"]
    assert " m; 2nd to 98th percentile" in report and "expected error" in report
    assert 0 < float(outputs["error"]["text"][0]) < 1
    folder = comfyui.base / "output" / "metric"
    depth = np.load(folder / "depth_00001_.npy")
    assert 0.5 < np.median(depth) < 10
    import trimesh

    cloud = trimesh.load(folder / "points_00001_.ply")
    assert len(cloud.vertices) == WIDTH * HEIGHT
    assert np.allclose(np.sort(-cloud.vertices[:, 2]), np.sort(depth.ravel()), rtol=1e-3)
    if "viewer" in graph:
        assert outputs["viewer"]


def test_a_sparse_picture_guides_the_model(comfyui):
    sparse = np.zeros((HEIGHT, WIDTH), np.float32)
    sparse[1:6:4, 40:80:6], sparse[26:40:6, 20:50:6] = 5, 1.5  # the wall, the table
    np.save(comfyui.base / "input" / "sparse.npy", sparse)
    graph = base(points="", file="sparse.npy", lengths="10 8 80 9 3") | {
        "guided": ours("EstimateGuidedDepth", model=["load", 0], image=["image", 0],
                       known=["known", 0], steps=4, predictions=1, resolution=WIDTH, seed=0,
                       save_memory=True, invert_mask=False, depth=["ensemble", 0]),
        "report": node("PreviewAny", source=["guided", 1]),
    }  # fmt: skip
    for name, source in (("fit", "metric"), ("bent", "guided")):
        graph[f"npy {name}"] = ours(
            "SaveDepth", depth=[source, 0], format="NPY", filename_prefix=f"guided/{name}"
        )
    prompt = comfyui.queue(graph)
    entry = comfyui.wait(prompt)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    assert "known lengths did not" in entry["outputs"]["report"]["text"][0]
    steps = [one["value"] for one in comfyui.seen("progress", prompt) if one["node"] == "guided"]
    assert steps[-1] == 5 and steps == sorted(steps)
    folder = comfyui.base / "output" / "guided"
    guided = np.load(folder / "bent_00001_.npy")
    assert np.isfinite(guided).all() and 0.5 < np.median(guided) < 10
    # The same seed, the same depth; and it comes from the cache.
    again = comfyui.queue(graph)
    comfyui.wait(again)
    (cached,) = comfyui.seen("execution_cached", again)
    assert "guided" in cached["nodes"]


def test_guided_depth_is_cancelled(comfyui):
    graph = base() | {
        "guided": ours("EstimateGuidedDepth", model=["load", 0], image=["image", 0],
                       known=["known", 0], steps=20, predictions=1, resolution=WIDTH, seed=5,
                       save_memory=False, invert_mask=False),
        "report": node("PreviewAny", source=["guided", 1]),
    }  # fmt: skip
    prompt, entry = comfyui.cancel_at(graph, "guided", 2)
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds and "execution_error" not in kinds
    reached = [one["value"] for one in comfyui.seen("progress", prompt) if one["node"] == "guided"]
    assert max(reached) <= 5
