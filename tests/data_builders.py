"""Small data sets in the original layouts, made of random numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

SHARED_RGBD = Path(__file__).parents[2] / "shared" / "data" / "rgbd"


def picture(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def grey_16(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


def rendered_folder(root: Path, count: int, height: int = 24, width: int = 32) -> Path:
    """What training/render_dataset.py writes: EXR depth in metres, masks, manifest.jsonl."""
    import OpenEXR

    lines = []
    for i in range(count):
        picture(root / f"images/{i:06}.png", height, width, i)
        depth = np.random.default_rng(i).uniform(1, 9, (height, width)).astype(np.float32)
        depth[0] = np.inf
        mask = np.full((height, width), 255, np.uint8)
        mask[:, 0] = 0
        (root / "depth").mkdir(exist_ok=True)
        (root / "mask").mkdir(exist_ok=True)
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, {"Z": depth}).write(str(root / f"depth/{i:06}.exr"))
        Image.fromarray(mask).save(root / f"mask/{i:06}.png")
        row = {
            "image": f"images/{i:06}.png",
            "depth": f"depth/{i:06}.exr",
            "mask": f"mask/{i:06}.png",
            "unit_m": 1.0,
            "seed": i,
            "intrinsics": [40.0, 40.0, width / 2, height / 2],
            "scene": "room",
        }
        lines.append(json.dumps(row))
    (root / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return root


def vkitti_frame(
    root: Path, scene: str, variant: str, number: int = 0, camera: int = 0, apart: bool = False
) -> np.ndarray:
    """One frame of 375 x 1242; sky above. Returns the stored centimetres."""
    frame = f"{scene}/{variant}/frames"
    rgb, depth = ("rgb/", "depth/") if apart else ("", "")
    picture(root / f"{rgb}{frame}/rgb/Camera_{camera}/rgb_{number:05}.jpg", 375, 1242)
    rows, columns = np.mgrid[:375, :1242]
    values = (rows * 20 + columns).astype(np.uint16)
    values[:100] = 65535
    grey_16(root / f"{depth}{frame}/depth/Camera_{camera}/depth_{number:05}.png", values)
    return values


def hypersim_frame(
    root: Path,
    scene: str,
    number: int,
    distance: np.ndarray,
    colour: np.ndarray,
    entity: np.ndarray,
    camera: str = "cam_00",
) -> None:
    import h5py

    images = root / scene / "images"
    for kind, folder, values in (
        ("color", "final", colour),
        ("depth_meters", "geometry", distance),
        ("render_entity_id", "geometry", entity),
    ):
        path = images / f"scene_{camera}_{folder}_hdf5" / f"frame.{number:04}.{kind}.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["dataset"] = values


def hypersim_table(root: Path, rows: list[tuple[str, int, str, bool]]) -> None:
    """rows: scene, frame, split, in the public release."""
    with (root / "metadata_images_split_scene_v1.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "scene_name",
                "camera_name",
                "frame_id",
                "included_in_public_release",
                "exclude_reason",
                "split_partition_name",
            ]
        )
        for scene, number, split, public in rows:
            writer.writerow([scene, "cam_00", number, public, "", split])
