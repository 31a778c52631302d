"""Every option of every combo runs, under torch.inference_mode as in ComfyUI."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

# Options whose effect is a download; LoadDepth's files are made by the test.
NOT_HERE = {("LoadMarigold", "checkpoint"), ("LoadMarigold", "vae"), ("Depth", "checkpoint")}
# What these run on is made by test_family_nodes.py, which tries their options.
OTHER_CHECKPOINTS = ("IntrinsicImages",)
# PyAV comes with ComfyUI; tests/comfyui/test_video_graphs.py tries these.
VIDEO = ("VideoDepth",)


@pytest.fixture
def sockets(run, model, pack):
    """A value for each type of socket."""
    engine = sys.modules[f"{pack.__name__}.marigold_core.intrinsics"]
    random = np.random.default_rng(0)
    scene = np.tile(np.linspace(0.1, 0.9, 16), (12, 1))
    members = [(scene * scale + random.normal(0, 0.01, scene.shape)) for scale in (0.8, 0.9, 1.0)]
    image = torch.from_numpy(np.stack(members).astype(np.float32)).clamp(0, 1)
    image = image[..., None].repeat(1, 1, 1, 3)
    depth, predictions = run("DepthFromImage", image=image, batch="predictions of one picture").args
    normals = run("NormalsFromDepth", depth=depth)[0]
    members = torch.from_numpy(normals[0].normals).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    return {
        "IMAGE": image[:1],
        "MARIGOLD_MODEL": model,
        "MARIGOLD_PREDICTIONS": predictions,
        "MARIGOLD_DEPTH": depth,
        "MARIGOLD_NORMALS": normals,
        "MARIGOLD_INTRINSICS": [
            engine.IntrinsicImages(
                {"albedo": image[0].numpy(), "roughness": image[0, ..., 0].numpy()},
                {"albedo": "srgb", "roughness": "linear"},
            )
        ],
        "MARIGOLD_KNOWN_DEPTHS": run("KnownDepths", image=image[:1], points="2 3 4\n13 9 1")[0],
        "MARIGOLD_NORMAL_PREDICTIONS": [replace(predictions[0], members=members)],
        "LOAD3D_CAMERA": dict.fromkeys(("position", "target"), dict.fromkeys("xyz", 1.0)),
        "MOGE_GEOMETRY,DA3_GEOMETRY": {"depth": image[:1, ..., 0] + 1, "image": image[:1]},
    }


def combos(nodes):
    """(node, input, option) of every combo and dynamic combo."""
    for name, node in nodes.items():
        for one in node.GET_SCHEMA().inputs:
            options = one.options.get("options") or [o.key for o in getattr(one, "choices", [])]
            if (name, one.id) not in NOT_HERE and name not in OTHER_CHECKPOINTS + VIDEO:
                yield from ((name, one.id, option) for option in options)


def test_every_option_of_every_combo(nodes, run, sockets):
    run("SaveDepth", depth=sockets["MARIGOLD_DEPTH"], format="NPY", filename_prefix="a/depth")
    cases = list(combos(nodes))
    assert ("Ensemble", "method", "paper") in cases and len(cases) > 30
    for name, slot, option in cases:
        connected = {
            one.id: sockets[one.io_type]
            for one in nodes[name].GET_SCHEMA().inputs
            if one.io_type in sockets
        }
        if name in ("EstimateDepth", "Depth", "EstimateGuidedDepth"):
            connected["steps"] = 1
        if name == "LoadDepth" and slot != "file":
            connected["file"] = "a/depth_00001_.npy [output]"
        try:
            run(name, **{**connected, slot: option})
        except Exception as error:
            raise AssertionError(f"{name} with {slot}={option}: {error}") from error
