"""A relit mesh against the true scene under the same lamps, in a real Blender.

    BLENDER_PYTHON=... python -m pytest -m slow -s tests/blender_addon/test_relight.py

prints the errors as a Markdown table; with RELIT_PICTURE=FILE it also writes what the meshes of
the last scene show under both lamps, beside the truth. The maps are the renderer's own true ones:
what is measured is the mesh and its material, not a checkpoint. See `blender_program.py` for
BLENDER_PYTHON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from blender_program import BLENDER_PYTHONS, run
from PIL import Image

from marigold_core.intrinsics import IntrinsicImages, linear_to_srgb
from marigold_core.normals import NormalMap

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BLENDER_PYTHONS, reason="BLENDER_PYTHON names no Python with bpy"),
]

TRAINING = Path(__file__).parents[2] / "training"
# Worlds of training/render and their seeds: two tables and a room.
SCENES = ("table_top:5", "table_top:0", "room:4")
LONGER_SIDE = 256


@pytest.fixture(scope="module")
def scenes(blender, tmp_path_factory):
    folder = tmp_path_factory.mktemp("true")
    program = Path(__file__).with_name("true_scenes.py")
    subprocess.run(
        [blender, str(program), str(folder), str(LONGER_SIDE), *SCENES],
        env=os.environ | {"PYTHONPATH": str(TRAINING)}, stdout=subprocess.DEVNULL, check=True,
        timeout=600,
    )  # fmt: skip
    return [folder / f"{name.replace(':', '_')}.npz" for name in SCENES]


def write_scene(path: Path, folder: Path) -> dict[str, object]:
    """The files of one scene, as a user has them; returns its line of `scenes.json`."""
    name, true = path.stem, np.load(path)
    height, width = true["depth"].shape
    Image.fromarray(true["image"]).save(folder / f"{name}.png")
    np.save(
        folder / f"{name}_depth.npy", np.where(np.isfinite(true["depth"]), true["depth"], np.nan)
    )
    np.save(folder / f"{name}_truth.npy", true["truth"])
    maps = {
        "albedo": true["base_colour"].astype(np.float32),
        "roughness": true["roughness"].astype(np.float32),
        "metallicity": true["metallicity"].astype(np.float32),
    }
    images = IntrinsicImages(maps, dict.fromkeys(maps, "linear"))
    (folder / f"{name}_maps").mkdir()
    # The renderer's are OpenCV's.
    normals = NormalMap(true["normals"] * np.array((1, -1, -1), dtype=np.float32))
    normals.save(folder / f"{name}_maps" / f"{name}_normals.png")
    for kind in maps:
        images.save_map(kind, folder / f"{name}_maps" / f"{name}_{kind}.png")
    return {
        "name": name,
        "picture": f"{name}.png",
        "depth": f"{name}_depth.npy",
        "maps": f"{name}_maps",
        "fov": math.degrees(2 * math.atan(max(height, width) / 2 / float(true["focal"]))),
        "lamps": true["lamps"].tolist(),
        "truth": f"{name}_truth.npy",
    }


def test_relit_with_true_maps_is_nearer_to_the_scene_than_the_picture(
    scenes, blender, archive, tmp_path
):
    rows = [write_scene(path, tmp_path) for path in scenes]
    (tmp_path / "scenes.json").write_text(json.dumps(rows), "utf-8")
    run("relit_as_the_true_scene", blender, archive, tmp_path)
    measured = json.loads((tmp_path / "measured.json").read_text("utf-8"))
    columns = list(next(iter(measured.values())))
    print("\n| | " + " | ".join(columns) + " |\n|---" + "|--:" * len(columns) + "|")
    for name, row in measured.items():
        print(f"| {name} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |")
    if "RELIT_PICTURE" in os.environ:
        picture(rows[-1], tmp_path).save(os.environ["RELIT_PICTURE"], quality=88)
    assert len(measured) == len(SCENES)
    for name, row in measured.items():
        assert row["relightable, all"] < 0.8 * row["picture, all"], name
        assert row["relightable, lit"] < 0.5 * row["picture, lit"], name


def picture(row: dict, folder: Path) -> Image.Image:
    """Two rows, a lamp each, from the left and from the right: the mesh with the picture as its
    base colour, the relightable mesh, the true scene."""
    truth = np.load(folder / row["truth"])
    white = np.quantile(truth, 0.97)
    columns = [truth]
    for name in ("relightable", "picture"):
        seen = np.load(folder / f"{row['name']} {name}.npy")
        columns.insert(0, seen * (seen * truth).sum() / (seen * seen).sum())
    lamps = zip(*columns, strict=True)
    rows = [np.concatenate([shown_light(one / white) for one in lamp], axis=1) for lamp in lamps]
    return Image.fromarray(np.concatenate(rows))


def shown_light(light: np.ndarray) -> np.ndarray:
    return np.rint(linear_to_srgb(light.clip(0, 1)) * 255).astype(np.uint8)
