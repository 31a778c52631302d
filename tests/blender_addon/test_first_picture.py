"""The time from the engine's answer to the picture in the scene, printed and not asserted.

BLENDER_PYTHON=... python -m pytest -s -m slow tests/blender_addon/test_first_picture.py
"""

from __future__ import annotations

import json

import pytest
from blender_program import BLENDER_PYTHONS, run
from PIL import Image

from marigold_core.cli.commands import ASSETS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BLENDER_PYTHONS, reason="BLENDER_PYTHON names no Python with bpy"),
]


def test_the_picture_after_the_answer(blender, archive, tmp_path):
    with Image.open(ASSETS / "example.jpg") as example:
        example.resize((1024, 768), Image.Resampling.LANCZOS).save(tmp_path / "photo.png")
    run("the_picture_after_the_answer", blender, archive, tmp_path)
    measured = json.loads((tmp_path / "measured.json").read_text("utf-8"))
    for number, (seconds, clock) in enumerate(measured["spans"], start=1):
        print(f"mesh {number}: {seconds:.2f} CPU s, {clock:.2f} s on the clock")
    print(f"{measured['vertices']:,} vertices, load {measured['load']:.1f}")
    assert measured["vertices"] >= 1024 * 768
