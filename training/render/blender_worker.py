"""A process that renders the samples it is told to: indices in, one JSON line each out."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import bpy
import numpy as np

from .blender_assets import MAPS, PICTURES, EnvironmentLight, Textures, files_in, remove_suns
from .blender_cameras import FreeSpace, Lenses, draw_view, scene_box, starts
from .blender_lights import LightJitter
from .blender_models import drop_models, read_models, remove
from .blender_render import Quality, render_sample
from .blender_settings import Settings
from .blender_solids import World
from .blender_worlds import build_world
from .sample_folder import Sample, write_sample

# A world that shows too little is thrown away, and the next one drawn.
TRIES = 6
# With folders of environment maps and pictures: of worlds, and of surfaces.
ENVIRONMENT_SHARE = 0.75
TEXTURED_SHARE = 0.5
# With a folder of models: put into an opened scene at most.
MOST_GUESTS = 6
# After these no further sample could be written either.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Renderer:
    """Renders samples one after another, and keeps the .blend file of the last one open."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self.settings = settings
        self.quality = Quality(settings.samples, settings.bounces, threads)
        self.lenses = Lenses(settings.focal, settings.aspects, settings.size)
        self.opened = ""
        self.models = read_models(settings.models)
        self.textures = Textures(files_in(settings.textures, PICTURES))
        self.environments = EnvironmentLight(files_in(settings.environments, MAPS))
        self.guests: list[bpy.types.Object] = []

    def open(self, file: str) -> None:
        if self.opened == file:
            return
        self.opened = ""
        # No scripts: a scene from somebody else must not run code here.
        bpy.ops.wm.open_mainfile(filepath=file, use_scripts=False, load_ui=False)
        self.opened = file
        self.world = scene_box(bpy.context.scene)
        self.hints = starts(bpy.context.scene, self.world)
        self.jitter = LightJitter(bpy.context.scene)

    def set_up(self, index: int, rng: np.random.Generator) -> World:
        file = self.settings.scene_of(index)
        if not file:
            kinds = self.settings.worlds
            world = build_world(kinds[rng.integers(len(kinds))], rng, self.models)
            self.hints = []
            self.decorate_world(rng)
            bpy.context.view_layer.update()
            return world
        self.open(file)
        scene = bpy.context.scene
        if self.settings.random_frames:
            scene.frame_set(int(rng.integers(scene.frame_start, scene.frame_end + 1)))
        self.jitter.apply(rng, self.settings.light_stops)
        self.decorate_scene(rng)
        return self.world

    def decorate_world(self, rng: np.random.Generator) -> None:
        """Some worlds keep their own sky, and some surfaces their pattern."""
        scene = bpy.context.scene
        if self.environments.files and rng.random() < ENVIRONMENT_SHARE:
            remove_suns(scene)
            self.environments.apply(scene, rng, self.settings.light_stops)
        if self.textures.files:
            self.textures.changed = []  # of the world before, which is gone
            self.textures.apply(scene, rng, TEXTURED_SHARE)

    def decorate_scene(self, rng: np.random.Generator) -> None:
        """What the sample before put into an opened scene is taken out first."""
        scene = bpy.context.scene
        self.textures.restore()
        for guest in self.guests:
            remove(guest)
        self.guests = []
        if self.environments.files:
            self.environments.apply(scene, rng, self.settings.light_stops)
        if self.textures.files:
            self.textures.apply(scene, rng, TEXTURED_SHARE)
        if self.models:
            bpy.context.view_layer.update()
            space = FreeSpace(scene, 0.0)
            count = int(rng.integers(1, MOST_GUESTS + 1))
            self.guests = drop_models(space, self.world, self.models, count, rng)
        bpy.context.view_layer.update()

    def render(self, index: int) -> Sample:
        """Sample `index`: a function of the settings and the index alone."""
        rng = np.random.default_rng([self.settings.seed, index])
        for _ in range(TRIES):
            world = self.set_up(index, rng)
            scene = bpy.context.scene
            across = float(np.linalg.norm(np.subtract(world.high, world.low)))
            clearance = min(0.25 / scene.unit_settings.scale_length, 0.03 * across)
            space = FreeSpace(scene, clearance)
            view = draw_view(space, world, self.hints, self.lenses, rng)
            if view is None:
                continue
            stops = self.settings.exposure_stops
            passes = self.settings.passes
            sample = render_sample(scene, view, self.quality, stops, rng, passes)
            if worth_keeping(sample):
                file = self.settings.scene_of(index)
                sample.facts["scene"] = Path(file).name if file else world.kind
                sample.facts["seed"] = self.settings.seed
                return sample
        raise ValueError("no camera position with something to see was found")


def worth_keeping(sample: Sample) -> bool:
    """Some depth to learn from, in a picture that is neither black nor blank."""
    depth = sample.depth[np.isfinite(sample.depth)]
    if depth.size < 0.15 * sample.depth.size:
        return False
    near, far = np.percentile(depth, (2, 98))
    return bool(far > 1.15 * near and sample.image.mean() > 25 and sample.image.std() > 12)


def answers() -> TextIO:
    """The pipe to the parent. Blender writes a page a render to file descriptor 1: from here on
    that goes nowhere."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def work(job: dict[str, Any]) -> None:
    """Read an index a line from stdin, render it, answer; until stdin ends."""
    pipe = answers()
    renderer = Renderer(Settings(**job["settings"]), job["threads"])
    folder = Path(job["folder"])
    for text in sys.stdin:
        index = int(text)
        answer: dict[str, Any]
        try:
            answer = {"line": write_sample(folder, index, renderer.render(index))}
        except Exception as error:  # one bad scene must not end the run: the parent reports it
            answer = {"failed": index, "why": " ".join(str(error).split())[:300]}
            if isinstance(error, OSError) and error.errno in DISK:
                answer["disk"] = error.errno
        try:
            print(json.dumps(answer), file=pipe, flush=True)
        except BrokenPipeError:  # the parent is gone
            return
