"""The example workflows: complete, and run as they are in a real ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "example_workflows").glob("*.json"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COMFY_DYNAMICCOMBO_V3")
# ComfyUI's Render Mesh casts rays, on a CPU for minutes: fewer frames, pixels and triangles there.
SMALLER = {
    "MarigoldKit_CameraPath": {"frames": 3},
    "MarigoldKit_DepthToMesh": {"max_vertices": 5000},
    "RenderMesh": {"width": 96, "height": 72},
}
WITH_A_WIDGET_OF_THE_FRONTEND = ("control_after_generate", "image_upload", "video_upload")
NOTES = ("Note", "MarkdownNote")
MUTED = 2  # a node's mode
WITH_A_PREVIEW = {
    f"MarigoldKit_{name}" for name in ("EstimateDepth", "EstimateNormals", "IntrinsicImages")
}


def names(files):
    return [file.stem for file in files]


def graph_of(workflow, known):
    """The API's graph of a saved workflow, with what /object_info says of the nodes."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES or node["mode"] == MUTED:
            continue
        info = known[node["type"]]
        declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        values = iter(node["widgets_values"])
        inputs = {}
        for name, (kind, *options) in declared.items():
            option = options[0] if options else {}
            if isinstance(kind, list) or option.get("widgetType", kind) in WIDGETS:
                inputs[name] = next(values)
                for choice in option.get("options", []):
                    if isinstance(choice, dict) and choice["key"] == inputs[name]:
                        nested = choice["inputs"].get("required", {})
                        inputs |= {f"{name}.{inner}": next(values) for inner in nested}
                if any(option.get(name) for name in WITH_A_WIDGET_OF_THE_FRONTEND):
                    next(values)
        assert next(values, None) is None, f"{node['type']} has widget values left over"
        for one in node["inputs"]:
            if one["link"] is not None:
                inputs[one["name"]] = sources[one["link"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def test_each_has_a_square_picture_and_a_title():
    for file in FILES:
        with Image.open(file.with_suffix(".jpg")) as picture:
            assert picture.size == (400, 400)
        # The frontend shows the file's name as the title.
        assert " " in file.stem and "_" not in file.stem


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_wires_and_places(file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, output, target, entry, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][entry]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == kind
    for node in nodes.values():
        left, top = node["pos"]
        right, bottom = left + node["size"][0], top + node["size"][1]
        if node["type"] in WITH_A_PREVIEW:
            bottom += 0.75 * node["size"][0] + 40  # it grows while it runs
        for other in nodes.values():
            x, y = other["pos"]
            # A title stands 30 pixels above its node.
            apart = x >= right or y - 30 >= bottom or x + other["size"][0] <= left
            apart |= y + other["size"][1] <= top - 30
            assert other is node or apart, f"{node['type']} lies on {other['type']}"


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_muted_nodes_are_the_cores_own_and_fit_each_other(comfyui, file):
    # They need models that are not here, so that they cannot be run.
    workflow = json.loads(file.read_text(encoding="utf-8"))
    known = comfyui.request("/object_info")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    muted = [node for node in workflow["nodes"] if node["mode"] == MUTED]
    for node in muted:
        assert not node["type"].startswith("MarigoldKit_")
        info = known[node["type"]]
        declared = {**info["input"]["required"], **info["input"].get("optional", {})}
        # Newer versions add outputs.
        kinds = [one["type"] for one in node["outputs"]]
        assert info["output"][: len(kinds)] == kinds
        for one in node["inputs"]:
            assert declared[one["name"]][0] == one["type"], f"{node['type']}.{one['name']}"
    for _, source, output, target, *_ in workflow["links"]:
        if nodes[target] in muted:
            type, number = nodes[source]["type"], output
            assert known[type]["output"][number] == nodes[source]["outputs"][number]["type"]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=names(FILES))
@pytest.mark.usefixtures("downloaded")
def test_it_runs_as_it_is(comfyui, file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    known = comfyui.request("/object_info")
    missing = {node["type"] for node in workflow["nodes"]} - known.keys() - set(NOTES)
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")
    graph = graph_of(workflow, known)
    if "RenderMesh" in {node["class_type"] for node in graph.values()}:
        for node in graph.values():
            node["inputs"] |= SMALLER.get(node["class_type"], {})
    outputs = comfyui.run(graph)
    for number, node in graph.items():
        if comfyui.request(f"/object_info/{node['class_type']}")[node["class_type"]]["output_node"]:
            assert outputs[number], f"{node['class_type']} shows nothing"
