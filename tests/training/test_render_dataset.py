"""Rendered data sets: files, resuming and bad scenes; and, where Blender is, depth itself.

The first Python of `blender_program.py` that has bpy is used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from blender_program import BLENDER_PYTHONS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from render.exr_png import read_exr, read_png, write_exr, write_png
from render.render_pool import Progress, clock, render_all
from render.sample_folder import (
    Sample,
    append_manifest,
    read_manifest,
    write_contact_sheet,
    write_sample,
)

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "training" / "render_dataset.py"
BPY = next(iter(BLENDER_PYTHONS), None)
needs_blender = pytest.mark.skipif(
    not BPY, reason="no bpy here; BLENDER_PYTHON can name a Python that has it"
)
INTRINSIC = {
    "albedo": "RGB", "shading": "RGB", "residual": "RGB", "base_colour": "RGB",
    "roughness": "Y", "metallicity": "Y",
}  # fmt: skip
SMALL = ["--size", "48", "--samples", "1", "--bounces", "1", "--threads", "1"]


def blender_environment(**more: str) -> dict[str, str]:
    # A Blender's Python must see nothing of this one's packages.
    keep = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**keep, "OMP_NUM_THREADS": "1", **more}


def render(output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BPY), str(SCRIPT), str(output), *SMALL, *more],
        env=blender_environment(),
        capture_output=True,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a data set that a training run reads."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "logs"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def some_sample(height: int = 12, width: int = 20, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 300, (height, width)).astype(np.float32)
    depth[:3] = np.inf
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(image, depth, np.zeros((height, width, 3), np.float32), {"scene": "room"})


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_exr_files_are_openexr(tmp_path_factory, height, width, smooth, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("exr") / "a.exr"
    plane = np.ones((height, width)) if smooth else rng.normal(0, 1e4, (height, width))
    planes = {"Z": plane.astype(np.float32), "A": (plane / 1e3).astype(np.float16)}
    write_exr(path, planes)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        for name, written in planes.items():
            assert np.array_equal(file.channels()[name].pixels, written)
    again = read_exr(path)
    assert all(np.array_equal(again[name], planes[name]) for name in planes)


def test_an_exr_of_another_kind_is_refused(tmp_path):
    plane = np.zeros((4, 4), np.float32)
    header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Z": plane}).write(str(tmp_path / "piz.exr"))
    with pytest.raises(ValueError, match="piz.exr"):
        read_exr(tmp_path / "piz.exr")


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (1, 1)])
def test_png_files_are_png(tmp_path, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    assert np.array_equal(read_png(tmp_path / "a.png"), picture)


def test_a_sample_on_disk(tmp_path):
    sample = some_sample()
    line = write_sample(tmp_path, 12, sample)
    assert (line["image"], line["depth"]) == ("images/000012.png", "depth/000012.exr")
    with OpenEXR.File(str(tmp_path / line["depth"]), separate_channels=True) as file:
        depth = file.channels()["Z"].pixels
    valid = np.isfinite(sample.depth)
    assert np.isinf(depth[~valid]).all()
    assert np.max(np.abs(depth[valid] / sample.depth[valid] - 1)) <= 8e-6
    assert np.array_equal(np.asarray(Image.open(tmp_path / line["mask"])) == 255, valid)


def test_a_sample_with_intrinsic_images_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {k: (12, 20, 3) if len(axes) == 3 else (12, 20) for k, axes in INTRINSIC.items()}
    maps = {k: rng.normal(0, 2, shape).astype(np.float16) for k, shape in shapes.items()}
    line = write_sample(tmp_path, 3, some_sample()._replace(maps=maps))
    for kind, written in maps.items():
        assert line[kind] == f"{kind}/000003.exr"
        with OpenEXR.File(str(tmp_path / line[kind]), separate_channels=True) as file:
            planes = [file.channels()[axis].pixels for axis in INTRINSIC[kind]]
        assert np.array_equal(np.stack(planes, -1).reshape(written.shape), written)


def test_a_torn_manifest_line_does_not_count(tmp_path):
    for index in range(3):
        append_manifest(tmp_path, write_sample(tmp_path, index, some_sample(seed=index)))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert list(read_manifest(tmp_path)) == [0, 1]
    assert write_contact_sheet(tmp_path, tmp_path / "sheet.png") == 2
    assert Image.open(tmp_path / "sheet.png").size == (320, 320)


# Speaks as blender_worker does; dies over sample 2 and says that it cannot render 4.
STAND_IN = """
import json, os, sys
print("Blender greets", flush=True)
for text in sys.stdin:
    i = int(text)
    if i == 2: os._exit(11)
    if i == 5: __import__("time").sleep(60)
    answer = {"failed": i, "why": "no"} if i == 4 else {"line": {"index": i}}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_that_die_or_hang_are_replaced(tmp_path, capsys, processes):
    errors = render_all(
        tmp_path, range(8), lambda i: f"scene {i}", [sys.executable, "-c", STAND_IN],
        processes, 2.0, Progress(0, 8),
    )  # fmt: skip
    assert sorted(read_manifest(tmp_path)) == [0, 1, 3, 6, 7]
    assert sorted(errors) == ["scene 2", "scene 4", "scene 5"]
    assert "ended with 11" in errors["scene 2"][0]
    assert "sample 5 of 8" in capsys.readouterr().out


def test_a_scene_that_only_fails_is_given_up(tmp_path):
    def scene_of(index: int) -> str:
        return "bad.blend" if index % 2 else "good.blend"

    stand_in = STAND_IN.replace("i == 2", "False").replace("i == 5", "False")
    command = [sys.executable, "-c", stand_in.replace("i == 4", "i % 2")]
    errors = render_all(tmp_path, range(20), scene_of, command, 1, 60, Progress(0, 20))
    assert len(errors["bad.blend"]) == 3
    assert sorted(read_manifest(tmp_path)) == list(range(0, 20, 2))


def test_time_left_is_readable():
    assert clock(3725) == "1:02:05"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--aspects", "4x3"], "4x3 is not a ratio"),
        (["--focal-length", "50", "20"], "the shorter one first"),
        (["--count", "0"], "at least 1"),
        (["--scenes", "missing.blend"], "missing.blend"),
        (["--worlds", "desk"], "--models with a models.json"),
        (["--environments", "nowhere"], "nowhere; check the path after --environments"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, said):
    run = subprocess.run(
        [BPY or sys.executable, str(SCRIPT), str(tmp_path / "out"), *arguments],
        env=blender_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0 and "Traceback" not in run.stderr
    assert said in run.stderr or (not BPY and "Blender is missing" in run.stderr)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    run = subprocess.run(
        [str(BPY), str(Path(__file__).with_name("blender_checks.py")), str(folder)],
        env=blender_environment(PYTHONPATH=str(ROOT / "training")),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads((folder / "facts.json").read_text()), folder


@needs_blender
@pytest.mark.slow
def test_depth_is_what_rays_meet(facts):
    for kind, fact in facts[0]["worlds"].items():
        assert fact["median"] <= 1e-4 and fact["share"] > 0.99, (kind, fact)
        assert fact["sky_agrees"] > 0.99, (kind, fact)
        assert fact["unprojected"] <= 1e-4, (kind, fact)
        assert fact["fits"], f"the camera of {kind} stands in or at something"
        assert fact["facing"] > 0.99 and fact["unit"] < 1e-3, (kind, fact)


@needs_blender
@pytest.mark.slow
def test_glass_and_mirrors_have_the_depth_of_their_first_surface(facts):
    row = np.array(facts[0]["panes"]["row"])
    # 24 mm across 96 pixels is 64 pixels a unit: the pane spans x = -0.8..-0.2 m at 2 m.
    assert np.allclose(row[24:41], 2.0, rtol=1e-4)
    assert np.allclose(row[56:70], 3.0, rtol=1e-4)
    assert np.allclose(row[:20], 5.0, rtol=1e-4)
    assert np.isinf(facts[0]["panes"]["top"]).all()


@needs_blender
@pytest.mark.slow
def test_albedo_times_shading_plus_residual_is_the_picture(facts):
    fact = facts[0]["decomposition"]
    assert fact["error"] <= 1e-3
    assert fact["same"], "the picture is another with --passes"
    before, after, left = fact["nodes"]
    assert before == after and not left, "the materials are not as they were"
    wall = {kind: np.array(values) for kind, values in fact["wall"].items()}
    light, dark = (np.abs(wall["albedo"][..., 0] - a) < 1e-3 for a in (0.8, 0.2))
    assert min(light.sum(), dark.sum()) > 50
    for square, colour in ((light, (0.8, 0.4, 0.2)), (dark, (0.2, 0.4, 0.8))):
        for kind in ("albedo", "base_colour"):
            assert np.allclose(np.median(wall[kind][square], 0), colour, atol=1e-3)
        # Of a sun of 3 W/m2 that looks straight at the wall, whatever the wall's colour.
        assert np.allclose(np.median(wall["shading"][square], 0), 3 / np.pi, rtol=0.02)
        assert np.abs(np.median(wall["residual"][square], 0)).max() < 0.01
    assert np.allclose(wall["roughness"], 0.7, atol=1e-3) and not wall["metallicity"].any()


@needs_blender
@pytest.mark.slow
def test_what_a_surface_is_made_of_is_read_from_its_shader(facts):
    at = facts[0]["decomposition"]["at"]
    metal, lamp, sheet, paint = (at[name] for name in ("metal", "lamp", "sheet", "paint"))
    assert not any(metal["albedo"]) and not any(metal["shading"])
    assert np.allclose(metal["base_colour"], (0.9, 0.6, 0.3), atol=1e-3)
    assert np.allclose((metal["roughness"], metal["metallicity"]), (0.3, 1), atol=1e-3)
    assert np.allclose(lamp["residual"], (2, 1, 0.5), atol=0.02) and not any(lamp["albedo"])
    # Through a sheet that is not there, the wall.
    assert np.allclose(sheet["base_colour"], sheet["albedo"], atol=1e-3)
    assert max(sheet["albedo"]) == pytest.approx(0.8, abs=1e-3)
    assert np.allclose((sheet["roughness"], sheet["metallicity"]), (0.7, 0), atol=1e-3)
    assert np.allclose(paint["base_colour"], 0.5, atol=1e-3)
    assert np.allclose(paint["albedo"], 0.25, atol=1e-3)
    assert np.allclose((paint["roughness"], paint["metallicity"]), (0.6, 0.5), atol=1e-3)


@needs_blender
@pytest.mark.slow
def test_solids_are_closed_and_face_outward(facts):
    assert len(facts[0]["volumes"]) == 6
    assert all(volume > 0.1 for volume in facts[0]["volumes"].values()), facts[0]["volumes"]


@needs_blender
@pytest.mark.slow
def test_a_killed_run_goes_on_and_equals_an_uninterrupted_one_by_two_processes(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = subprocess.Popen(
        [str(BPY), str(SCRIPT), str(killed), *SMALL, "--passes", "--count", "5"],
        env=blender_environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while len(read_manifest(killed)) < 2 and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 2 <= len(read_manifest(killed)) < 5
    for kind in ("depth", "residual"):
        (killed / kind / ".000003.torn.exr").write_bytes(b"half")
    again = render(killed, "--passes", "--count", "5")
    assert again.returncode == 0, again.stderr
    assert "of 5 samples are there already" in again.stdout
    other = render(whole, "--passes", "--count", "5", "--processes", "2")
    assert other.returncode == 0, other.stderr
    assert contents(killed) == contents(whole)
    lines = [json.loads(t) for t in (whole / "manifest.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(5))
    for line in lines:
        width, height = Image.open(whole / line["image"]).size
        assert max(width, height) == 48
        assert line["intrinsics"][2:] == [width / 2, height / 2]
        assert line.keys() >= {"unit_m", "seed", "scene"}
        for kind in ("image", "depth", "mask", "normals", *INTRINSIC):
            assert (whole / line[kind]).is_file()
        assert all(set(read_exr(whole / line[k])) == set(axes) for k, axes in INTRINSIC.items())
    for other in (["--passes", "--seed", "1"], []):
        refused = render(whole, "--count", "5", *other)
        assert refused.returncode == 1 and "other settings" in refused.stderr


@needs_blender
@pytest.mark.slow
def test_own_scenes_and_a_bad_one_among_them(facts, tmp_path):
    bad = tmp_path / "bad.blend"
    bad.write_bytes(b"not a scene")
    good = facts[1] / "room.blend"
    run = render(
        tmp_path / "out", "--scenes", str(bad), str(good), "--views-per-scene", "1", "--count", "4"
    )
    assert run.returncode == 0, run.stderr
    assert "bad.blend" in run.stderr and "Traceback" not in run.stderr
    lines = read_manifest(tmp_path / "out")
    assert sorted(lines) == [1, 3]
    assert {line["scene"] for line in lines.values()} == {"room.blend"}
    assert lines[1]["camera_to_world"] != lines[3]["camera_to_world"]


# What `blender -b [FILE] -P SCRIPT -- ...` does, as far as the script can tell.
BLENDER = """#!{python}
import runpy, sys, bpy
bpy.app.binary_path = {program!r}
arguments = sys.argv[1:]
sys.path[:] = [p for p in sys.path if p != {folder!r}]
if arguments[1].endswith(".blend"):
    bpy.ops.wm.open_mainfile(filepath=arguments[1])
runpy.run_path(arguments[arguments.index("-P") + 1], run_name="__main__")
"""


@needs_blender
@pytest.mark.slow
def test_inside_a_background_blender_it_renders_the_open_scene(facts, tmp_path):
    program = tmp_path / "blender"
    filled = {"python": BPY, "program": str(program), "folder": str(SCRIPT.parent)}
    program.write_text(BLENDER.format(**filled))
    program.chmod(0o755)
    run = subprocess.run(
        [str(program), "-b", str(facts[1] / "room.blend"), "-P", str(SCRIPT), "--",
         str(tmp_path / "out"), *SMALL, "--count", "1"],
        env=blender_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert read_manifest(tmp_path / "out")[0]["scene"] == "room.blend"


@needs_blender
@pytest.mark.slow
def test_a_model_stands_at_its_size_with_its_front_where_it_was_turned(facts):
    model = facts[0]["model"]
    # 1.2 m wide, 0.7 m deep with its nose and 0.75 m high; turned, its front looks along -x.
    assert np.allclose(np.subtract(model["high"], model["low"]), (0.7, 1.2, 0.75), atol=1e-5)
    assert np.allclose([model["low"][2], model["nose"][1]], (3, 2), atol=1e-5)
    assert np.isclose(model["nose"][0], model["low"][0], atol=1e-5)


@needs_blender
@pytest.mark.slow
def test_assets_in_an_opened_scene_leave_no_trace_in_the_next_sample(facts):
    fact = facts[0]["decorated"]
    assert fact["median"] <= 1e-4 and fact["sky_agrees"] > 0.99
    assert fact["guests"] > 0 and fact["textured"] > 0
    # As many objects, meshes, materials, worlds and images in memory after the same sample again.
    assert fact["held"][0] == fact["held"][1]
    assert fact["maps"] == ["sky.exr"]
    assert fact["same"]
