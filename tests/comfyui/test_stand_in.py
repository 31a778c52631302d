"""The stand-in is called as the ComfyUI is that COMFYUI_PATH names, or that one moved on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STAND_IN = HERE / "stand_in"

pytestmark = pytest.mark.skipif(
    "COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI tree"
)


def told(script: Path, *arguments: str):
    """The last line of a program, run by ComfyUI's Python; ComfyUI prints while it is imported."""
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    run = subprocess.run(
        [python, "-B", str(script), *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def test_signatures():
    stand_in = told(HERE / "signatures.py", str(STAND_IN))
    real = told(HERE / "signatures.py", os.environ["COMFYUI_PATH"])
    assert stand_in.keys() == real.keys()
    for name, parameters in stand_in.items():
        # A newer ComfyUI may know more; what the nodes use has to be there, the same.
        assert [one for one in parameters if one not in real[name]] == [], name
