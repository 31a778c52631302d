"""How long the mesh takes after the engine's answer; `test_first_picture.py` runs this."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import bpy
from addon_in_blender import empty_scene, meshes, part, scenario, use_engine

REPEATS = 3


@scenario
def the_picture_after_the_answer(folder: Path, python: str) -> None:
    """Seconds of this process, on the clock, from the answer of the engine to the evaluated mesh
    in the scene, each time in an empty file."""
    use_engine(python)
    activity = part("ui.operators.background").Activity
    resume, spans = activity._resume, []

    def timed(self, *error):
        before = time.process_time(), time.perf_counter()
        resume(self, *error)
        # The run begins with a call of its own, and ends with this one.
        if not self.running:
            bpy.context.evaluated_depsgraph_get().update()
            spans.append((time.process_time() - before[0], time.perf_counter() - before[1]))

    activity._resume = timed
    try:
        for _ in range(REPEATS):
            empty_scene()
            assert bpy.ops.marigold.depth_mesh(filepath=str(folder / "photo.png")) == {"FINISHED"}
    finally:
        activity._resume = resume
    (mesh,) = meshes()
    graph = bpy.context.evaluated_depsgraph_get()
    vertices = len(mesh.evaluated_get(graph).data.vertices)
    measured = {"spans": spans, "vertices": vertices, "load": os.getloadavg()[0]}
    (folder / "measured.json").write_text(json.dumps(measured), "utf-8")
