"""Surface normals of a picture: what a run returns, and its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .depth_files import to_16_bit, write_exr, write_npy, write_picture, write_uncertainty
from .errors import MarigoldError

# The signs of x, y and z in a file: OpenGL's green points up (Blender, Unity), DirectX's down
# (Unreal). The normal ControlNets learned from pictures whose red points left (ControlNet 1.1).
CONVENTIONS = {"opengl": (1, 1, 1), "directx": (1, -1, 1), "controlnet": (-1, 1, 1)}


@dataclass(frozen=True, eq=False)
class NormalMap:
    """The normals of one picture's surfaces.

    normals: float32 (H, W, 3), unit vectors in the camera's axes: x right, y up, z towards the
        viewer.
    uncertainty: float32 (H, W), the members' mean angle to the merged normal, in radians from 0 to
        pi; None when there was one member.
    mask: bool (H, W), True = use this pixel; None = all.
    seconds: stage -> seconds it took.

    Other float types are converted. Raises MarigoldError where shapes or types disagree.
    """

    normals: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        normals = np.asarray(self.normals)
        shape = normals.shape
        if len(shape) != 3 or shape[2] != 3 or not normals.size or normals.dtype.kind != "f":
            raise MarigoldError(
                f"Normals are a float array (H, W, 3), not {normals.dtype} of shape {shape}."
            )
        object.__setattr__(self, "normals", normals.astype(np.float32, copy=False))
        for name, kinds, words in (("uncertainty", "f", "a float array"), ("mask", "b", "bool")):
            value = getattr(self, name)
            if value is None:
                continue
            value = np.asarray(value)
            if value.shape != shape[:2] or value.dtype.kind not in kinds:
                raise MarigoldError(
                    f"The {name} is {value.dtype} of shape {value.shape}; it must be {words} of "
                    f"the normals' size {shape[:2]}."
                )
        if self.uncertainty is not None:
            uncertainty = np.asarray(self.uncertainty).astype(np.float32, copy=False)
            object.__setattr__(self, "uncertainty", uncertainty)

    def encoded(self, convention: str = "opengl") -> NDArray[np.float32]:
        """The normal map as colours, float32 (H, W, 3) in [0, 1]: (n + 1) / 2.

        convention: "opengl", red = right and green = up, "directx", green = down, or "controlnet",
        red = left.
        """
        return ((self._in(convention) + 1) / 2).clip(0, 1)

    def save(
        self,
        path: str | os.PathLike[str],
        convention: str = "opengl",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the normals; the suffix is the format.

        .png: 16-bit RGB of `encoded`. .exr (channels R, G, B) and .npy: the float32 vectors
        themselves, in [-1, 1]. convention: see `encoded`. metadata: name -> ASCII
        text, kept in .png and .exr. Raises MarigoldError for another suffix or convention, and
        where .exr finds no OpenEXR; OSError as the file system does.
        """
        suffix = Path(path).suffix.lower()
        if suffix == ".png":
            write_picture(path, to_16_bit(self.encoded(convention)), metadata)
        elif suffix == ".exr":
            write_exr(path, {"RGB": self._in(convention)}, metadata)
        elif suffix == ".npy":
            write_npy(path, self._in(convention))
        else:
            raise MarigoldError(
                f"{Path(path).name}: normals are written as .png (16-bit), .exr or .npy (float32)."
            )

    def save_uncertainty(
        self, path: str | os.PathLike[str], colormap: str | None = None, scale: float | None = None
    ) -> float:
        """Write the uncertainty, 0 = sure, as `DepthMap.save_uncertainty` does; returns the scale.

        Float formats hold radians. Raises MarigoldError where there is none.
        """
        if self.uncertainty is None:
            raise MarigoldError(
                "These normals have no uncertainty; it takes an ensemble of two or more."
            )
        return write_uncertainty(path, self.uncertainty, self.mask, colormap, scale)

    def _in(self, convention: str) -> NDArray[np.float32]:
        if convention not in CONVENTIONS:
            raise MarigoldError(
                f"The convention is {convention!r}; use one of {', '.join(CONVENTIONS)}."
            )
        signs: Any = np.array(CONVENTIONS[convention], dtype=np.float32)
        return self.normals * signs
