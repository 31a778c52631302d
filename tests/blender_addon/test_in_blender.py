"""The built zip in a real Blender: installed, run, rendered, exported.

    BLENDER_PYTHON=PYTHON42:PYTHON45:PYTHON52 python -m pytest -m slow tests/blender_addon

runs each scenario in each of these Pythons, which have `bpy` from PyPI: see `blender_program.py`.
BLENDER_WHEELS is a folder with every wheel of blender_addon/requirements.txt for these Pythons
(`pip download -r`); without it no environment is made.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pytest
from blender_program import BLENDER_PYTHONS, run
from checkpoint_builders import build_checkpoint
from PIL import Image

from marigold_core.depth import DepthMap

HERE = Path(__file__).parent
WHEELS = os.environ.get("BLENDER_WHEELS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BLENDER_PYTHONS, reason="BLENDER_PYTHON names no Python with bpy"),
]


def names() -> list[str]:
    """The scenarios of the program, which imports bpy and so cannot be imported here."""
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted(HERE.glob("scenarios_*.py"))]
    return [
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "scenario" for d in node.decorator_list)
    ]


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """A floor, a wall, a box before them, a hole."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    depth = np.minimum(0.9, 0.25 * height / np.maximum(y - height * 0.3, 1) + 0.005 * x / width)
    depth[20:40, 20:40] = 0.2 + 0.002 * (x[20:40, 20:40] - 20)
    depth[:6, 50:] = np.nan
    return depth.astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    colours = (rng.random((48, 64, 3)) * 255).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "picture.png")
    np.save(tmp_path / "depth.npy", scene())
    # Slopes everywhere: on flat depth a camera that looks beside the pixel sees the same.
    y, x = np.mgrid[0:48, 0:64].astype(np.float32)
    np.save(tmp_path / "waves.npy", 0.5 + 0.2 * np.sin(x / 5) * np.cos(y / 6) + 0.004 * y)
    boxes = np.full((48, 64), 0.8, dtype=np.float32)
    boxes[10:30, 12:30], boxes[20:44, 24:40] = 0.4, 0.1
    np.save(tmp_path / "boxes.npy", boxes)
    for k in (7, 8, 9):
        Image.fromarray(np.roll(colours, k, axis=1)).save(tmp_path / f"frame_{k}.png")

    plain = (0.1 + 0.8 * rng.random((30, 40))).astype(np.float32)
    np.save(tmp_path / "metres.npy", 2 + 3 * scene_of_shape(tmp_path, plain))
    sensor = np.full((30, 40), 4200, dtype=np.uint16)
    sensor[:4], sensor[4:12] = 0, 800
    Image.fromarray(sensor).save(tmp_path / "kinect.png")
    Image.new("RGB", (64, 48), (200, 200, 200)).save(tmp_path / "white.png")
    down = (np.mgrid[0:48, 0:64][0] + 8.0).astype(np.float32)
    np.save(tmp_path / "floor.npy", (1 / down - 1 / 55) / (1 / 8 - 1 / 55))
    for suffix in ("png", "exr", "tif", "npy"):
        DepthMap(plain).save(tmp_path / f"plain.{suffix}")
    write_channel(tmp_path / "z_alone.exr", "Z", plain)
    write_channel(tmp_path / "no_depth.exr", "ViewLayer.Normal.Z", plain)

    smooth = np.kron(rng.random((3, 4, 3)), np.ones((16, 16, 1)))
    np.save(tmp_path / "upright.npy", smooth.astype(np.float32))
    # What the camera stored, by EXIF's numbers for how to turn it back.
    stored = [
        lambda a: a,
        np.fliplr,
        lambda a: np.rot90(a, 2),
        np.flipud,
        lambda a: a.transpose(1, 0, 2),
        np.rot90,
        lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        lambda a: np.rot90(a, -1),
    ]
    for number, turn in enumerate(stored, start=1):
        exif = Image.Exif()
        exif[0x0112] = number
        picture = Image.fromarray(np.ascontiguousarray((turn(smooth) * 255).astype(np.uint8)))
        picture.save(tmp_path / f"turned_{number}.jpg", exif=exif, quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray((np.rot90(smooth) * 255).astype(np.uint8)))
    for suffix in ("webp", "png", "tif"):
        options = {"lossless": True} if suffix == "webp" else {}
        turned.save(tmp_path / f"turned.{suffix}", exif=exif, **options)
    lens = Image.Exif()
    lens.get_ifd(0x8769)[0xA405] = 28
    Image.fromarray((smooth * 255).astype(np.uint8)).save(tmp_path / "lens.jpg", exif=lens)
    return tmp_path


def scene_of_shape(folder: Path, depth: np.ndarray) -> np.ndarray:
    """`metres.npy` goes with the picture of 64 x 48."""
    y, x = np.mgrid[0:48, 0:64]
    return depth[y * 30 // 48, x * 40 // 64]


def write_channel(path: Path, name: str, values: np.ndarray) -> None:
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {name: values}) as file:
        file.write(str(path))


@pytest.mark.parametrize("name", names())
def test_scenario(name, blender, archive, folder):
    if name == "an_environment_made_of_wheels_runs_the_engine":
        if not WHEELS:
            pytest.skip("no BLENDER_WHEELS")
        (folder / "wheels").symlink_to(WHEELS)
    if name == "relightable_by_checkpoints":
        for family in ("normals-v1-1", "iid-appearance", "iid-lighting"):
            build_checkpoint(folder / family, family)
    run(name, blender, archive, folder)
    if name == "rendered_depth_is_the_source":
        compare_rendered_depth(folder / "rendered.exr", folder / "waves.npy")
        compare_rendered_depth(folder / "rendered_upright.exr", folder / "upright_waves.npy")


def compare_rendered_depth(rendered: Path, waves: Path) -> None:
    import OpenEXR

    with OpenEXR.File(str(rendered)) as file:
        # One part up to 4.5, one a pass from 5.0 on.
        channels = {name: c for part in file.parts for name, c in part.channels.items()}
        depth = next(c.pixels for name, c in channels.items() if name.endswith("Depth.Z"))
    source = 1.5 + 7.5 * np.load(waves)
    seen = depth < 1e9
    assert seen.mean() > 0.9  # the mesh ends at the centres of the outer pixels
    error = np.abs(depth - source)[seen] / source[seen]
    print(f"{rendered.name}: median relative error {np.median(error):.1e}")
    assert np.median(error) <= 1e-4
