"""Scenarios run in a real Blender: a Python with bpy.

BLENDER_PYTHON names one, or several with os.pathsep between them as in PATH: then each test runs in
each. Without it this Python's own bpy is used, if there is one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

INSIDE = Path(__file__).parent / "blender_addon" / "inside_blender.py"
_OWN = sys.executable if importlib.util.find_spec("bpy") else ""
BLENDER_PYTHONS = [
    python for python in os.environ.get("BLENDER_PYTHON", _OWN).split(os.pathsep) if python
]


def run(name: str, blender: str, archive: Path, folder: Path, seconds: float = 600) -> str:
    resources = folder / "blender"
    resources.mkdir()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BLENDER"))
    }
    environment |= {"BLENDER_USER_RESOURCES": str(resources), "OMP_NUM_THREADS": "1"}
    command = [blender, str(INSIDE), name, str(archive), str(folder), sys.executable]
    child = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds
    )
    words = child.stdout + child.stderr
    assert child.returncode == 0 and f"PASSED {name}" in child.stdout, words[-4000:]
    return words
