"""The stand-in is called as each ComfyUI is that COMFYUI_PATH names, or that one moved on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STAND_IN = HERE / "stand_in"


def signatures(python: str, tree: Path):
    """What signatures.py prints in its last line; ComfyUI prints while it is imported."""
    command = [python, "-B", str(HERE / "signatures.py"), str(tree)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_signatures(installation):
    stand_in = signatures(sys.executable, STAND_IN)
    real = signatures(installation.python, installation.tree)
    assert stand_in.keys() == real.keys()
    for name, parameters in stand_in.items():
        # A newer ComfyUI may know more; what the nodes use has to be there, the same.
        assert [one for one in parameters if one not in real[name]] == [], name
