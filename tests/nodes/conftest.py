"""The node pack on the stand-in for ComfyUI, loaded as ComfyUI loads a pack: under a name of its
own, without the repository on sys.path."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "comfyui" / "stand_in"
NAME = "marigold_kit_pack"


@pytest.fixture(scope="session")
def pack():
    sys.path.insert(0, str(STAND_IN))
    try:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(STAND_IN))
    return module


@pytest.fixture
def comfy(pack, tmp_path):
    """ComfyUI's modules, with the folders of a fresh ComfyUI."""
    import comfy.model_management
    import comfy.utils
    import folder_paths

    folder_paths.place(str(tmp_path))
    comfy.model_management.interrupt_current_processing(False)
    comfy.model_management.loaded.clear()
    comfy.model_management.reserved.clear()
    comfy.utils.PROGRESS_BAR_HOOK = None
    return SimpleNamespace(
        model_management=comfy.model_management,
        utils=comfy.utils,
        args=comfy.cli_args.args,
        folder_paths=folder_paths,
        root=tmp_path,
    )


@pytest.fixture
def nodes(pack, comfy):
    """node id without its prefix -> class."""
    extension = asyncio.run(pack.comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return {one.GET_SCHEMA().node_id.removeprefix("MarigoldKit_"): one for one in classes}


@pytest.fixture
def run(nodes):
    """run("Normalize", depth=...): what ComfyUI does with one node, defaults filled in.

    The inputs of a dynamic combo's option are given beside it: run(mode="percentile",
    low_percentile=1.0).
    """

    def run_node(name, **given):
        node = nodes[name]
        schema = node.GET_SCHEMA()
        inputs = {}
        for one in schema.inputs:
            if hasattr(one, "choices"):
                inputs[one.id] = chosen(one, given)
            elif one.id in given:
                inputs[one.id] = given.pop(one.id)
            elif "default" in one.options:
                inputs[one.id] = one.options["default"]
        assert not given, f"{name} has no input {', '.join(given)}"
        if "validate_inputs" in vars(node):
            wanted = inspect.signature(node.validate_inputs).parameters
            answer = node.validate_inputs(**{name: inputs[name] for name in wanted})
            assert answer is True, answer
        # As ComfyUI runs every node.
        with torch.inference_mode():
            output = node.execute(**inputs)
        assert len(output.args) == len(schema.outputs)
        return output

    return run_node


def chosen(dynamic, given):
    """The value of a dynamic combo: its option and the values of that option's inputs."""
    options = {one.key: one.inputs for one in dynamic.choices}
    key = given.pop(dynamic.id, next(iter(options)))
    values = {one.id: given.pop(one.id, one.options.get("default")) for one in options[key]}
    return {dynamic.id: key, **values}


@pytest.fixture
def error(pack):
    """The pack's MarigoldError. An installed marigold_core has another one."""
    return sys.modules[f"{NAME}.marigold_core.errors"].MarigoldError


@pytest.fixture
def model(run):
    return run("LoadMarigold", precision="fp32")[0]


@pytest.fixture(scope="session")
def image():
    """IMAGE (1, 48, 64, 3): the bundled example, small."""
    picture = Image.open(ROOT / "marigold_core" / "assets" / "example.jpg").convert("RGB")
    return torch.from_numpy(np.asarray(picture.resize((64, 48)), np.float32) / 255)[None]


@pytest.fixture
def depth(run):
    """MARIGOLD_DEPTH of one picture, (4, 6), rising from 0 at the left to 1 at the right."""
    grey = torch.linspace(0, 1, 6).expand(4, 6)[None, ..., None].repeat(1, 1, 1, 3)
    return run("DepthFromImage", image=grey, near_is_white=False)[0]
