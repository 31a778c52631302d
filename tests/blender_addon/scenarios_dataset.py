"""A training set rendered from the open scene by the renderer in the zip."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import bpy
from addon_in_blender import empty_scene, part, scenario

QUICK = dict(size=48, samples=1)


def furnish(light: float = 200.0) -> None:
    """Some boxes on a floor, under a lamp: nothing of it is saved."""
    bpy.ops.mesh.primitive_plane_add(size=8)
    for k in range(5):
        place = (1.2 * k - 2.4, 0.7 * (k % 3) - 0.5, 0.4)
        bpy.ops.mesh.primitive_cube_add(size=0.8, location=place, rotation=(0, 0, 0.3 * k))
    if light:
        bpy.ops.object.light_add(type="POINT", location=(0, 0, 4))
        bpy.context.object.data.energy = light


def manifest(folder: Path) -> list[dict]:
    path = folder / "manifest.jsonl"
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def complete(folder: Path, count: int) -> list[dict]:
    lines = manifest(folder)
    assert [line["index"] for line in lines] == list(range(count)), lines
    for line in lines:
        for kind in ("image", "depth", "mask", "normals"):
            assert (folder / line[kind]).stat().st_size > 0, line[kind]
    assert not (folder / "scene").exists(), "the copy of the scene stayed"
    return lines


def refused(**settings) -> str:
    try:
        bpy.ops.marigold.render_dataset(**settings)
    except RuntimeError as error:
        words = str(error)
        assert "Traceback" not in words and len(words.strip().splitlines()) == 1, words
        return words
    raise AssertionError("it was rendered")


@scenario
def a_scene_with_unsaved_changes_becomes_a_training_set(folder: Path, python: str) -> None:
    saved = folder / "Szene äöü 絵.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(saved))
    assert not bpy.ops.marigold.render_dataset.poll(), "an empty scene"
    furnish()
    target = folder / "a set"
    assert bpy.ops.marigold.render_dataset(directory=str(target), count=2, **QUICK) == {"FINISHED"}
    # The saved file is empty: what was rendered are the changes.
    assert {line["scene"] for line in complete(target, 2)} == {saved.name}
    assert Path(bpy.data.filepath) == saved
    rendering = part("ui.operators.background").rendering
    assert rendering.message.startswith("2 samples") and not rendering.running
    assert (target / "contact_sheet.png").exists()
    # Pressed again with a larger number it adds to the set.
    first = (target / "images" / "000000.png").read_bytes()
    assert bpy.ops.marigold.render_dataset(directory=str(target), count=3, **QUICK) == {"FINISHED"}
    complete(target, 3)
    assert (target / "images" / "000000.png").read_bytes() == first
    assert "other settings" in refused(directory=str(target), count=3, size=64, samples=1)


@scenario
def a_training_set_with_its_intrinsic_images(folder: Path, python: str) -> None:
    furnish()
    target = folder / "set"
    settings = dict(directory=str(target), count=1, passes=True, **QUICK)
    assert bpy.ops.marigold.render_dataset(**settings) == {"FINISHED"}
    (sample,) = complete(target, 1)
    for kind in ("albedo", "roughness", "metallicity", "shading"):
        assert (target / sample[kind]).stat().st_size > 0, kind
    assert "other settings" in refused(**dict(settings, count=2, passes=False))


@scenario
def a_cancelled_set_is_continued(folder: Path, python: str) -> None:
    furnish()
    target = folder / "set"
    rendering = part("ui.operators.background").rendering
    seen, cancelled = set(), []

    def cancel_after_one() -> None:
        while not manifest(target) and rendering.state != "failed":
            seen.add(rendering.words)
            time.sleep(0.02)
        cancelled.append(time.monotonic())
        rendering.cancel()

    thread = threading.Thread(target=cancel_after_one)
    thread.start()
    assert bpy.ops.marigold.render_dataset(directory=str(target), count=40, **QUICK) == {
        "CANCELLED"
    }
    ended = time.monotonic()
    thread.join()
    assert ended - cancelled[0] < 1.0, "cancelling takes effect at once"
    assert "Starting Blender" in seen and rendering.state == "cancelled"
    part("ui.operators.dataset").leave()
    assert not (target / "scene").exists()
    done = len(manifest(target))
    assert 1 <= done < 40

    # Saved under a name meanwhile: the set is continued all the same.
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "named.blend"))
    count = done + 1
    settings = dict(directory=str(target), count=count, **QUICK)
    assert bpy.ops.marigold.render_dataset(**settings) == {"FINISHED"}
    assert {line["scene"] for line in complete(target, count)} == {"untitled.blend"}


@scenario
def what_cannot_be_rendered_is_an_error_message(folder: Path, python: str) -> None:
    furnish(light=0.0)
    assert "Choose the folder" in refused()
    assert "not saved yet" in refused(directory="//set")
    assert "cannot be written to" in refused(directory=str(folder / "picture.png" / "set"))
    assert "other files" in refused(directory=str(folder), count=1, **QUICK)
    assert not (folder / "scene").exists() and (folder / "picture.png").exists()
    # Without any light every view is black.
    dark = dict(directory=str(folder / "dark"), count=1, **QUICK)
    assert "No place for a camera" in refused(**dark)
    empty_scene()
    assert not bpy.ops.marigold.render_dataset.poll()
