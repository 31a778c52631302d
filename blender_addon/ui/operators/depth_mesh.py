# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture -> one depth mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from ...backend.engine_parts import NOTHING, KnownDepths, MarigoldError, estimate_camera
from ...backend.engine_process import Job
from ...backend.engine_session import EXAMPLE, submit
from ...mesh.calibration import placed
from ...mesh.depth_file import read_depth_file
from ...mesh.depth_object import (
    SIZE,
    SOURCES,
    depth_object,
    frame_scene,
    is_untouched,
    object_name,
    update_depth,
)
from ...mesh.matched_camera import camera_of
from ...mesh.picture import field_of_view_of, is_twice_as_wide, load_picture
from ...mesh.picture_material import picture_of
from ...mesh.relightable import SurfaceMaps, relight
from ...mesh.shape_inputs import is_panorama, shape_modifier
from ...mesh.shape_nodes import shape_group
from ..known import clear_fit
from ..run_settings import (
    MESH_NAMES,
    RUN_NAMES,
    SHAPE_NAMES,
    ShapeSettings,
    fill_from_sidebar,
    shape_options,
)
from .background import EngineRun, Work
from .points import fit_and_report
from .shape import look_through_camera
from .surface import (
    folder_maps,
    picture_request,
    surface_after_depth,
    surface_checkpoints,
    surface_maps,
    surface_note,
)

EYE_HEIGHT = 1.6
PANORAMA_NOTE = (
    "The picture is twice as wide as high: if it is a 360° panorama, choose it as the Picture in"
    " the sidebar, where this is ticked, and press Depth Mesh."
)


class MARIGOLD_OT_depth_mesh(EngineRun, ShapeSettings, bpy.types.Operator):
    """Estimate the depth of a picture and build a textured mesh of it, with the camera that
    matches. With a depth file no model runs"""

    bl_idname = "marigold.depth_mesh"
    bl_label = "Depth Mesh"
    bl_options = {"REGISTER", "UNDO"}

    filepath: bpy.props.StringProperty(name="Picture", subtype="FILE_PATH", options={"SKIP_SAVE"})
    depth_filepath: bpy.props.StringProperty(
        name="Depth File",
        description="A depth map: EXR, 16-bit PNG, TIFF, NPY; 0 is near",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    image: bpy.props.StringProperty(
        name="Image",
        description="Name of an image in this file, instead of a picture on disk",
        options={"SKIP_SAVE", "HIDDEN"},
    )
    update: bpy.props.BoolProperty(
        name="Update",
        description="Give the depth mesh that the scene has of this picture the new depth, instead"
        " of adding another one",
        options={"SKIP_SAVE", "HIDDEN"},
    )
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        fill_from_sidebar(self, context)
        if self.filepath or self.depth_filepath or self.image:
            return self.start(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def draw(self, context: bpy.types.Context) -> None:
        if context.space_data is not None and context.space_data.type == "FILE_BROWSER":
            draw_settings(self.layout, self, (*RUN_NAMES, *SHAPE_NAMES, *MESH_NAMES))
        else:  # no settings, which would run the model again
            self.layout.label(text="Change the mesh with the sliders in the sidebar", icon="INFO")

    def work(self, context: bpy.types.Context) -> Work:
        place = Place.of(context)
        image = self._image()
        if self._path() == str(EXAMPLE):  # to be run again, with other settings
            context.scene.marigold.picture = self.filepath
        given = folder_maps(self)  # before the model runs, as it may fail
        if self.depth_filepath:
            path = bpy.path.abspath(self.depth_filepath)
            file = read_depth_file(path, unit=self.depth_unit, near=self.near, far=self.far)
            if image is not None:
                check_shape(image, file.depth)
            old = mesh_of_sources(context, image, path, self.panorama) if self.update else None
            name = image.name if image is not None else path
            span = None if file.near is None else (file.near, file.far)
            old_name, image_name = (one.name if one is not None else "" for one in (old, image))
            maps = yield from surface_maps(self, image, self._path(), given)
            old, image = self._again(old_name, image_name)
            made = finish(
                context, self, object_name(name), file.depth, image, place,
                old=old, span=span, maps=maps,
            )  # fmt: skip
            made[SOURCES] = (self._path() if self.filepath else "", path)
            return " ".join(filter(None, (file.warning, surface_note(maps))))
        if image is None:
            raise MarigoldError("Choose a picture, or a depth file.")
        old = mesh_of_sources(context, image, "", self.panorama) if self.update else None
        # The datablocks may be deleted while a job runs, so they are found again by name.
        name, old_name = image.name, old.name if old is not None else ""
        job = submit_image(image, self._path(), self)
        shape_group()  # its hundreds of nodes are made while the model runs, not after
        yield job
        _, image = self._again(old_name, name)
        maps = yield from surface_after_depth(self, image, self._path(), given)
        old, image = self._again(old_name, name)
        made = mesh_of_job(context, self, object_name(name), job, image, place, old=old, maps=maps)
        made[SOURCES] = (self._path() if self.filepath else "", "")
        unasked = not self.properties.is_property_set("panorama")
        offers = unasked and is_twice_as_wide(*image.size)
        return surface_note(maps) or (PANORAMA_NOTE if offers else "")

    def steps(self) -> int:
        return (0 if self.depth_filepath else 1) + len(surface_checkpoints(self))

    def _again(
        self, old_name: str, image_name: str
    ) -> tuple[bpy.types.Object | None, bpy.types.Image | None]:
        """The mesh to update and the picture, as they are by now. Raises MarigoldError."""
        old = bpy.data.objects.get(old_name) if old_name else None
        if old_name and old is None:
            raise MarigoldError("The depth mesh was deleted while its depth was estimated.")
        image = bpy.data.images.get(image_name) if image_name else None
        return old, image or self._image()

    def _path(self) -> str:
        return bpy.path.abspath(self.filepath)

    def _image(self) -> bpy.types.Image | None:
        if self.image:
            image = bpy.data.images.get(self.image)
            if image is None or not image.has_data and not len(image.pixels):
                raise MarigoldError(f"There is no image {self.image!r} with pixels in this file.")
            return image
        if not self.filepath:
            return None
        if not Path(self._path()).is_file():
            raise MarigoldError(f"{Path(self._path()).name}: there is no such picture.")
        return load_picture(self._path(), pack=self.pack)


@dataclass(frozen=True)
class Place:
    """The scene and the collection where a run was started: the user may switch meanwhile."""

    scene: str
    collection: str

    @classmethod
    def of(cls, context: bpy.types.Context) -> Place:
        return cls(context.scene.name, context.collection.name)

    def find(self, context: bpy.types.Context) -> tuple[bpy.types.Scene, bpy.types.Collection]:
        scene = bpy.data.scenes.get(self.scene) or context.scene
        inside = {one.name: one for one in scene.collection.children_recursive}
        return scene, inside.get(self.collection, scene.collection)


def submit_image(
    image: bpy.types.Image, path: str, settings: Any, known: KnownDepths | None = None
) -> Job:
    """With `known` points the sampling is guided by them."""
    params, arrays = picture_request(image, path, settings)
    if known is None:
        return submit("panorama" if settings.panorama else "depth", params, arrays)
    params["size"] = list(known.size)
    arrays["known"] = np.column_stack([known.positions, known.metres])
    return submit("guided", params, arrays)


def mesh_of_job(
    context: bpy.types.Context,
    settings: Any,
    name: str,
    job: Job,
    image: bpy.types.Image | None,
    place: Place,
    *,
    old: bpy.types.Object | None = None,
    look: bool = True,
    maps: SurfaceMaps | None = None,
) -> bpy.types.Object:
    result = job.result
    depth, near, far = placed(
        job.arrays["depth"],
        settings.near,
        settings.far,
        scale_invariant=result.get("scale_invariant", True),
        shift_invariant=result.get("shift_invariant", True),
    )
    mask = job.arrays.get("mask")
    layers = {
        "uncertainty": job.arrays.get("uncertainty"),
        "mask": None if mask is None else mask.astype(bool),
    }
    span = None if result.get("shift_invariant", True) else (near, far)
    return finish(
        context, settings, name, depth, image, place,
        old=old, span=span, look=look, maps=maps, **layers,
    )  # fmt: skip


def finish(
    context: bpy.types.Context,
    settings: Any,
    name: str,
    depth: np.ndarray,
    image: bpy.types.Image | None,
    place: Place,
    *,
    uncertainty: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    span: tuple[float, float] | None = None,
    old: bpy.types.Object | None = None,
    look: bool = True,
    maps: SurfaceMaps | None = None,
) -> bpy.types.Object:
    """Add the object, select it and look through its camera; where the user by now edits or
    sculpts something else, that stays active and the object is only added. The mesh `old` gets the
    depth instead, and the view stays.

    span: the distances of depth 0 and 1, where the depth itself has them. maps: of a relightable
    surface."""
    options = shape_options(settings)
    given = settings.properties.is_property_set
    camera = NOTHING
    is_set = given("near") or given("far")
    if span is None and old is None and not is_set and not options.panorama:
        camera = estimate_camera(depth, mask)
        span = camera.near_far
    if span is not None:
        options = replace(options, near=span[0], far=span[1])
    if not options.far > options.near:
        raise MarigoldError(
            f"Near is {options.near:g} and far is {options.far:g}; far must be beyond near."
        )
    scene, collection = place.find(context)
    if old is not None:
        update_depth(old, depth, image, options, span=span, uncertainty=uncertainty, mask=mask)
        if span is None:
            _fit_again(old)
        if maps is not None:
            relight(old, maps, depth)
        _select(context, scene, old)
        return old
    if image is not None and not given("fov") and not options.panorama:
        options = replace(options, fov=field_of_view_of(image, camera.fov_degrees))
    obj = depth_object(name, depth, image, collection, options, uncertainty=uncertainty, mask=mask)
    # At eye height: the floor of a picture lies near that of the scene, and the camera is not
    # inside the cube of a new file.
    obj.location = scene.cursor.location + Vector((0.0, 0.0, EYE_HEIGHT))
    if maps is not None:
        relight(obj, maps, depth)
    at_rest = _select(context, scene, obj)
    camera = camera_of(obj)
    if look and camera is not None:
        if settings.replace_camera or is_untouched(scene):
            frame_scene(scene, camera, tuple(obj[SIZE]))
        if at_rest:
            look_through_camera(context, obj, camera)
    return obj


def _fit_again(obj: bpy.types.Object) -> None:
    """A mesh that was in metres by its user's measurements is again, with its new depth."""
    known = obj.marigold_known
    if known.fitted:
        try:
            fit_and_report(obj)
        except MarigoldError as error:
            clear_fit(known)
            known.report = str(error)


def mesh_of_sources(
    context: bpy.types.Context, image: bpy.types.Image | None, depth_file: str, panorama: bool
) -> bpy.types.Object | None:
    """The live depth mesh of this picture and depth file ("" = the model's) in the scene, as a
    panorama or not: the active one before others."""
    for obj in (context.active_object, *context.scene.objects):
        if shape_modifier(obj) is not None and obj.get(SOURCES, ("", ""))[1] == depth_file:
            if picture_of(obj) == image and is_panorama(obj) == panorama:
                return obj
    return None


def _select(context: bpy.types.Context, scene: bpy.types.Scene, obj: bpy.types.Object) -> bool:
    """Make `obj` the one that is selected and active; False where the user is elsewhere."""
    at_rest = context.mode == "OBJECT" and context.scene == scene
    if at_rest and obj.name in context.view_layer.objects:
        for other in context.view_layer.objects.selected:
            other.select_set(False)
        context.view_layer.objects.active = obj
        obj.select_set(True)
    return at_rest


def check_shape(image: bpy.types.Image, depth: np.ndarray) -> None:
    """Raises MarigoldError where the shapes differ by more than rounding to whole pixels."""
    width, height = image.size
    expected = height / width * depth.shape[1]
    if abs(expected - depth.shape[0]) > 1 + 0.02 * depth.shape[0]:
        raise MarigoldError(
            f"The picture is {width}x{height} and the depth map {depth.shape[1]}x{depth.shape[0]}:"
            " their shapes differ, so they do not belong together."
        )


def draw_settings(layout: bpy.types.UILayout, settings: Any, names: Sequence[str]) -> None:
    layout.use_property_split = True
    layout.use_property_decorate = False
    for name in names:
        layout.prop(settings, name)


CLASSES = (MARIGOLD_OT_depth_mesh,)
