"""What the nodes say of themselves, and that they do what they say."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "LoadMarigold", "EstimateDepth", "Ensemble", "Normalize", "DepthFromImage", "DepthToMesh",
    "SaveDepth", "LoadDepth", "DepthFromGeometry", "CombineDepth", "EstimatePanorama",
    "Colorize", "Depth", "EstimateNormals", "EnsembleNormals", "NormalsFromDepth", "SaveNormals",
    "IntrinsicImages", "SaveIntrinsicImages", "DepthToPoints", "CameraPath", "KnownDepths",
    "MetricDepth", "EstimateGuidedDepth", "VideoDepth", "CameraFromDepth",
}  # fmt: skip


def test_the_nodes_of_the_pack(nodes):
    assert nodes.keys() == EXPECTED


def test_the_entry_exports_no_v1_mappings(pack):
    # ComfyUI ignores comfy_entrypoint where NODE_CLASS_MAPPINGS is there.
    assert pack.WEB_DIRECTORY == "./web"
    assert set(pack.__all__) == {"WEB_DIRECTORY", "comfy_entrypoint"}
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")


def test_the_entry_is_empty_without_comfyui():
    code = "import runpy; print(sorted(n for n in runpy.run_path('__init__.py') if n[0] != '_'))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "['find_spec']"


def test_ids_are_ours_and_names_not_those_of_another_family(nodes):
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        assert schema.node_id.startswith("MarigoldKit_")
        assert "V2" not in schema.display_name
        assert "arigold" in schema.display_name
        assert schema.category in ("image/geometry estimation", "model/loaders")
        assert schema.description


def test_every_input_and_output_is_explained(nodes):
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        nested = [i for one in schema.inputs for o in getattr(one, "choices", []) for i in o.inputs]
        for one in [*schema.inputs, *nested]:
            assert one.options.get("tooltip"), f"{name}.{one.id}"
        for one in schema.outputs:
            assert one.tooltip and one.display_name, f"{name}.{one.id}"


def test_execute_takes_what_the_schema_declares(nodes):
    for name, node in nodes.items():
        taken = inspect.signature(node.execute).parameters
        declared = {one.id: one for one in node.GET_SCHEMA().inputs}
        assert set(taken) == set(declared), name
        for argument, parameter in taken.items():
            has_default = parameter.default is not inspect.Parameter.empty
            assert has_default == declared[argument].optional, f"{name}.{argument}"


def test_defaults_are_within_their_limits(nodes):
    for name, node in nodes.items():
        nested = [
            within
            for one in node.GET_SCHEMA().inputs
            for option in getattr(one, "choices", [])
            for within in option.inputs
        ]
        for one in [*node.GET_SCHEMA().inputs, *nested]:
            options = one.options
            if "options" in options and "default" in options:
                assert options["default"] in options["options"], f"{name}.{one.id}"
            elif "min" in options:
                assert options["min"] <= options["default"] <= options["max"], f"{name}.{one.id}"


def test_widgets_of_sockets_come_after_nothing_saved_by_position(nodes):
    # A saved workflow holds widget values by position; an optional socket in between is harmless,
    # an optional widget would not be.
    for name, node in nodes.items():
        optional = [one for one in node.GET_SCHEMA().inputs if one.optional]
        sockets = ("MASK", "IMAGE", "MARIGOLD_DEPTH")
        assert all(one.io_type in sockets for one in optional), name


def test_an_older_core_without_search_aliases_keeps_the_pack(nodes):
    import comfy_api.latest.io as io

    assert "search_aliases" not in io.Schema.__dataclass_fields__  # as on 0.8.0


@pytest.mark.parametrize(
    "name", ["SaveDepth", "DepthToMesh", "DepthToPoints", "SaveNormals", "VideoDepth"]
)
def test_nodes_that_write_files_run_without_a_wire_behind_them(nodes, name):
    assert nodes[name].GET_SCHEMA().is_output_node
