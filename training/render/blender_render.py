"""One RGB-D sample of an open Blender scene, rendered with Cycles.

Two renders: the picture, with many jittered samples a pixel, and the data, with one sample
through each pixel's very centre. Normals of many samples would be mixed along every edge.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np

from .blender_cameras import SENSOR_MM, View
from .blender_passes import asked_for, intrinsic_images
from .develop import develop
from .exr_png import read_exr
from .sample_folder import Sample

# Cycles writes 1e10 where a ray leaves the scene.
NO_DEPTH = 1e9
# Times as many samples where nothing takes the noise away.
UNDENOISED = 16


class Quality(NamedTuple):
    """Cycles samples a pixel for the picture, bounces of light, processor threads."""

    samples: int
    bounces: int
    threads: int


def prepare(scene: bpy.types.Scene, quality: Quality) -> None:
    """Settings that both renders share, whatever the scene's own are."""
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_percentage = 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1
    render.threads_mode, render.threads = "FIXED", quality.threads
    render.use_persistent_data = True
    for switch in ("use_border", "use_compositing", "use_sequencer", "use_multiview",
                   "use_motion_blur", "use_freestyle", "film_transparent"):  # fmt: skip
        setattr(render, switch, False)
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # Blender 5
        settings.media_type = "MULTI_LAYER_IMAGE"
    if hasattr(settings, "use_exr_interleave"):  # else 5.2 writes a part a pass
        settings.use_exr_interleave = True
    settings.file_format = "OPEN_EXR_MULTILAYER"
    settings.color_depth, settings.exr_codec = "32", "NONE"
    cycles.device = "CPU"
    cycles.use_adaptive_sampling = False
    cycles.max_bounces = cycles.transmission_bounces = 2 + quality.bounces
    cycles.diffuse_bounces = cycles.glossy_bounces = quality.bounces
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 5.0
    first = bpy.context.view_layer
    for layer in scene.view_layers:
        layer.use = layer == first
    first.use_pass_z = first.use_pass_normal = first.use_pass_combined = True


def aim(scene: bpy.types.Scene, view: View) -> None:
    """The scene's camera becomes the view's."""
    camera = bpy.data.objects.get("RGB-D camera")
    if camera is None:
        camera = bpy.data.objects.new("RGB-D camera", bpy.data.cameras.new("RGB-D camera"))
        scene.collection.objects.link(camera)
    data = camera.data
    data.sensor_fit, data.sensor_width, data.lens = "AUTO", SENSOR_MM, view.lens
    data.clip_start, data.clip_end = 0.001, 1e6
    data.dof.use_dof = False
    camera.matrix_world = view.matrix
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = view.width, view.height


def render_exr(scene: bpy.types.Scene) -> dict[str, np.ndarray]:
    """Channels by their pass's name: "Combined.R", "Depth.Z", ..."""
    with tempfile.TemporaryDirectory(prefix="rgbd-") as folder:
        scene.render.filepath = str(Path(folder) / "passes.exr")
        bpy.ops.render.render(write_still=True)
        channels = read_exr(Path(folder) / "passes.exr")
    found = {".".join(name.split(".")[-2:]): plane for name, plane in channels.items()}
    for axis in "RGB":  # of the compositor, and not the layer's own picture
        if f"Composite.Combined.{axis}" in channels:
            layer = f"{bpy.context.view_layer.name}.Combined.{axis}"
            found[f"Combined.{axis}"] = channels[layer]
            found[f"Composite.{axis}"] = channels[f"Composite.Combined.{axis}"]
    return found


def stack(channels: dict[str, np.ndarray], name: str, axes: str) -> np.ndarray:
    return np.stack([channels[f"{name}.{axis}"] for axis in axes], axis=2)


def render_data(scene: bpy.types.Scene) -> dict[str, np.ndarray]:
    """The passes at the pixels' centres: no jitter, no light."""
    cycles = scene.cycles
    cycles.samples, cycles.use_denoising, cycles.seed = 1, False, 0
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 0.01
    bounces, cycles.max_bounces = cycles.max_bounces, 0
    channels = render_exr(scene)
    cycles.max_bounces = bounces
    return channels


def render_radiance(
    scene: bpy.types.Scene, samples: int, seed: int, passes: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scene-linear light (H, W, 3), denoised where Blender can (Debian's cannot).

    With passes also its intrinsic images, see `intrinsic_images`; the light is the same.
    """
    cycles = scene.cycles
    try:
        cycles.denoiser, cycles.denoising_prefilter = "OPENIMAGEDENOISE", "NONE"
        cycles.denoising_quality = "FAST"
        cycles.use_denoising = True
    except TypeError:
        cycles.use_denoising = False
        samples *= UNDENOISED
    cycles.samples, cycles.seed = samples, seed
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    if not passes:
        return stack(render_exr(scene), "Combined", "RGB"), {}
    with asked_for(scene, cycles.use_denoising):
        channels = render_exr(scene)
    radiance = stack(channels, "Combined", "RGB")
    return radiance, intrinsic_images(channels, radiance)


def render_sample(
    scene: bpy.types.Scene,
    view: View,
    quality: Quality,
    stops: float,
    rng: np.random.Generator,
    passes: bool = False,
) -> Sample:
    """Picture, depth and normals of one view; metres by the scene's own unit scale.

    passes: intrinsic images too.
    """
    aim(scene, view)
    prepare(scene, quality)
    data = render_data(scene)
    unit = scene.unit_settings.scale_length
    depth = data["Depth.Z"].astype(np.float32)
    valid = np.isfinite(depth) & (depth > 0) & (depth < NO_DEPTH)
    depth = np.where(valid, depth * np.float32(unit), np.float32(np.inf))
    # Blender's camera looks along -z with y up; OpenCV's along z with y down.
    to_world = np.array(view.matrix)
    to_world[:3, 1:3] *= -1
    normals = stack(data, "Normal", "XYZ") @ to_world[:3, :3]
    to_world[:3, 3] *= unit
    seed = int(rng.integers(2**31))
    radiance, maps = render_radiance(scene, quality.samples, seed, passes)
    image, offset = develop(radiance, stops, rng)
    facts = {
        "intrinsics": view.intrinsics(),
        "camera_to_world": to_world.tolist(),
        "focal_length_mm": view.lens,
        "exposure_stops": offset,
        "valid_share": float(valid.mean()),
    }
    normals = np.where(valid[..., None], normals, 0).astype(np.float32)
    return Sample(image, depth, normals, facts, maps)
