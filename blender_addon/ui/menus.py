# SPDX-License-Identifier: GPL-3.0-or-later
"""Menus and drops: File > Import, a drop into the viewport, the Image Editor's menu."""

from __future__ import annotations

import bpy

from ..mesh.picture import SUFFIXES


class MARIGOLD_FH_picture(bpy.types.FileHandler):
    bl_idname = "MARIGOLD_FH_picture"
    bl_label = "Depth Mesh (Marigold)"
    bl_import_operator = "marigold.depth_mesh"
    bl_file_extensions = ";".join(SUFFIXES)

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


def _draw_import(self: bpy.types.Menu, context: bpy.types.Context) -> None:
    layout = self.layout
    layout.operator_context = "INVOKE_DEFAULT"
    layout.operator("marigold.depth_mesh", text="Picture as Depth Mesh (Marigold)")


def _draw_image_menu(self: bpy.types.Menu, context: bpy.types.Context) -> None:
    image = context.space_data.image
    row = self.layout.row()
    row.operator_context = "INVOKE_DEFAULT"
    row.enabled = image is not None
    button = row.operator("marigold.depth_mesh", text="Depth Mesh (Marigold)")
    if image is not None:
        button.image = image.name


def add_menus() -> None:
    bpy.types.TOPBAR_MT_file_import.append(_draw_import)
    bpy.types.IMAGE_MT_image.append(_draw_image_menu)


def remove_menus() -> None:
    bpy.types.TOPBAR_MT_file_import.remove(_draw_import)
    bpy.types.IMAGE_MT_image.remove(_draw_image_menu)


CLASSES = (MARIGOLD_FH_picture,)
