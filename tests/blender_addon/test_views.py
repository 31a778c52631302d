"""Photographs as depth meshes in a real Blender: the matched view, and orbits around it.

    BLENDER_PYTHON=... python -m pytest -m slow -s tests/blender_addon/test_views.py

prints the numbers as Markdown tables; see `blender_program.py` for BLENDER_PYTHON. With
ORBIT_PICTURE=FILE it also writes what the example shows after an orbit.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from blender_program import BLENDER_PYTHONS, run
from data_builders import SHARED_RGBD
from PIL import Image

import marigold_core
from marigold_core import Marigold

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BLENDER_PYTHONS, reason="BLENDER_PYTHON names no Python with bpy"),
]
needs_photographs = pytest.mark.skipif(
    not SHARED_RGBD.is_dir(), reason="no shared pictures with depth"
)

ASSETS = Path(marigold_core.__file__).parent / "assets"
LONGER_SIDE = 256
# The frames whose depth is nearly complete.
TEN = (
    "icl_nuim_living_1", "icl_nuim_living_4", "hypersim_ai_037_002_depth_only", "nyu_dining",
    "middlebury_cones", "middlebury_motorcycle", "realsense_bowl", "realsense_kitchen_rack",
    "sevenscenes_redkitchen_000000", "ycb_table",
)  # fmt: skip
ROOMS = (
    "icl_nuim_living_1", "icl_nuim_living_4", "hypersim_ai_037_002_depth_only", "nyu_dining",
    "sevenscenes_redkitchen_000000",
)  # fmt: skip


def frame(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The picture (H, W, 3) and its distances (H, W), small; holes have their neighbours'."""
    spec = importlib.util.spec_from_file_location("shared_rgbd", SHARED_RGBD / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rgb, values, valid, meta = module.load(str(SHARED_RGBD / name))
    if meta["depth_kind"] == "disparity":
        values = np.median(values[valid]) / np.where(valid, values, 1)
    while not valid.all():
        values, valid = _grown(values, valid)
    step = max(values.shape) / LONGER_SIDE
    height, width = (round(side / step) for side in values.shape)
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
    small = Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(small), values[np.ix_(rows, columns)].astype(np.float32)


def _grown(values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    result, known = values.copy(), valid.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        take = np.roll(valid, shift, axis) & ~known
        result[take] = np.roll(values, shift, axis)[take]
        known |= take
    return result, known


def example(name: str) -> tuple[np.ndarray, np.ndarray]:
    millimetres = np.asarray(Image.open(ASSETS / f"{name}_depth.png"), dtype=np.float32)
    return np.asarray(Image.open(ASSETS / f"{name}.jpg")), millimetres / 1000


def views(folder: Path, names: tuple[str, ...], nano: bool, source=frame, degrees=15) -> None:
    """Write pictures, depth maps and `views.json`."""
    marigold = Marigold.from_pretrained("nano") if nano else None
    rows = []
    for name in names:
        picture, z = source(name)
        Image.fromarray(picture).save(folder / f"{name}.png")
        near, far = float(z.min()), float(z.max())
        maps = {"true": ((z - near) / (far - near), near, far)}
        if marigold is not None:
            maps["nano"] = (marigold(picture).depth, 1.0, 5.0)
        for kind, (depth, nearest, furthest) in maps.items():
            np.save(folder / f"{name}_{kind}.npy", depth.astype(np.float32))
            rows.append(
                {
                    "name": f"{name}, {kind}",
                    "picture": f"{name}.png",
                    "depth": f"{name}_{kind}.npy",
                    "near": nearest,
                    "far": furthest,
                    "degrees": degrees,
                }
            )
    (folder / "views.json").write_text(json.dumps(rows), "utf-8")


def measured(
    scenario: str, blender: str, archive: Path, folder: Path
) -> dict[str, dict[str, float]]:
    run(scenario, blender, archive, folder, seconds=1500)
    return json.loads((folder / "measured.json").read_text("utf-8"))


def table(numbers: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(numbers.values())))
    print("\n| | " + " | ".join(columns) + " |\n|---" + "|--:" * len(columns) + "|")
    for name, row in numbers.items():
        print(f"| {name} | " + " | ".join(f"{row[c]:.4g}" for c in columns) + " |")


@needs_photographs
@pytest.mark.parametrize("engine", ["cycles", "eevee"])
def test_the_matched_view_is_the_picture(engine, blender, archive, tmp_path):
    views(tmp_path, TEN, nano=True)
    numbers = measured(f"matched_views_in_{engine}", blender, archive, tmp_path)
    table(numbers)
    assert len(numbers) == 20
    for name, row in numbers.items():
        assert row["mesh"] <= row["plane"] + 0.5, name
        assert row["open"] == 0, f"{name}: the render shows the background"


def left_after_an_orbit(blender: str, archive: Path, folder: Path) -> dict[str, dict[str, float]]:
    numbers = measured("holes_after_an_orbit", blender, archive, folder)
    for row in numbers.values():
        row["left"] = row["filled"] / row["torn"]
    table(numbers)
    return numbers


@needs_photographs
def test_an_orbit_shows_few_holes(blender, archive, tmp_path):
    views(tmp_path, ROOMS, nano=False)
    numbers = left_after_an_orbit(blender, archive, tmp_path)
    for name, row in numbers.items():
        assert row["torn"] > 0.002 * row["frame"], f"{name} has no tear to fill"
        assert row["left"] <= 0.1, name


def test_the_example_from_the_side(blender, archive, tmp_path):
    """By twice the angle that the layer is made for."""
    views(tmp_path, ("example",), nano=True, source=example, degrees=30)
    numbers = left_after_an_orbit(blender, archive, tmp_path)
    if "ORBIT_PICTURE" in os.environ:
        orbit_picture(tmp_path).save(os.environ["ORBIT_PICTURE"], quality=85)
    assert numbers["example, true"]["left"] <= 0.1


def orbit_picture(folder: Path) -> Image.Image:
    """Two rows, with true depth and with nano's: the picture, the torn mesh after the orbit, and
    the mesh with its background layer."""
    grey, size = (70, 70, 70, 255), (400, 300)
    rows = Image.new("RGB", (3 * size[0], 2 * size[1]))
    for down, kind in enumerate(("true", "nano")):
        files = [f"example, {kind}_{mesh}_2.png" for mesh in ("torn", "filled")]
        for across, name in enumerate(("example.png", *files)):
            seen = Image.open(folder / name).convert("RGBA")
            whole = Image.alpha_composite(Image.new("RGBA", seen.size, grey), seen)
            place = (across * size[0], down * size[1])
            rows.paste(whole.convert("RGB").resize(size, Image.Resampling.LANCZOS), place)
    return rows
