# SPDX-License-Identifier: GPL-3.0-or-later
"""Every picture of a folder -> a depth mesh each, side by side."""

from __future__ import annotations

import math
from pathlib import Path

import bpy

from ...backend.engine_parts import MarigoldError
from ...mesh.depth_object import object_name
from ...mesh.picture import SUFFIXES, load_picture
from ...mesh.shape_inputs import get_input
from ..run_settings import (
    MESH_NAMES,
    RELIGHTABLE,
    RUN_NAMES,
    SHAPE_NAMES,
    ShapeSettings,
    fill_from_sidebar,
)
from .background import EngineRun, Work, run
from .depth_mesh import Place, draw_settings, mesh_of_job, submit_image
from .surface import surface_checkpoints, surface_maps

# Errors that the next picture of a folder would have too.
WHICH_FAIL_ALL = ("python", "checkpoint", "memory")


class MARIGOLD_OT_batch(EngineRun, ShapeSettings, bpy.types.Operator):
    """Make a depth mesh of every picture in a folder, in a new collection"""

    bl_idname = "marigold.batch"
    bl_label = "Depth Meshes of a Folder"
    bl_options = {"REGISTER", "UNDO"}

    directory: bpy.props.StringProperty(name="Folder", subtype="DIR_PATH", options={"SKIP_SAVE"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        fill_from_sidebar(self, context)
        if self.directory:
            return self.start(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def draw(self, context: bpy.types.Context) -> None:
        if context.space_data is not None and context.space_data.type == "FILE_BROWSER":
            draw_settings(self.layout, self, (*RUN_NAMES, *SHAPE_NAMES, *MESH_NAMES))

    def steps(self) -> int:
        return len(pictures_in(self.directory)) * (1 + len(surface_checkpoints(self)))

    def work(self, context: bpy.types.Context) -> Work:
        folder = Path(bpy.path.abspath(self.directory))
        paths = pictures_in(self.directory)
        if not paths:
            raise MarigoldError(f"There is no picture in the folder {folder.name}.")
        if self.surface == RELIGHTABLE and self.surface_folder:
            raise MarigoldError(
                "A folder of maps is of one picture; leave Maps empty for a folder of pictures."
            )
        collection = bpy.data.collections.new(folder.name)
        context.collection.children.link(collection)
        place = Place(context.scene.name, collection.name)
        offset, failed = 0.0, []
        for path in paths:
            try:
                image = load_picture(str(path), pack=self.pack)
            except MarigoldError as error:
                failed.append(str(error))
                continue
            job = submit_image(image, str(path), self)
            name = image.name
            try:
                yield job
                maps = yield from surface_maps(self, bpy.data.images.get(name), str(path), None)
            except MarigoldError as error:
                if run.task is not None and run.task.error_kind in WHICH_FAIL_ALL:
                    raise
                failed.append(str(error))
                continue
            obj = mesh_of_job(
                context, self, object_name(str(path)), job, bpy.data.images.get(name), place,
                look=False, maps=maps,
            )  # fmt: skip
            obj.location.x += offset
            # Of the view at its far end.
            half = 1 if self.panorama else math.tan(get_input(obj, "Field of View") / 2)
            offset += 1.2 * 2 * get_input(obj, "Far") * half
        for message in failed:
            self.report({"WARNING"}, message)
        if len(failed) == len(paths):
            raise MarigoldError(f"None of the {len(paths)} pictures became a mesh: {failed[0]}")
        return f"{len(paths) - len(failed)} of {len(paths)} pictures"


def pictures_in(directory: str) -> list[Path]:
    folder = Path(bpy.path.abspath(directory))
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


CLASSES = (MARIGOLD_OT_batch,)
