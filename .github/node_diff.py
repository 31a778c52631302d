"""Do saved ComfyUI workflows still load? Compares the nodes of two trees of this repository.

    python .github/node_diff.py BASE HEAD --comfyui COMFYUI

BASE and HEAD are checkouts, COMFYUI a source tree of ComfyUI whose requirements are installed.
Prints one line for each thing that would break a saved workflow; exits with 1 if there is one.

Comfy-Org/node-diff cannot do this: it wants NODE_CLASS_MAPPINGS, and a pack that exports those has
its comfy_entrypoint ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
Info = dict[str, Any]  # what ComfyUI's /object_info says about one node


def nodes_of(tree: Path, comfyui: Path, python: str = sys.executable) -> dict[str, Info]:
    """node id -> Info, in a process of its own, because both trees have the same module names."""
    script, tree, comfyui = (Path(path).resolve() for path in (__file__, tree, comfyui))
    command = [python, str(script), "--print", str(tree), "--comfyui", str(comfyui)]
    # ComfyUI and packs make folders when they start: not in the trees, nor in the current one.
    with tempfile.TemporaryDirectory() as empty:
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=empty)
    # ComfyUI prints while it is imported; the last line is ours.
    return json.loads(run.stdout.splitlines()[-1])


def load_nodes(tree: Path, comfyui: Path) -> dict[str, Info]:
    """As ComfyUI loads a pack: under a name of its own, without the tree on sys.path."""
    if not (tree / "nodes").is_dir():
        return {}  # a base from before there were nodes
    sys.argv = sys.argv[:1]
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args  # type: ignore[import-not-found]

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = os.getcwd()
    spec = importlib.util.spec_from_file_location(
        "marigold_kit_nodes", tree / "__init__.py", submodule_search_locations=[str(tree)]
    )
    assert spec and spec.loader
    pack = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pack
    spec.loader.exec_module(pack)
    return asyncio.run(schemas(pack))


async def schemas(pack: Any) -> dict[str, Info]:
    extension = pack.comfy_entrypoint()
    if asyncio.iscoroutine(extension):
        extension = await extension
    infos = [node.GET_NODE_INFO_V1() for node in await extension.get_node_list()]
    return {info["name"]: info for info in infos}


def inputs_of(info: Info) -> dict[str, tuple[Any, Info]]:
    """input id -> (type or list of choices, options), in ComfyUI's order."""
    declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {name: (one[0], one[1] if len(one) > 1 else {}) for name, one in declared.items()}


def kind(declared: Any) -> str:
    return "COMBO" if isinstance(declared, list) else declared


def choices(declared: Any, options: Info) -> list[Any]:
    return declared if isinstance(declared, list) else options.get("options") or []


def widgets(info: Info) -> list[str]:
    return [
        name
        for name, (declared, options) in inputs_of(info).items()
        if kind(declared) in WIDGETS and not options.get("forceInput")
    ]


def breaks(base: dict[str, Info], head: dict[str, Info]) -> Iterator[str]:
    """A line for each change of `head` that a workflow saved with `base` does not survive."""
    for name, old in base.items():
        if name not in head:
            yield f"{name}: the node is gone."
            continue
        yield from (f"{name}: {what}" for what in node_breaks(old, head[name]))


def node_breaks(old: Info, new: Info) -> Iterator[str]:
    if new["output"][: len(old["output"])] != old["output"]:  # links hold the output's number
        yield f"the outputs were {old['output']} and are {new['output']}; add new ones at the end."
    before, after = inputs_of(old), inputs_of(new)
    for name, (declared, options) in before.items():
        if name not in after:
            yield f"the input {name} is gone."
            continue
        if kind(after[name][0]) != kind(declared):
            yield f"the input {name} was {kind(declared)} and is {kind(after[name][0])}."
        # A list of what lies in folders differs between machines; one without a default is such.
        gone = set(choices(declared, options)) - set(choices(*after[name]))
        if gone and "default" in options:
            yield f"the input {name} has no longer the choices {sorted(map(str, gone))}."
    for name in new["input"].get("required", {}).keys() - before.keys():
        if name not in widgets(new):
            yield f"the new input {name} is required; saved workflows do not connect it."
    # A saved workflow holds the values of widgets as a list, without their names.
    kept = [name for name in widgets(old) if name in after]
    if widgets(new)[: len(kept)] != kept:
        yield f"the widgets were {widgets(old)} and are {widgets(new)}; add new ones at the end."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="+", type=Path, metavar="TREE", help="base, then head")
    parser.add_argument("--comfyui", type=Path, required=True, help="source tree of ComfyUI")
    parser.add_argument("--print", action="store_true", help="print the nodes of one tree as JSON")
    options = parser.parse_args()
    comfyui = options.comfyui.resolve()
    if options.print:
        print(json.dumps(load_nodes(options.trees[0].resolve(), comfyui)))
        return 0
    if len(options.trees) != 2:
        parser.error("two trees: the base and the head")
    base, head = (nodes_of(tree, comfyui) for tree in options.trees)
    found = list(breaks(base, head))
    print("\n".join(found) or f"Workflows saved with the {len(base)} nodes of the base still load.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
