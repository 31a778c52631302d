"""Where checkpoints come from, and what is downloaded when: nothing that nobody ran."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from marigold_core.memory import VAE_ACTIVATIONS, unet_activations

ROOT = Path(__file__).parents[2]
NANO = ROOT / "marigold_core" / "assets" / "nano"
STAND_IN = ROOT / "tests" / "comfyui" / "stand_in"


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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_pipes_and_devices_in_the_model_folders_do_not_hang_the_list(nodes, comfy):
    for name in ("pipe", "device"):
        (comfy.root / "models" / "marigold" / name).mkdir(parents=True)
    os.mkfifo(comfy.root / "models" / "marigold" / "pipe" / "model_index.json")
    (comfy.root / "models" / "marigold" / "device" / "model_index.json").symlink_to("/dev/zero")
    assert not {"pipe", "device"} & set(options(nodes))


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


def test_comfyui_reserves_what_the_run_needs(run, model, comfy):
    unet, vae = model.marigold.unet, model.marigold.vae
    image = torch.rand(1, 64, 96, 3)
    for members in (1, 4):
        run("EstimateDepth", model=model, image=image, steps=1, predictions=members)
    one, four = comfy.model_management.reserved
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    side = model.marigold.processing_resolution
    latent = (side // factor) * (side * 2 // 3 // factor)
    assert four >= 4 * unet_activations(unet, latent)
    # Decoding one map takes more than denoising one member.
    decoder = VAE_ACTIVATIONS * vae.config.block_out_channels[0] * latent * factor**2 * 4
    assert one >= decoder > unet_activations(unet, latent)


def test_out_of_memory_is_torchs_error_for_comfyui(run, model, image, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(model.marigold.unet, "forward", full)
    # ComfyUI unloads all models and shows its tip for this class.
    with pytest.raises(torch.OutOfMemoryError, match="lower the processing resolution") as raised:
        run("EstimateDepth", model=model, image=image)
    assert f"{type(raised.value).__module__}" == "builtins"


def test_each_list_has_the_checkpoints_that_it_is_for(nodes, comfy):
    for name, index in {
        "a/depth": '{"_class_name": "MarigoldPipeline"}',
        "normals": '{"_class_name": "MarigoldNormalsPipeline"}',
        "iid": '{"_class_name": "MarigoldIntrinsicsPipeline", "target_properties": {}}',
        # As end-to-end checkpoints are published: their folder alone has the name.
        "marigold-e2e-ft-normals": '{"_class_name": "StableDiffusionPipeline"}',
        "sd-2-1": '{"_class_name": "StableDiffusionPipeline"}',
        "disparity": '{"_class_name": "MarigoldPipeline", "prediction_type": "disparity"}',
    }.items():
        folder = comfy.root / "models" / "diffusers" / name
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text(index)
    listed = {"a/depth", "normals", "iid", "marigold-e2e-ft-normals"}
    everything = set(options(nodes))
    assert everything & {"sd-2-1", "disparity", *listed} == listed
    assert {"nano", "v1-1", "normals-v1-1", "iid-appearance", "iid-lighting"} <= everything
    one_node = nodes["Depth"].GET_SCHEMA().inputs[1].options["options"]
    assert {"nano", "v1-1", "a/depth"} <= set(one_node)
    assert not {"normals", "iid", "normals-v1-1", "iid-lighting"} & set(one_node)


def test_the_model_folder_is_made(nodes, comfy):
    assert (comfy.root / "models" / "marigold").is_dir()


# In place of the program that downloads: writes half of a file, then waits for the network.
SLOW = """
import sys, time, pathlib
folder = pathlib.Path(sys.argv[3])
(folder / "half").write_bytes(bytes(1000))
(folder / "process").write_text(str(__import__("os").getpid()))
time.sleep(60)
"""
FAILS = "import sys; print('huggingface.co cannot be reached'); sys.exit(1)"


@pytest.fixture
def downloads(pack, monkeypatch):
    """The module that downloads, with the network allowed."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return sys.modules[f"{pack.__name__}.nodes.model_download"]


def test_cancel_stops_a_download_and_keeps_what_has_arrived(comfy, downloads, monkeypatch):
    shown = []

    def cancel_at_1000(value, total, preview, node_id=None):
        shown.append((value, total))
        if value >= 1000:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.PROGRESS_BAR_HOOK = cancel_at_1000
    monkeypatch.setattr(downloads, "PROGRAM", SLOW)
    folder = comfy.root / "models" / "marigold" / "v1-1"
    began = time.monotonic()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        downloads.download("v1-1", folder)
    assert time.monotonic() - began < 20
    assert shown[-1][0] >= 1000 and shown[-1][1] > 10**9
    assert (folder / "half").stat().st_size == 1000
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "process").read_text()), 0)


def test_a_failed_download_has_the_engines_message(comfy, downloads, monkeypatch, error):
    monkeypatch.setattr(downloads, "PROGRAM", FAILS)
    with pytest.raises(error, match="cannot be reached"):
        downloads.download("v1-1", comfy.root / "models" / "marigold" / "v1-1")


def test_the_download_program_runs_in_a_bare_python(comfy, downloads, error):
    # Without the repository on its path, and offline: it has the engine's own message.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", downloads.PROGRAM, str(downloads.PACK), "v1-1", str(comfy.root)],
        cwd=comfy.root, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 1 and "HF_HUB_OFFLINE" in run.stdout, run.stderr


def test_a_downloaded_checkpoint_is_used_where_it_is(run, comfy, offline):
    put(comfy.root / "models" / "marigold" / "v1-1")
    assert run("LoadMarigold", checkpoint="v1-1")[0].name == "v1-1"


def test_without_diffusers_the_pack_loads_and_names_the_command(tmp_path):
    # A fresh interpreter, because this one has imported diffusers.
    code = f"""
import asyncio, importlib.util, sys
sys.modules["diffusers"] = None
sys.path.insert(0, {str(STAND_IN)!r})
spec = importlib.util.spec_from_file_location(
    "pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}]
)
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
import folder_paths
folder_paths.place({str(tmp_path)!r})
extension = asyncio.run(pack.comfy_entrypoint())
sys.modules["pack.nodes.load_marigold"].find_spec = lambda name: None
for node in asyncio.run(extension.get_node_list()):
    if node.GET_SCHEMA().node_id in ("MarigoldKit_LoadMarigold", "MarigoldKit_Depth"):
        print(node.validate_inputs("nano"))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loader, one_node = run.stdout.splitlines()
    assert loader == one_node and sys.executable in loader and loader.endswith('install.py"')
