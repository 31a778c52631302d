"""Normals and intrinsic images through a real ComfyUI, on small random checkpoints.

COMFYUI_PATH=... COMFYUI_PYTHON=... python -m pytest tests/comfyui -m slow
"""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_server import BINARY, PromptFailed
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("downloaded")]

SIDE = 64


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def ours(name, /, **inputs):
    return node(f"MarigoldKit_{name}", **inputs)


def estimate(name, load, **changes):
    inputs = {"steps": 2, "predictions": 2, "resolution": SIDE, "seed": 0, "invert_mask": False}
    return ours(name, model=[load, 0], image=["image", 0], **(inputs | changes))


def base():
    """The picture; Load Marigold, Estimate and Ensemble Normals; Intrinsic Images."""
    graph = {
        "picture": node("LoadImage", image="example.jpg"),
        "image": node("ImageScale", image=["picture", 0], upscale_method="area", width=96,
                      height=64, crop="disabled"),
        "estimate": estimate("EstimateNormals", "normals"),
        "ensemble": ours("EnsembleNormals", predictions=["estimate", 0], reduction="closest",
                         convention="OpenGL", uncertainty_degrees=30.0),
        "intrinsic": estimate("IntrinsicImages", "iid", reduction="median", space="linear"),
    }  # fmt: skip
    for name, checkpoint in (("normals", "normals-v1-1"), ("iid", "iid-appearance")):
        graph[name] = ours("LoadMarigold", checkpoint=checkpoint, precision="fp32", vae="standard")
    return graph


def save(source, output=0, **changes):
    return node("SaveImage", images=[source, output], filename_prefix=f"family/{source}{output}")


def test_a_pbr_set(comfyui):
    graph = base() | {
        "save": ours("SaveNormals", normals=["ensemble", 0], format="32-bit EXR",
                     convention="DirectX", filename_prefix="family/normal"),
        "unsure": node("PreviewImage", images=["ensemble", 2]),
        "albedo": save("intrinsic", 0),
        "roughness": save("intrinsic", 1),
        "metallic": save("intrinsic", 2),
        "layers": ours("SaveIntrinsicImages", intrinsics=["intrinsic", 5], space="auto",
                       format="multi-layer EXR", filename_prefix="family/layers"),
        "maps": ours("SaveIntrinsicImages", intrinsics=["intrinsic", 5], space="sRGB",
                     format="16-bit PNG", filename_prefix="family/maps"),
    }  # fmt: skip
    before = len(comfyui.seen(BINARY))
    outputs = comfyui.run(graph)
    assert all(outputs[name]["images"] for name in ("save", "unsure", "albedo", "metallic"))
    # Two steps of two nodes, each with a preview.
    assert len(comfyui.seen(BINARY)) - before >= 4
    (exr,) = (comfyui.base / "output" / "family").glob("normal_*.exr")
    assert exr.read_bytes()[:4] == b"\x76\x2f\x31\x01"
    assert len(outputs["maps"]["images"]) == len(outputs["layers"]["images"]) == 3
    (layers,) = (comfyui.base / "output" / "family").glob("layers_*.exr")
    assert b"roughness.V" in layers.read_bytes() and b'"class_type"' in layers.read_bytes()
    for name in ("albedo", "roughness", "metallicity"):
        with Image.open(comfyui.base / "output" / "family" / f"maps_00001_{name}.png") as picture:
            assert "MarigoldKit_SaveIntrinsicImages" in picture.text["prompt"]


def test_another_convention_does_not_run_the_model_again(comfyui):
    graph = base() | {"save": save("ensemble", 1)}
    comfyui.run(graph)
    graph["ensemble"]["inputs"]["convention"] = "ControlNet"
    prompt = comfyui.queue(graph)
    entry = comfyui.wait(prompt)
    ran = {data["node"] for data in comfyui.seen("executing", prompt) if data["node"]}
    assert ran == {"ensemble", "save"}
    (one,) = entry["outputs"]["save"]["images"]
    with Image.open(comfyui.base / "output" / one["subfolder"] / one["filename"]) as picture:
        flipped = np.asarray(picture, np.float32)
    with Image.open(
        comfyui.base / "output" / one["subfolder"] / one["filename"].replace("2_", "1_")
    ) as picture:
        plain = np.asarray(picture, np.float32)
    assert np.abs(flipped[..., 0] + plain[..., 0] - 255).max() <= 1
    assert np.array_equal(flipped[..., 1:], plain[..., 1:])


def test_an_output_that_the_checkpoint_lacks_is_named_and_the_others_run(comfyui):
    graph = base() | {"albedo": save("intrinsic", 0), "shading": save("intrinsic", 3)}
    prompt = comfyui.queue(graph)
    entry = comfyui.wait(prompt)
    assert entry["outputs"]["albedo"]["images"] and "shading" not in entry["outputs"]
    (error,) = comfyui.seen("execution_error", prompt)
    assert error["node_id"] == "shading"
    assert "iid-appearance estimates albedo, roughness, metallicity and no shading" in str(error)


def test_the_wrong_checkpoint_is_one_line(comfyui):
    graph = base() | {"save": save("ensemble", 1)}
    graph["estimate"]["inputs"]["model"] = ["iid", 0]
    with pytest.raises(PromptFailed, match="estimates intrinsic images, and a checkpoint for norm"):
        comfyui.run(graph)


def test_normals_from_the_depth_of_the_bundled_checkpoint(comfyui):
    graph = base() | {
        "load": ours("LoadMarigold", checkpoint="nano", precision="fp32", vae="standard"),
        "depth": estimate("EstimateDepth", "load"),
        "merged": ours("Ensemble", predictions=["depth", 0], method="closed form",
                       reduction="median", uncertainty_scale=0.1),
        "from depth": ours("NormalsFromDepth", depth=["merged", 0], field_of_view=50.0, near=1.0,
                           far=5.0, convention="OpenGL"),
        "npy": ours("SaveNormals", normals=["from depth", 0], format="NPY", convention="OpenGL",
                    filename_prefix="family/from_depth"),
    }  # fmt: skip
    comfyui.run(graph)
    normals = np.load(comfyui.base / "output" / "family" / "from_depth_00001_.npy")
    assert normals.shape == (64, 96, 3)
    assert np.allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    assert normals[..., 2].mean() > 0.2
