"""The add-on's side of rendering a training set: what the renderer prints, and how it ends."""

from __future__ import annotations

import ast
import errno
import io
import json
import re
import sys
import time
import zipfile
from pathlib import Path

import pytest
import render_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from render.render_pool import Progress, render_all

from blender_addon.build import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def dataset_render(addon_module):
    return addon_module("backend.dataset_render")


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.floats(0.01, 900))
@settings(max_examples=200, deadline=None)
def test_what_the_renderer_prints_is_understood(dataset_render, done, more, each):
    out = io.StringIO()
    progress = Progress(done, done + more, out)
    progress.started = time.monotonic() - each
    progress.step()
    seen = dataset_render.parse_progress(out.getvalue())
    assert seen == (done + 1, done + more), out.getvalue()


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_other_lines_are_no_progress(dataset_render, line):
    seen = dataset_render.parse_progress(line)
    assert seen is None or re.search(r"\d+ of \d+", line)


def test_lines_of_blender_are_no_progress(dataset_render):
    for line in (
        "Blender 4.5.15 LTS (hash 0 built 2026-01-01)",
        "sample 3 of 100, 2.1 s each",
        "Fra:1 Mem:20.0M | Sample 3/100",
        "2 of 5 samples are there already, or so",
    ):
        assert dataset_render.parse_progress(line) is None, line
    there = dataset_render.parse_progress("2 of 5 samples are there already.")
    assert there == (2, 5)


@pytest.mark.parametrize("blender", ["", "/somewhere/blender"])
def test_the_renderer_takes_the_command(dataset_render, tmp_path, blender):
    options = {"count": 7, "light_jitter": 0.5, "focal_length": [20.0, 35.0],
               "random_frames": True, "threads": 1}  # fmt: skip
    copy = tmp_path / "scene" / "a.blend"
    command = dataset_render.render_command(blender, tmp_path, copy, options)
    assert command[0] == (blender or sys.executable)
    arguments = command[command.index(str(tmp_path)) :]
    parsed = render_dataset.parse(arguments)
    assert (parsed.output, parsed.scenes, parsed.count) == (tmp_path, [copy], 7)
    assert (parsed.light_jitter, parsed.focal_length) == (0.5, [20.0, 35.0])
    assert parsed.random_frames and parsed.threads == 1
    off = dataset_render.render_command(blender, tmp_path, copy, {"random_frames": False})
    assert not render_dataset.parse(off[off.index(str(tmp_path)) :]).random_frames


def test_the_renderer_knows_the_place_of_the_copy(dataset_render, tmp_path):
    assert dataset_render.COPY == render_dataset.COPY
    copy = dataset_render.copy_path(tmp_path, "a.blend")
    copy.parent.mkdir()
    copy.write_bytes(b"")
    assert render_dataset.open_folder(tmp_path, {"scenes": [str(copy)]}) == {}
    # The set that was begun has its scene's name, whatever the file is called by now.
    assert dataset_render.copy_path(tmp_path, "b.blend") == copy
    (tmp_path / "settings.json").write_text(json.dumps({"scenes": ["../../outside.blend"]}))
    assert dataset_render.copy_path(tmp_path, "b.blend").parent == tmp_path / "scene"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("/x/scene/a.blend: 1 failed, the first: sample 0: no camera position with something to "
         "see was found", "No place for a camera"),
        ("/x/scene/a.blend: 1 failed, the first: sample 0: the scene has nothing in it that can "
         "be rendered", "add objects"),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "cannot be written to"),
        ("OSError: [Errno 30] Read-only file system: '/x'", "cannot be written to"),
        ("/x was begun with other settings (/x/settings.json); choose another folder.",
         "other settings"),
        ("/x has other files in it; choose an empty folder.", "choose an empty folder"),
        ("a.blend: 3 failed, the first: sample 0: Out of memory", "Out of memory"),
        ("Segmentation fault", "Segmentation fault"),
        ("", "no message"),
    ],
)  # fmt: skip
def test_every_failure_is_one_message(dataset_render, words, said):
    lines = words.splitlines()
    message = dataset_render.failure_message(lines, Path("set"))
    assert said in message and "\n" not in message and message.endswith(".")


def test_a_full_disk_ends_the_run_at_once(tmp_path):
    # Of 1000 samples not one could be written: rendering them all would take the night.
    answer = json.dumps({"failed": 0, "why": "full", "disk": errno.ENOSPC})
    code = f"import sys\nfor _ in sys.stdin: print({answer!r}, flush=True)"
    command, progress = [sys.executable, "-c", code], Progress(0, 1000, io.StringIO())
    with pytest.raises(OSError) as caught:
        render_all(tmp_path, range(1000), lambda index: "", command, 1, 60, progress)
    assert caught.value.errno == errno.ENOSPC


def test_a_set_with_failures_says_so(dataset_render):
    line = "a.blend: 2 failed, the first: sample 3: no camera position"
    end = "5 samples in /x/set; 5 of them on contact_sheet.png"
    words = dataset_render.summary([line, end], Path("set"))
    assert words.startswith("5 samples are in set; 2 more failed")
    assert dataset_render.summary([end], Path("set")).startswith("5 samples are in set;")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to end by itself on")
def test_cancel_lets_the_renderer_end_by_itself(dataset_render, tmp_path):
    copy = tmp_path / "scene" / "a.blend"
    copy.parent.mkdir()
    copy.write_bytes(b"")
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        f"    pathlib.Path({str(tmp_path / 'swept')!r}).touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('sample 3 of 100, 2.1 s each, 0:03:24 left', flush=True)\n"
        "time.sleep(60)\n"
    )
    task = dataset_render.render([sys.executable, "-c", code], tmp_path, copy)
    end = time.monotonic() + 20
    while task.fraction != 0.03 and time.monotonic() < end:
        task.poll()
        time.sleep(0.01)
    assert (task.step, task.total) == (3, 100) and not task.finished
    task.cancel()
    assert task.state == "cancelled"
    task.join(5)
    assert (tmp_path / "swept").exists() and not copy.parent.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to end by itself on")
def test_a_program_that_hangs_is_killed(addon_module):
    task_module = addon_module("backend.background_task")
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('on', flush=True)\n"
        "time.sleep(60)\n"
    )
    task = task_module.ThreadTask(lambda t: t.command([sys.executable, "-c", code]), grace=0.2)
    end = time.monotonic() + 20
    while "on" not in task.lines and time.monotonic() < end:
        task.poll()
        time.sleep(0.01)
    task.cancel()
    task.join(5)
    assert not task._thread.is_alive()


def test_the_zip_has_all_of_the_renderer(tmp_path):
    with zipfile.ZipFile(build(tmp_path)) as archive:
        files = {n: archive.read(n).decode() for n in archive.namelist() if "renderer/" in n}
    assert "Apache License" in files.pop("renderer/LICENSE")
    assert "renderer/render_dataset.py" in files
    for name, text in files.items():
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), name
        original = ROOT / "training" / name.removeprefix("renderer/")
        assert text.partition("\n")[2] == original.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.level or "render." in str(node.module)):
                module = (node.module or "").removeprefix("render.")
                wanted = [module] if module else [alias.name for alias in node.names]
                for part in wanted:
                    assert f"renderer/render/{part}.py" in files, f"{name} needs {part}"
                continue
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.split(".")[0]
                assert top in {"bpy", "mathutils", "numpy", *sys.stdlib_module_names}, module


def test_nothing_imports_the_renderer():
    for path in (ROOT / "blender_addon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert "renderer" not in str(node.module) and "training" not in str(node.module)


def test_an_unforeseen_error_is_a_message_and_the_log_has_the_traceback(addon_module):
    def work(task):
        raise KeyError("depth")

    task = addon_module("backend.background_task").ThreadTask(work).wait(10)
    assert (task.state, task.error) == ("failed", "It failed (KeyError: 'depth'); see the log.")
    assert any(f'File "{__file__}"' in line for line in task.lines)
