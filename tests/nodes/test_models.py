"""Where checkpoints come from, and what is downloaded when: nothing that nobody ran."""

from __future__ import annotations

import gc
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import torch

NANO = Path(__file__).parents[2] / "marigold_core" / "assets" / "nano"


@pytest.fixture
def offline(monkeypatch):
    """Any attempt at the network fails the test."""
    import socket

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def options(nodes):
    """The checkpoints that the loader offers now."""
    return nodes["LoadMarigold"].GET_SCHEMA().inputs[0].options["options"]


def put(folder):
    shutil.copytree(NANO, folder)


def test_the_bundled_one_is_always_there(nodes, run, offline):
    assert options(nodes)[0] == "nano"
    assert {"v1-1", "v1-0", "lcm", "e2e"} <= set(options(nodes))
    assert run("LoadMarigold")[0].name == "nano"


@pytest.mark.parametrize("place", ["marigold/mine", "diffusers/mine", "marigold/author/mine"])
def test_folders_in_the_model_paths(nodes, run, comfy, place):
    put(comfy.root / "models" / place)
    name = place.split("/", 1)[1]
    assert name in options(nodes)
    assert run("LoadMarigold", checkpoint=name)[0].name == name


def test_extra_model_paths_are_honoured(nodes, run, comfy):
    # What extra_model_paths.yaml does with `marigold: ...` and `diffusers: ...`.
    for kind in ("marigold", "diffusers"):
        extra = comfy.root / f"elsewhere of {kind}"
        comfy.folder_paths.add_model_folder_path(kind, str(extra))
        put(extra / f"from {kind}")
        assert f"from {kind}" in options(nodes)
        assert run("LoadMarigold", checkpoint=f"from {kind}")[0].name == f"from {kind}"


def test_other_pipelines_are_not_offered(nodes, comfy):
    other = comfy.root / "models" / "diffusers" / "sd"
    other.mkdir(parents=True)
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    broken = comfy.root / "models" / "diffusers" / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_bytes(b"\xff\xfe\x00")
    assert not {"sd", "broken"} & set(options(nodes))


def test_looking_at_the_nodes_downloads_nothing(nodes, offline):
    for node in nodes.values():
        node.GET_NODE_INFO_V1()
    loader = nodes["LoadMarigold"]
    assert loader.validate_inputs(checkpoint="v1-1") is True
    loader.fingerprint_inputs(checkpoint="v1-1", precision="auto", vae="standard")


def test_a_name_that_is_gone_says_where_to_put_it(nodes, comfy):
    for name in ("LoadMarigold", "Depth"):
        answer = nodes[name].validate_inputs(checkpoint="gone")
        assert "'gone'" in answer and str(comfy.root / "models" / "marigold") in answer
        assert "nano" in answer and "\n" not in answer


def test_a_download_without_network_says_what_to_do(run, error, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(error) as raised:
        run("LoadMarigold", checkpoint="v1-1")
    assert "\n" not in str(raised.value)
    assert "offline" in str(raised.value).lower() or "network" in str(raised.value).lower()


def test_a_folder_that_is_no_depth_checkpoint(run, comfy, error):
    folder = comfy.root / "models" / "marigold" / "half"
    put(folder)
    shutil.rmtree(folder / "unet")
    with pytest.raises(error, match="unet"):
        run("LoadMarigold", checkpoint="half")


def test_a_checkpoint_that_was_replaced_is_another(nodes, comfy):
    folder = comfy.root / "models" / "marigold" / "mine"
    put(folder)

    def print_of_mine():
        return nodes["LoadMarigold"].fingerprint_inputs(
            checkpoint="mine", precision="auto", vae="standard"
        )

    before = print_of_mine()
    assert print_of_mine() == before
    weights = next(folder.rglob("*.safetensors"))
    weights.touch()
    assert print_of_mine() != before


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("fp32", torch.float32), ("fp16", torch.float16),
     ("bf16", torch.bfloat16)],
)  # fmt: skip
def test_precision(run, precision, dtype):
    loaded = run("LoadMarigold", precision=precision)[0]
    assert {one.dtype for one in loaded.patcher.model.parameters()} == {dtype}


def test_auto_is_what_comfyui_would_take(run, comfy, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "should_use_bf16", lambda device=None: True)
    assert next(run("LoadMarigold")[0].marigold.unet.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_not_black(run, image, precision):
    model = run("LoadMarigold", precision=precision)[0]
    members = run("EstimateDepth", model=model, image=image, steps=1, resolution=64)[0][0].members
    assert members.dtype == torch.float32 and members.isfinite().all()
    assert members.max() - members.min() > 0.1


def test_nothing_keeps_a_model_that_the_graph_let_go(run, image):
    model = run("LoadMarigold")[0]
    run("EstimateDepth", model=model, image=image, steps=1, resolution=64)
    networks = weakref.ref(model.patcher.model)
    sys.modules["comfy.model_management"].loaded.clear()
    del model
    gc.collect()
    assert networks() is None
