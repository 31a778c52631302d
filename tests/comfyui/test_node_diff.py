"""What the pull request check calls a break is what a saved workflow does not survive."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "node_diff.py"


def load_script():
    spec = importlib.util.spec_from_file_location("node_diff", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


node_diff = load_script()
BASE = {
    "Depth": {
        "name": "Depth",
        "input": {
            "required": {
                "model": ["MODEL"],
                "steps": ["INT", {"default": 4}],
                "method": ["COMBO", {"options": ["median", "mean"], "default": "median"}],
                "file": [["a", "b"], {}],
            },
            "optional": {"mask": ["MASK", {}]},
        },
        "output": ["IMAGE", "MASK"],
    }
}


def changed(change) -> list[str]:
    head = copy.deepcopy(BASE)
    change(head["Depth"])
    return list(node_diff.breaks(BASE, head))


def insert_widget(node):
    node["input"]["required"] = {"seed": ["INT", {}], **node["input"]["required"]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda n: n["output"].reverse(), "outputs"),
        (lambda n: n["output"].pop(), "outputs"),
        (lambda n: n["input"]["optional"].clear(), "mask is gone"),
        (lambda n: n["input"]["required"].update(steps=["FLOAT", {}]), "was INT and is FLOAT"),
        (lambda n: n["input"]["required"].update(normals=["IMAGE"]), "normals is required"),
        (lambda n: n["input"]["required"]["method"][1]["options"].pop(), "['mean']"),
        (insert_widget, "widgets"),
    ],
)
def test_a_break_is_found_and_named_once(change, word):
    found = changed(change)
    assert len(found) == 1
    assert found[0].startswith("Depth: ") and word in found[0]


def test_a_removed_node_is_a_break_and_a_new_one_is_not():
    assert list(node_diff.breaks(BASE, {})) == ["Depth: the node is gone."]
    assert list(node_diff.breaks({}, BASE)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n["output"].append("DEPTH"),
        lambda n: n["input"]["optional"].update(normals=["IMAGE", {}]),
        lambda n: n["input"]["required"].update(seed=["INT", {"default": 0}]),
        lambda n: n["input"]["required"]["method"][1]["options"].append("mode"),
        lambda n: n["input"]["required"].update(file=[["c"], {}]),  # other files on this machine
    ],
)
def test_additions_at_the_end_are_no_break(change):
    assert changed(change) == []


def make_pack(folder: Path, outputs: str) -> Path:
    """A pack as ComfyUI sees one; its nodes describe themselves, without ComfyUI."""
    (folder / "nodes").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .nodes import comfy_entrypoint\n")
    (folder / "nodes" / "__init__.py").write_text(
        "class Node:\n"
        "    @classmethod\n"
        "    def GET_NODE_INFO_V1(cls):\n"
        f"        return {{'name': 'Node', 'input': {{}}, 'output': {outputs}}}\n"
        "class Extension:\n"
        "    async def get_node_list(self):\n"
        "        return [Node]\n"
        "async def comfy_entrypoint():\n"
        "    print('noise on stdout')\n"
        "    return Extension()\n"
    )
    return folder


def test_the_command_on_two_trees(tmp_path):
    comfyui = tmp_path / "ComfyUI" / "comfy"
    comfyui.mkdir(parents=True)
    (comfyui / "cli_args.py").write_text("class args: pass\n")
    base = make_pack(tmp_path / "base", "['IMAGE']")
    head = make_pack(tmp_path / "head", "['MASK']")
    empty = tmp_path / "before there were nodes"
    empty.mkdir()

    def run(*trees):
        command = [sys.executable, str(SCRIPT), *map(str, trees), "--comfyui", str(comfyui.parent)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    broken = run(base, head)
    assert broken.returncode == 1, broken.stderr
    assert broken.stdout.startswith("Node: the outputs were ['IMAGE']")
    for pair in ((base, base), (empty, head)):
        fine = run(*pair)
        assert fine.returncode == 0, fine.stderr
        assert "still load" in fine.stdout
