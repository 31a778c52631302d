"""The add-on in a real window. Off unless the environment names what runs one:

GUI_BLENDER         a program that is called as `PROGRAM run SUITE ZIP DRIVER FOLDER`: it installs
                    ZIP into a fresh Blender, runs DRIVER in its window, and copies what the
                    driver writes to FOLDER
GUI_BLENDER_SUITE   which Blender it takes, "sid" unless told
GUI_BLENDER_PYTHON  a Python with torch and diffusers, as that Blender sees it
GUI_BLENDER_WHEELS  a folder, as that Blender sees it, with every wheel of requirements.txt for its
                    Python; without it no environment is made
GUI_BLENDER_SHOTS   where the screenshots stay, a folder for each story
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from blender_addon.build import build

PROGRAM = os.environ.get("GUI_BLENDER", "")
PYTHON = os.environ.get("GUI_BLENDER_PYTHON", "")
WHEELS = os.environ.get("GUI_BLENDER_WHEELS", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAM and PYTHON), reason="no GUI_BLENDER, GUI_BLENDER_PYTHON"),
]


STORIES = ("artist", "measure", "menus", "environment", "faults")
DRIVER = """import sys, tempfile
from pathlib import Path
folder = Path(tempfile.mkdtemp())
for name, text in {sources!r}.items():
    (folder / name).write_text(text, encoding="utf-8")
sys.path.insert(0, str(folder))
import gui_hands
gui_hands.ENGINE_PYTHON, gui_hands.WHEELS = {python!r}, {wheels!r}
import gui_{story}
"""


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("extension"))


@pytest.mark.parametrize("story", STORIES)
def test_every_click_is_seen_to_do_its_work(story: str, archive: Path, tmp_path: Path) -> None:
    if story == "environment" and not WHEELS:
        pytest.skip("no GUI_BLENDER_WHEELS")
    modules = [Path(__file__).with_name(f"gui_{name}.py") for name in ("hands", story)]
    sources = {module.name: module.read_text(encoding="utf-8") for module in modules}
    driver = tmp_path / "driver.py"
    text = DRIVER.format(sources=sources, python=PYTHON, wheels=WHEELS, story=story)
    driver.write_text(text, encoding="utf-8")
    shots = Path(os.environ.get("GUI_BLENDER_SHOTS", tmp_path / "shots")) / story
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
