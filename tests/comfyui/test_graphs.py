"""Whole graphs through the HTTP API of a real ComfyUI, on the bundled checkpoint.

COMFYUI_PATH=... COMFYUI_PYTHON=... python -m pytest tests/comfyui -m slow
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from comfyui_server import BINARY, ROOT, PromptFailed

from marigold_core import read_depth

pytestmark = pytest.mark.slow

RESOLUTION = 96
NANO = ROOT / "marigold_core" / "assets" / "nano"


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def ours(name, /, **inputs):
    return node(f"MarigoldKit_{name}", **inputs)


def base(seed=0, steps=2, predictions=1, width=128, height=96):
    """LoadImage, scaled -> Load Marigold, Estimate, Ensemble, Normalize."""
    return {
        "picture": node("LoadImage", image="example.jpg"),
        "image": node(
            "ImageScale", image=["picture", 0], upscale_method="area", width=width, height=height,
            crop="disabled",
        ),
        "load": ours("LoadMarigold", checkpoint="nano", precision="fp32", vae="standard"),
        "estimate": ours(
            "EstimateDepth", model=["load", 0], image=["image", 0], steps=steps,
            predictions=predictions, resolution=RESOLUTION, seed=seed, invert_mask=False,
        ),
        "ensemble": ensemble("estimate"),
        "normalize": normalize(mode="min-max"),
    }  # fmt: skip


def ensemble(source, **changes):
    inputs = {"method": "closed form", "reduction": "median", "uncertainty_scale": 0.1}
    return ours("Ensemble", predictions=[source, 0], **(inputs | changes))


def normalize(**changes):
    """The inputs of a dynamic combo's option are called "combo.input"."""
    inputs = {"near_is_white": True, "gamma": 1.0, "range": "per image", "sequence": False}
    return ours("Normalize", depth=["ensemble", 0], **(inputs | changes))


def mesh(**changes):
    inputs = {
        "depth": ["ensemble", 0],
        "image": ["image", 0],
        "field_of_view": 50.0,
        "near": 1.0,
        "far": 5.0,
        "tear": 0.0,
        "max_vertices": 1000000,
        "image_index": 0,
        "file_format": "glb",
        "filename_prefix": "mesh/all",
        "fill": True,
    }
    return ours("DepthToMesh", **(inputs | changes))


def saved(comfyui, outputs, name, kind="images"):
    return [
        comfyui.base / one["type"] / one["subfolder"] / one["filename"]
        for one in outputs[name][kind]
    ]


def save(source, output=0, prefix="picture"):
    return node("SaveImage", images=[source, output], filename_prefix=prefix)


def test_every_node_runs_and_writes_what_it_says(comfyui):
    graph = base(predictions=3) | {
        "save": save("normalize"),
        "color": ours("Colorize", depth=["ensemble", 0], show="uncertainty", colormap="viridis",
                      uncertainty_scale=0.1),
        "preview": node("PreviewImage", images=["color", 0]),
        "mask": node("MaskToImage", mask=["ensemble", 2]),
        "unsure": node("PreviewImage", images=["mask", 0]),
        "exr": ours("SaveDepth", depth=["ensemble", 0], format="32-bit EXR",
                    filename_prefix="depth/all"),
        "again": ours("DepthFromImage", image=["normalize", 0], near_is_white=True, kind="depth",
                      batch="pictures", invert_mask=False),
        "both": ours("CombineDepth", depth_1=["ensemble", 0], depth_2=["again", 0]),
        "of both": ensemble("both"),
        "npy": ours("SaveDepth", depth=["of both", 0], format="NPY", filename_prefix="depth/both"),
        "png": ours("SaveDepth", depth=["again", 0], format="16-bit PNG",
                    filename_prefix="depth/again"),
        "mesh": mesh(),
        "glb": node("SaveGLB", mesh=["mesh", 0], filename_prefix="mesh/core"),
        "show": node("Preview3D", model_file=["mesh", 1], camera_info=["mesh", 3]),
    }  # fmt: skip
    outputs = comfyui.run(graph)
    for name in ("save", "preview", "unsure"):
        assert all(path.is_file() for path in saved(comfyui, outputs, name))
    first = read_depth(comfyui.base / "output" / "depth" / "all_00001_.exr").depth
    again = read_depth(comfyui.base / "output" / "depth" / "again_00001_.png").depth
    assert first.shape == (96, 128)
    # Through a picture (near is white) and back: the same depth, up to min-max.
    wanted = (first - first.min()) / np.ptp(first)
    assert abs(again - wanted).max() < 1e-4
    (written,) = saved(comfyui, outputs, "mesh", "3d")
    assert written.read_bytes()[:4] == b"glTF"
    assert outputs["show"]["result"][0] == f"mesh/{written.name}"
    assert outputs["show"]["result"][1]["cameraType"] == "perspective"
    assert (comfyui.base / "output" / "mesh" / "core_00001_.glb").stat().st_size > 10000


def test_extra_model_paths_are_honoured(comfyui):
    graph = base() | {"save": save("normalize")}
    graph["load"]["inputs"]["checkpoint"] = "of my own"
    assert comfyui.run(graph)["save"]["images"]


def test_one_node_gives_what_the_four_give(comfyui):
    graph = base(seed=7, steps=0) | {
        "save": save("normalize", prefix="four"),
        "one": ours("Depth", image=["image", 0], checkpoint="nano", predictions=1,
                    mode="min-max", near_is_white=True, steps=0, resolution=RESOLUTION, seed=7),
        "save one": save("one", prefix="one"),
    }  # fmt: skip
    outputs = comfyui.run(graph)
    from PIL import Image

    four, one = (
        np.asarray(Image.open(saved(comfyui, outputs, name)[0])) for name in ("save", "save one")
    )
    assert (four == one).all() and np.ptp(one) > 50


def test_one_node_estimates_once_for_several_looks(comfyui):
    estimated = []
    for mode in ("min-max", "percentile"):
        graph = {name: base()[name] for name in ("picture", "image")} | {
            "one": ours("Depth", image=["image", 0], checkpoint="nano", predictions=1,
                        mode=mode, near_is_white=True, steps=2, resolution=RESOLUTION, seed=99),
            "save": save("one"),
        }  # fmt: skip
        prompt = comfyui.queue(graph)
        comfyui.wait(prompt)
        estimated.append(len(comfyui.seen("progress", prompt)))
    assert estimated[0] >= 3 and estimated[1] == 0


def test_the_same_graph_is_served_from_the_cache(comfyui):
    graph = base(seed=3) | {"save": save("normalize")}
    comfyui.run(graph)
    prompt = comfyui.queue(graph)
    comfyui.wait(prompt)
    (cached,) = comfyui.seen("execution_cached", prompt)
    assert {"load", "estimate", "ensemble", "normalize"} <= set(cached["nodes"])


def test_a_new_seed_keeps_the_checkpoint(comfyui):
    comfyui.run(base(seed=4) | {"save": save("normalize")})
    prompt = comfyui.queue(base(seed=5) | {"save": save("normalize")})
    comfyui.wait(prompt)
    (cached,) = comfyui.seen("execution_cached", prompt)
    assert "load" in cached["nodes"] and "estimate" not in cached["nodes"]


def test_a_picture_does_not_depend_on_its_batch(comfyui):
    graph = base(seed=11) | {
        "other": node("ImageInvert", image=["image", 0]),
        "batch": node("ImageBatch", image1=["other", 0], image2=["image", 0]),
    }
    graph["both"] = ours(
        "EstimateDepth", model=["load", 0], image=["batch", 0], steps=2, predictions=1,
        resolution=RESOLUTION, seed=11, invert_mask=False,
    )  # fmt: skip
    graph["merged"] = ensemble("both")
    for name, source in (("alone", "ensemble"), ("batch of 2", "merged")):
        graph[f"npy {name}"] = ours(
            "SaveDepth", depth=[source, 0], format="NPY", filename_prefix=f"batch/{name}"
        )
    comfyui.run(graph)
    folder = comfyui.base / "output" / "batch"
    alone = np.load(folder / "alone_00001_.npy")
    second = np.load(folder / "batch of 2_00002_.npy")
    # Frames share the networks' batches, which round differently.
    assert abs(alone - second).max() < 1e-4


def test_progress_and_previews_every_step(comfyui):
    prompt = comfyui.queue(base(seed=21, steps=10, predictions=2) | {"save": save("normalize")})
    before = len(comfyui.seen(BINARY))
    comfyui.wait(prompt)
    steps = [one for one in comfyui.seen("progress", prompt) if one["node"] == "estimate"]
    # 10 steps of 2 members, and 2 members decoded.
    assert {one["max"] for one in steps} == {22}
    values = [one["value"] for one in steps]
    assert values == sorted(values) and values[-1] == 22
    assert len(comfyui.seen(BINARY)) - before >= 10


def test_cancel_at_step_2_of_10(comfyui):
    graph = base(seed=31, steps=10) | {"save": save("normalize")}
    prompt, entry = comfyui.cancel_at(graph, "estimate", 2)
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds and "execution_error" not in kinds
    reached = max(one["value"] for one in comfyui.seen("progress", prompt))
    assert reached <= 4  # of 11: within a step, or two where the message was slow
    # Nothing is broken: the same graph then runs to its end.
    assert comfyui.run(graph)["save"]["images"]


# Options whose effect is a download, or a refusal that another test reads.
NOT_RUN = {("LoadMarigold", "vae", "tiny")}


def options_of(info):
    """(input, option, the option's own inputs) of each combo of a node that /object_info names."""
    declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    for name, (kind, *options) in declared.items():
        choices = kind if isinstance(kind, list) else (options or [{}])[0].get("options") or []
        for choice in choices:
            if isinstance(choice, dict):
                yield name, choice["key"], defaults(choice["inputs"], f"{name}.")
            else:
                yield name, choice, {}


def defaults(inputs, prefix=""):
    """The values that the widgets of a new node have."""
    values = {}
    for name, (kind, *options) in {**inputs["required"], **inputs.get("optional", {})}.items():
        choices = kind if isinstance(kind, list) else (options or [{}])[0].get("options") or []
        if choices and isinstance(choices[0], dict):
            nested = choices[0]["inputs"]
            values |= {prefix + name: choices[0]["key"], **defaults(nested, f"{prefix}{name}.")}
        elif choices:
            values[prefix + name] = options[0].get("default", choices[0]) if options else choices[0]
        elif options and "default" in options[0]:
            values[prefix + name] = options[0]["default"]
    return values


@pytest.mark.usefixtures("downloaded")
def test_every_option_of_every_combo(comfyui):
    """Each once, in one prompt: ComfyUI runs nodes in ways of its own (inference mode)."""
    comfyui.run(base(predictions=3) | {
        "saved": ours("SaveDepth", depth=["ensemble", 0], format="32-bit TIFF",
                      filename_prefix="options/depth"),
    })  # fmt: skip
    known = comfyui.request("/object_info")
    graph = base(predictions=3) | {
        "mesh": mesh(),
        "around": node("ImageScale", image=["picture", 0], upscale_method="area", width=128,
                       height=64, crop="disabled"),
        "normals": ours("LoadMarigold", checkpoint="normals-v1-1", precision="fp32",
                        vae="standard"),
        "iid": ours("LoadMarigold", checkpoint="iid-appearance", precision="fp32", vae="standard"),
        "facing": ours("EstimateNormals", model=["normals", 0], image=["image", 0], steps=1,
                       predictions=3, resolution=RESOLUTION, seed=0, invert_mask=False),
        "normal map": ours("EnsembleNormals", predictions=["facing", 0], reduction="closest",
                           convention="OpenGL", uncertainty_degrees=30.0),
        "known": ours("KnownDepths", image=["image", 0], points="64 8 5\n64 90 1", file="none",
                      metres_per_unit=0.0, lengths="", camera_height=0.0, field_of_view=50.0),
    }  # fmt: skip
    models = {"EstimateNormals": ["normals", 0], "IntrinsicImages": ["iid", 0]}
    sockets = {
        "IMAGE": ["image", 0],
        "MARIGOLD_NORMAL_PREDICTIONS": ["facing", 0],
        "MARIGOLD_NORMALS": ["normal map", 0],
        "MARIGOLD_KNOWN_DEPTHS": ["known", 0],
        "MARIGOLD_MODEL": ["load", 0],
        "MARIGOLD_PREDICTIONS": ["estimate", 0],
        "MARIGOLD_DEPTH": ["ensemble", 0],
        "MOGE_GEOMETRY,DA3_GEOMETRY": ["mesh", 2],
        "LOAD3D_CAMERA": ["mesh", 3],
    }
    small = {"steps": 1, "resolution": RESOLUTION, "file": "options/depth_00001_.tiff [output]"}
    ran = set()
    for class_type, info in known.items():
        name = class_type.removeprefix("MarigoldKit_")
        if name == class_type:
            continue
        values = defaults(info["input"])
        values |= {one: small[one] for one in small if one in values}
        for slot, (kind, *_) in info["input"]["required"].items():
            if isinstance(kind, str) and kind in sockets:
                values[slot] = sockets[kind]
        if name == "KnownDepths":
            values["points"] = "1 2 3"
        if name in models:
            values["model"] = models[name]
        if name == "EstimatePanorama":
            values["image"] = ["around", 0]
        cases = [
            case
            for case in options_of(info)
            if (name, *case[:2]) not in NOT_RUN
            and not (case[0] == "checkpoint" and case[1] not in ("nano", "of my own"))
            and not (case[0] == "file" and case[1] != small["file"])
        ]
        for slot, option, more in cases or [(None, None, {})]:
            title = f"{name} {slot} {option}"
            graph[title] = ours(name, **values)
            if slot:
                inputs = graph[title]["inputs"]
                kept = {key: one for key, one in inputs.items() if not key.startswith(f"{slot}.")}
                graph[title]["inputs"] = {**kept, slot: option, **more}
                ran.add((name, option))
            if info["output"]:
                graph[f"show {title}"] = node("PreviewAny", source=[title, 0])
    entry = comfyui.wait(comfyui.queue(graph))
    failed = [message for kind, message in entry["status"]["messages"] if kind == "execution_error"]
    assert not failed, f"{failed[0]['node_id']}: {failed[0]['exception_message']}"
    assert {("LoadMarigold", "bf16"), ("Colorize", "magma"), ("SaveDepth", "32-bit EXR"),
            ("Normalize", "percentile"), ("DepthToMesh", "ply"),
            ("SaveNormals", "ControlNet"), ("IntrinsicImages", "linear")} <= ran  # fmt: skip


def test_the_cores_geometry_nodes_take_ours_and_we_take_theirs(comfyui):
    known = comfyui.request("/object_info")
    if "DA3GeometryToMesh" not in known:
        pytest.skip("this ComfyUI has no Depth Anything 3")
    graph = base() | {
        "mesh": mesh(),
        "theirs": node("DA3GeometryToMesh", da3_geometry=["mesh", 2], batch_index=0, decimation=1,
                       discontinuity_threshold=0.5, confidence_threshold=0.1, use_sky_mask=True,
                       texture=True),
        "glb": node("SaveGLB", mesh=["theirs", 0], filename_prefix="mesh/theirs"),
        "back": ours("DepthFromGeometry", geometry=["mesh", 2], unit="metres"),
        "save": ours("SaveDepth", depth=["back", 0], format="NPY", filename_prefix="depth/back"),
    }  # fmt: skip
    comfyui.run(graph)
    back = np.load(comfyui.base / "output" / "depth" / "back_00001_.npy")
    assert back.min() >= 1 and back.max() <= 5 and np.ptp(back) > 0.5
    import trimesh

    folder = comfyui.base / "output" / "mesh"
    theirs = trimesh.load(next(folder.glob("theirs_*.glb")), force="mesh")
    ours_too = trimesh.load(sorted(folder.glob("all_*.glb"))[-1], force="mesh")
    # The same camera: both meshes fill the same space, up to what is torn.
    assert np.allclose(theirs.bounds, ours_too.bounds, atol=0.15)


def test_errors_are_one_line(comfyui):
    graph = base() | {
        "tiny": node("EmptyImage", width=1, height=1, batch_size=1, color=0),
        "mesh": mesh(image=["tiny", 0], filename_prefix="mesh/wrong"),
    }
    with pytest.raises(PromptFailed, match="do not belong together"):
        comfyui.run(graph)
    graph["load"]["inputs"]["checkpoint"] = "gone"
    with pytest.raises(PromptFailed, match="There is no Marigold checkpoint 'gone'"):
        comfyui.run(graph)


def test_the_frontend_shows_no_path_in_front_of_an_error(comfyui):
    graph = base() | {
        "wrong": normalize(mode="fixed near/far", **{"mode.near_value": 1.0, "mode.far_value": 1.0})
    }
    graph["save"] = save("wrong")
    entry = comfyui.wait(comfyui.queue(graph))
    (failed,) = [m for kind, m in entry["status"]["messages"] if kind == "execution_error"]
    assert failed["exception_type"] == "MarigoldError"
    assert failed["exception_message"].startswith("near_value and far_value are both 1")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fifty_prompts_leave_memory_flat_and_unloading_gives_it_back(comfyui):
    for seed in range(5):  # what torch and ComfyUI set up once
        comfyui.run(base(seed=1000 + seed) | {"save": save("normalize")})
    start = comfyui.resident_bytes()
    prompts = [
        comfyui.queue(base(seed=2000 + seed) | {"save": save("normalize")}) for seed in range(50)
    ]
    for prompt in prompts:
        assert comfyui.wait(prompt)["status"]["status_str"] == "success"
    loaded = comfyui.resident_bytes()
    print(f"resident {start / 2**20:.0f} MiB, after 50 prompts {loaded / 2**20:.0f} MiB")
    assert loaded - start < 32 * 2**20
    comfyui.request("/free", {"unload_models": True, "free_memory": True})
    time.sleep(3)
    freed = comfyui.resident_bytes()
    print(f"after unloading {freed / 2**20:.0f} MiB")
    weights = sum(file.stat().st_size for file in NANO.rglob("*.safetensors"))
    print(f"the checkpoint's files {weights / 2**20:.0f} MiB")
    assert loaded - freed > 0.8 * weights
    assert comfyui.run(base(seed=3000) | {"save": save("normalize")})["save"]["images"]
