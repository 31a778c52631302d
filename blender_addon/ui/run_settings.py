# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a run: the same properties on the operators and in the sidebar."""

from __future__ import annotations

import math
from typing import Any

import bpy

from ..backend.engine_parts import BUNDLED, FAR, FOV_DEGREES, NEAR
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
from ..mesh.picture import is_twice_as_wide, picture_size

PICTURE, RELIGHTABLE = "PICTURE", "RELIGHTABLE"
PANORAMA = "360° Panorama"
PANORAMA_DESCRIPTION = (
    "The picture is an equirectangular panorama: the mesh goes all around its camera"
)


class RunSettings:
    """What the sidebar and the operators share; mixed into both."""

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
    surface: bpy.props.EnumProperty(
        name="Surface",
        description="What the mesh looks like",
        items=[
            (PICTURE, "Picture", "The picture as it was taken"),
            (
                RELIGHTABLE,
                "Relightable",
                "Albedo, roughness, metallic and normals, from the checkpoints in the preferences"
                " or a folder of maps: the scene's lamps light it anew",
            ),
        ],
        default=PICTURE,
    )
    surface_folder: bpy.props.StringProperty(
        name="Maps",
        description="A folder of pictures whose names say what they are: albedo, roughness,"
        " metallic, normals (the camera's, OpenGL), shading. Empty runs the checkpoints in the"
        " preferences",
        subtype="DIR_PATH",
    )
    replace_camera: bpy.props.BoolProperty(
        name="Use as Scene Camera",
        description="Replace the scene's camera and its render size also where they are your own",
        default=False,
    )


class ShapeSettings(RunSettings):
    """Mixed into operators: the first values of the sliders, which only a script or the file
    browser sets; in the sidebar the sliders themselves are changed."""

    near: bpy.props.FloatProperty(
        name="Near",
        description="Distance of the nearest depth. The picture alone does not determine it",
        default=NEAR,
        min=1e-4,
        subtype="DISTANCE",
    )
    far: bpy.props.FloatProperty(
        name="Far",
        description="Distance of the furthest depth. The picture alone does not determine it",
        default=FAR,
        min=1e-3,
        subtype="DISTANCE",
    )
    fov: bpy.props.FloatProperty(
        name="Field of View",
        description="Of the camera that took the picture, across its longer side. Unless it is set,"
        " it is that of the picture's EXIF record, or estimated",
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
    panorama: bpy.props.BoolProperty(
        name=PANORAMA,
        description=PANORAMA_DESCRIPTION,
        default=False,
        options={"SKIP_SAVE"},
    )
    solid: bpy.props.BoolProperty(
        name="Solid", description="Close the mesh with a back and side walls", default=False
    )
    background: bpy.props.BoolProperty(
        name="Background",
        description="Sharpen the edges of the depth, and continue the background behind the"
        " foreground, so that the mesh has no holes",
        default=True,
    )


NAMES = tuple(RunSettings.__annotations__)
ESTIMATE_NAMES = ("num_inference_steps", "ensemble_size", "processing_resolution")
RUN_NAMES = (*ESTIMATE_NAMES, "seed")
MESH_NAMES = ("vertex_budget", "pack", "camera", "replace_camera")
SHAPE_NAMES = tuple(ShapeSettings.__annotations__)
# Reading 0 as the checkpoint's own; a draft is for looking whether a picture is worth more.
DRAFT, GOOD, BEST, CUSTOM = "DRAFT", "GOOD", "BEST", "CUSTOM"
DRAFT_RESOLUTION = 384
QUALITIES = (
    (DRAFT, "Draft", "One step of one prediction, at a low resolution", 0),
    (GOOD, "Good", "The checkpoint's own steps, ensemble and resolution", 1),
    (BEST, "Best", "Ten predictions, merged; also shows where they disagree", 2),
    (CUSTOM, "Custom", "The numbers in Settings", 3),
)


def quality_values(quality: str) -> tuple[int, int, int]:
    """ESTIMATE_NAMES of a quality. The bundled checkpoint has one step and a low resolution, and
    its predictions differ from four steps on."""
    bundled = model()["checkpoint"] in BUNDLED
    return {
        DRAFT: (1, 1, 0 if bundled else DRAFT_RESOLUTION),
        BEST: (4 if bundled else 0, 10, 0),
    }.get(quality, (0, 0, 0))


def _quality(settings: MarigoldSettings) -> int:
    now = tuple(getattr(settings, name) for name in ESTIMATE_NAMES)
    fits = [number for key, _, _, number in QUALITIES if quality_values(key) == now]
    return fits[0] if fits else QUALITIES[-1][3]


def _set_quality(settings: MarigoldSettings, number: int) -> None:
    key = QUALITIES[number][0]
    if key != CUSTOM:
        for name, value in zip(ESTIMATE_NAMES, quality_values(key), strict=True):
            setattr(settings, name, value)


def _offer_panorama(settings: MarigoldSettings, context: bpy.types.Context) -> None:
    """Tick the panorama for a picture of its proportions; the panel shows the tick then."""
    size = picture_size(bpy.path.abspath(settings.picture))
    settings.panorama = settings.twice_as_wide = size is not None and is_twice_as_wide(*size)


class MarigoldSettings(RunSettings, bpy.types.PropertyGroup):
    """The settings in the sidebar, saved with the scene."""

    quality: bpy.props.EnumProperty(
        name="Quality",
        description="Sets steps, ensemble and resolution",
        items=QUALITIES,
        get=_quality,
        set=_set_quality,
    )

    picture: bpy.props.StringProperty(
        name="Picture",
        description="The reference picture",
        subtype="FILE_PATH",
        update=_offer_panorama,
    )
    panorama: bpy.props.BoolProperty(
        name=PANORAMA,
        description=PANORAMA_DESCRIPTION,
        default=False,
    )
    twice_as_wide: bpy.props.BoolProperty(
        description="The picture has the proportions of a panorama", options={"HIDDEN"}
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


def run_params(settings: Any, checkpoint: str | None = None) -> dict[str, Any]:
    """The parameters of a run; 0 means the checkpoint's default. checkpoint: None is the one for
    depth."""
    params: dict[str, Any] = {"model": model(checkpoint), "seed": settings.seed}
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
        panorama=settings.panorama,
    )


def name_of(name: str) -> str:
    """The English label of a setting."""
    return MarigoldSettings.bl_rna.properties[name].name


CLASSES = (MarigoldSettings,)
