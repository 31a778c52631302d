"""What decides how rendered samples look."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    """All that a sample depends on besides its index. `scenes`: .blend files; without any,
    `worlds` names procedural kinds. `views_per_scene`: samples in a row from one file, because
    opening it takes time. `stops`: jitter of lights and of exposure. `environments`,
    `textures` and `models`: folders, "" for none. `passes`: intrinsic images too."""

    seed: int
    scenes: list[str]
    worlds: list[str]
    views_per_scene: int
    focal: tuple[float, float]
    aspects: list[float]
    size: int
    samples: int
    bounces: int
    light_stops: float
    exposure_stops: float
    random_frames: bool
    environments: str = ""
    textures: str = ""
    models: str = ""
    passes: bool = False

    def scene_of(self, index: int) -> str:
        """The .blend file of a sample; "" for procedural worlds."""
        if not self.scenes:
            return ""
        return self.scenes[index // self.views_per_scene % len(self.scenes)]
