"""The add-on in a real window. Off unless the environment names what runs one:

GUI_BLENDER         a program that is called as `PROGRAM run SUITE ZIP DRIVER FOLDER`: it installs
                    ZIP into a fresh Blender, runs DRIVER in its window, and copies what the
                    driver writes to FOLDER
GUI_BLENDER_SUITE   which Blender it takes, "sid" unless told
GUI_BLENDER_PYTHON  a Python with torch and diffusers, as that Blender sees it
GUI_BLENDER_SHOTS   where the screenshots stay
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = os.environ.get("GUI_BLENDER", "")
PYTHON = os.environ.get("GUI_BLENDER_PYTHON", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAM and PYTHON), reason="no GUI_BLENDER, GUI_BLENDER_PYTHON"),
]


def test_every_click_is_seen_to_do_its_work(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "blender_addon.build", "-o", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    archive = next(tmp_path.glob("*.zip"))
    driver = tmp_path / "driver.py"
    text = (Path(__file__).with_name("gui_driver.py")).read_text(encoding="utf-8")
    driver.write_text(text.replace('ENGINE_PYTHON = ""', f"ENGINE_PYTHON = {PYTHON!r}"))
    shots = Path(os.environ.get("GUI_BLENDER_SHOTS", tmp_path / "shots"))
    suite = os.environ.get("GUI_BLENDER_SUITE", "sid")
    run = subprocess.run(
        [PROGRAM, "run", suite, str(archive), str(driver), str(shots)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    seen = json.loads((shots / "result.json").read_text())
    faults = {
        name: value
        for name, value in seen.items()
        if name != "blender" and not (value[0] if isinstance(value, list) else value)
    }
    assert not faults, faults
    assert "Traceback" not in run.stdout, run.stdout[-3000:]
