"""The ComfyUI nodes as ComfyUI's /object_info has them: node id -> info.

Loaded in the first ComfyUI that COMFYUI_PATH names, or else in the stand-in beside the tests.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "tests" / "comfyui" / "stand_in"

_spec = importlib.util.spec_from_file_location("node_diff", ROOT / ".github" / "node_diff.py")
assert _spec and _spec.loader
node_diff = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(node_diff)

_trees, _pythons = (
    os.environ.get(name, "").split(os.pathsep)[0] for name in ("COMFYUI_PATH", "COMFYUI_PYTHON")
)
NODES = node_diff.nodes_of(ROOT, Path(_trees or STAND_IN), _pythons or sys.executable)


def inputs_of(node):
    """Every input by its name: those of a dynamic combo's options as "combo.input"."""
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    found = {}
    for name, declared in inputs.items():
        found[name] = declared
        for option in declared[1].get("options", []) if len(declared) > 1 else []:
            if isinstance(option, dict):
                nested = option["inputs"].get("required", {})
                found |= {f"{name}.{inner}": one for inner, one in nested.items()}
    return found
