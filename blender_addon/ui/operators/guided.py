# SPDX-License-Identifier: GPL-3.0-or-later
"""The model again, steered by the distances that the user picked."""

from __future__ import annotations

import bpy

from ...backend.engine_parts import MarigoldError
from ...mesh.depth_object import SOURCES
from ...mesh.metres import known_depths
from ...mesh.picture_material import picture_of
from ...mesh.shape_inputs import shape_modifier
from ..known import clear_fit
from ..poll_messages import refuse
from ..run_settings import ShapeSettings, fill_from_sidebar
from .background import EngineRun, Work
from .depth_mesh import Place, mesh_of_job, submit_image
from .points import fit_and_report
from .shape import depth_mesh_of, has_view
from .surface import folder_maps, surface_after_depth, surface_checkpoints, surface_note


class MARIGOLD_OT_guided(EngineRun, ShapeSettings, bpy.types.Operator):
    """Run the model again, steered by your distances, so that the depth bends to them. Takes
    longer than a plain run; two distances or more, the more the better"""

    bl_idname = "marigold.guided"
    bl_label = "Estimate with Distances"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not (super().poll(context) and has_view(cls, context)):
            return False
        if len(depth_mesh_of(context).marigold_known.points) < 2:
            return refuse(cls, "Pick two distances first, at different depths")
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        fill_from_sidebar(self, context)
        return self.start(context)

    def work(self, context: bpy.types.Context) -> Work:
        place, obj = Place.of(context), depth_mesh_of(context)
        image = picture_of(obj)
        if image is None:
            raise MarigoldError("This mesh has no picture to run the model on.")
        known, path = known_depths(obj), obj.get(SOURCES, ("", ""))[0]
        given = folder_maps(self)  # before the model runs, as it may fail
        job = submit_image(image, path, self, known)
        name, image_name = obj.name, image.name
        yield job
        image = bpy.data.images.get(image_name)
        maps = yield from surface_after_depth(self, image, path, given)
        obj = bpy.data.objects.get(name)
        if shape_modifier(obj) is None:
            raise MarigoldError("The depth mesh is gone or baked since its depth was estimated.")
        image = bpy.data.images.get(image_name)
        mesh_of_job(context, self, name, job, image, place, old=obj, maps=maps)
        clear_fit(obj.marigold_known)
        return " ".join(filter(None, (fit_and_report(obj), surface_note(maps))))

    def steps(self) -> int:
        return 1 + len(surface_checkpoints(self))


CLASSES = (MARIGOLD_OT_guided,)
