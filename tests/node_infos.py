"""What the ComfyUI nodes say of themselves, as ComfyUI's /object_info has it: node id -> info.

Told by the ComfyUI that COMFYUI_PATH names, or else by the stand-in beside the tests.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "tests" / "comfyui" / "stand_in"

_spec = importlib.util.spec_from_file_location("node_diff", ROOT / ".github" / "node_diff.py")
assert _spec and _spec.loader
node_diff = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(node_diff)

NODES = node_diff.nodes_of(ROOT, Path(os.environ.get("COMFYUI_PATH", STAND_IN)))
