# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a run: the same properties on the operators and in the sidebar."""

from __future__ import annotations

import math
from typing import Any

import bpy

from ..backend.engine_parts import FAR, FOV_DEGREES, NEAR
from ..backend.engine_session import model
from ..mesh.depth_grid import MAX_VERTEX_BUDGET, VERTEX_BUDGET
from ..mesh.depth_object import ShapeOptions
from ..mesh.depth_units import (
    AUTO,
    DISPARITY,
    FIVE_THOUSANDTHS,
    INVERTED,
    METRES,
    MILLIMETRES,
    RELATIVE,
)


class RunSettings:
    """Mixed into operators and into the scene's settings."""

    num_inference_steps: bpy.props.IntProperty(
        name="Steps",
        description="Denoising steps; 0 is the checkpoint's default",
        default=0,
        min=0,
        max=1000,
        soft_max=50,
    )
    ensemble_size: bpy.props.IntProperty(
        name="Ensemble",
        description="Predictions that are aligned and merged; two or more also give the"
        " uncertainty. 0 is the checkpoint's default",
        default=0,
        min=0,
        max=100,
        soft_max=10,
    )
    processing_resolution: bpy.props.IntProperty(
        name="Resolution",
        description="Longer side in pixels at which the model processes the picture; 0 is the"
        " checkpoint's default",
        default=0,
        min=0,
        max=8192,
        subtype="PIXEL",
    )
    seed: bpy.props.IntProperty(
        name="Seed", description="The same seed gives the same depth", default=0, min=0
    )
    near: bpy.props.FloatProperty(
        name="Near",
        description="Distance of the nearest depth. The picture alone cannot tell it",
        default=NEAR,
        min=1e-4,
        subtype="DISTANCE",
    )
    far: bpy.props.FloatProperty(
        name="Far",
        description="Distance of the furthest depth. The picture alone cannot tell it",
        default=FAR,
        min=1e-3,
        subtype="DISTANCE",
    )
    fov: bpy.props.FloatProperty(
        name="Field of View",
        description="Of the camera that took the picture, across its longer side. At 50 degrees the"
        " picture's EXIF record is used, where it has one",
        default=math.radians(FOV_DEGREES),
        min=math.radians(1),
        max=math.radians(170),
        subtype="ANGLE",
    )
    flat: bpy.props.BoolProperty(
        name="Flat Displacement",
        description="Push a flat picture by its depth instead of spreading it along the rays of"
        " the camera",
        default=False,
    )
    solid: bpy.props.BoolProperty(
        name="Solid", description="Close the mesh with a back and side walls", default=False
    )
    vertex_budget: bpy.props.IntProperty(
        name="Vertex Budget",
        description="A larger map is thinned evenly to at most this many vertices",
        default=VERTEX_BUDGET,
        min=4,
        max=MAX_VERTEX_BUDGET,
        soft_min=10_000,
    )
    pack: bpy.props.BoolProperty(
        name="Pack Picture",
        description="Keep the picture inside the .blend file instead of a link to it",
        default=True,
    )
    camera: bpy.props.BoolProperty(
        name="Camera",
        description="Add the camera that matches the picture, and look through it. The scene's own"
        " camera and render size stay, unless they are those of a new file",
        default=True,
    )
    background: bpy.props.BoolProperty(
        name="Background",
        description="Sharpen the edges of the depth, and continue the background behind the"
        " foreground, so that the mesh has no holes",
        default=True,
    )
    depth_unit: bpy.props.EnumProperty(
        name="Depth Values",
        description="The meaning of the numbers in the depth file",
        items=[
            (AUTO, "Automatic", "Found from the numbers"),
            (RELATIVE, "0 Is Near", "Relative depth: 0 is near, 1 is far"),
            (INVERTED, "White Is Near", "Relative depth: 1 is near, 0 is far"),
            (DISPARITY, "Disparity", "Inverse depth, white is near, as most networks give it"),
            (METRES, "Metres", "Distances; 0 is a hole"),
            (MILLIMETRES, "Millimetres", "Distances, as of Kinect and RealSense; 0 is a hole"),
            (FIVE_THOUSANDTHS, "1/5000 Metre", "Distances, as of the TUM data; 0 is a hole"),
        ],
        default=AUTO,
    )
    mask: bpy.props.StringProperty(
        name="Mask",
        description="An image in this file, such as one painted over the picture: black parts are"
        " left out",
    )
    replace_camera: bpy.props.BoolProperty(
        name="Use as Scene Camera",
        description="Replace the scene's camera and its render size also where they are your own",
        default=False,
    )


NAMES = tuple(RunSettings.__annotations__)
RUN_NAMES = ("num_inference_steps", "ensemble_size", "processing_resolution", "seed")


class MarigoldSettings(RunSettings, bpy.types.PropertyGroup):
    """The settings in the sidebar, saved with the scene."""

    picture: bpy.props.StringProperty(
        name="Picture", description="The reference picture", subtype="FILE_PATH"
    )
    depth_file: bpy.props.StringProperty(
        name="Depth File",
        description="Use this depth map (EXR, PNG, TIFF, NPY) instead of the model",
        subtype="FILE_PATH",
    )


def fill_from_sidebar(operator: Any, context: bpy.types.Context) -> None:
    """Set the properties that the caller did not set to the values in the sidebar."""
    for name in NAMES:
        if not operator.properties.is_property_set(name):
            setattr(operator, name, getattr(context.scene.marigold, name))


def depth_params(settings: Any) -> dict[str, Any]:
    """The parameters of the worker's method `depth`; 0 means the checkpoint's default."""
    params: dict[str, Any] = {"model": model(), "seed": settings.seed}
    for name in ("num_inference_steps", "ensemble_size", "processing_resolution"):
        if getattr(settings, name):
            params[name] = getattr(settings, name)
    return params


def shape_options(settings: Any) -> ShapeOptions:
    return ShapeOptions(
        near=settings.near,
        far=settings.far,
        fov=settings.fov,
        flat=settings.flat,
        solid=settings.solid,
        max_vertices=settings.vertex_budget,
        camera=settings.camera,
        background=settings.background,
    )


def name_of(name: str) -> str:
    """The English label of a setting."""
    return MarigoldSettings.bl_rna.properties[name].name


CLASSES = (MarigoldSettings,)
