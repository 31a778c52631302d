"""Pictures with measured depth: one folder a frame, described by a `meta.json`.

`meta.json` names the files (`rgb_file`, `depth_file`), says how stored values become metres
(`to_metres`) or pixels of disparity (`doffs_px`), which values are holes (`invalid`: "nonfinite"
or a comparison such as "==0"), and whether the frame was photographed (`real`).
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from marigold_core.images import read_image

COMPARE = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Frame(NamedTuple):
    """rgb (H, W, 3) in [0, 1]; depth (H, W) > 0, metres or up to scale; valid (H, W) bool."""

    name: str
    rgb: np.ndarray
    depth: np.ndarray
    valid: np.ndarray


def read_frame(folder: Path) -> Frame:
    """One frame; disparity becomes depth up to scale, 1 / (disparity + doffs_px)."""
    meta = json.loads((folder / "meta.json").read_text())
    path = folder / meta["depth_file"]
    if path.suffix == ".npy":
        stored = np.load(path, allow_pickle=False)
    elif path.suffix == ".npz":
        stored = np.load(path, allow_pickle=False)[meta["npz_key"]]
    else:
        stored = np.asarray(Image.open(path))
    stored = stored.astype(np.float32)
    valid = np.isfinite(stored)
    for rule in meta["invalid"]:
        if rule != "nonfinite":
            sign, number = re.split(r"(?<=[=<>])(?![=<>])", rule)
            valid &= ~COMPARE[sign](np.where(valid, stored, 0), float(number))
    if meta["depth_kind"] == "disparity":
        depth = 1 / np.where(valid, stored + meta.get("doffs_px", 0.0), 1)
    else:
        depth = np.where(valid, stored * meta["to_metres"], 1)
    return Frame(folder.name, read_image(folder / meta["rgb_file"]), depth, valid)


def real_frames(folder: Path) -> Iterator[Frame]:
    """The photographed frames below `folder`, in order of name."""
    for meta in sorted(folder.glob("*/meta.json")):
        if json.loads(meta.read_text())["real"]:
            yield read_frame(meta.parent)
