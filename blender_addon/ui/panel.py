# SPDX-License-Identifier: GPL-3.0-or-later
"""The Marigold tab in the sidebar. It only draws: everything shown is a plain attribute."""

from __future__ import annotations

import textwrap
from typing import Any

import bpy

from ..backend.engine_session import EXAMPLE, PACKAGE, engine_problem, preferences
from ..mesh.depth_grid import budget_in_words
from ..mesh.depth_object import SECONDS, SOURCES
from ..mesh.picture_material import shown, views
from ..mesh.shape_inputs import has_input, holder, is_panorama, shape_modifier
from .operators.background import Activity, rendering, run
from .operators.camera_move import move_of
from .operators.dataset import NAMES, copy_dataset_settings
from .operators.depth_mesh import draw_settings
from .operators.points import DISTANCE, FLOOR, LENGTH
from .operators.sequence import CLIP_NOTE
from .operators.shape import depth_mesh_of
from .run_settings import MESH_NAMES, QUALITIES, RELIGHTABLE, RUN_NAMES, name_of

iface = bpy.app.translations.pgettext_iface

SLIDERS = (
    ("Near", "Far", "Field of View", "Flat Displacement"),
    ("Tear", "Tear Ratio", "Background", "Reach"),
    ("Smoothing", "Resolution"),
    ("Points", "Point Size"),
    ("Solid", "Thickness"),
)


UNUSED_BY_PANORAMAS = ("Field of View", "Flat Displacement", "Background", "Reach")


class MarigoldPanel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Marigold"


class MARIGOLD_PT_picture(MarigoldPanel, bpy.types.Panel):
    bl_label = "Depth Mesh"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.marigold
        layout.prop(settings, "picture")
        layout.prop(settings, "depth_file", text="Depth")
        if settings.depth_file:
            layout.prop(settings, "depth_unit", text="Values")
        else:
            _draw_engine(layout, context)
            row = layout.row(align=True)
            for key, _, _, _ in QUALITIES[:-1]:
                row.prop_enum(settings, "quality", key)
        if settings.twice_as_wide or settings.panorama or settings.depth_file:
            layout.prop(settings, "panorama")
        if settings.panorama:
            draw_message(
                layout,
                iface("A panorama shows the picture, not a relightable surface"),
                context,
                "INFO",
            )
        else:
            layout.row(align=True).prop(settings, "surface", expand=True)
            if settings.surface == RELIGHTABLE:
                layout.prop(settings, "surface_folder")
        if draw_progress(layout, run, "run"):
            return
        row = layout.row()
        row.scale_y = 1.6
        button = row.operator("marigold.depth_mesh", icon="OUTLINER_OB_LIGHTPROBE")
        button.filepath = settings.picture
        button.depth_filepath = settings.depth_file
        button.panorama = settings.panorama
        button.update = True
        if not settings.picture and not settings.depth_file:
            button = layout.operator(
                "marigold.depth_mesh", text="Try the Example", icon="IMAGE_DATA"
            )
            button.filepath = str(EXAMPLE)
        row = layout.row(align=True)
        for operator, text in (
            ("marigold.batch", "Folder..."),
            ("marigold.sequence", "Sequence..."),
        ):
            row.operator(operator, text=text)
        if settings.surface == RELIGHTABLE:
            draw_message(layout, iface(CLIP_NOTE), context, "INFO")
        if run.error:
            draw_message(layout.box(), run.error, context, "ERROR")


class MARIGOLD_PT_run(MarigoldPanel, bpy.types.Panel):
    bl_label = "Settings"
    bl_parent_id = "MARIGOLD_PT_picture"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.marigold
        layout.use_property_split = True
        layout.use_property_decorate = False
        if not settings.depth_file:
            for name in RUN_NAMES:
                text = iface(name_of(name))
                if name != "seed" and not getattr(settings, name):
                    text = iface("{name} (automatic)").format(name=text)
                layout.prop(settings, name, text=text, translate=False)
            layout.prop_search(settings, "mask", bpy.data, "images")
            layout.separator()
        layout.label(text="For the next mesh")
        draw_settings(layout, settings, MESH_NAMES)
        count, memory = budget_in_words(settings.vertex_budget)
        words = iface("At most {count} vertices, about {memory}")
        layout.label(text=words.format(count=count, memory=memory), icon="INFO")


class MARIGOLD_PT_shape(MarigoldPanel, bpy.types.Panel):
    bl_label = "Live Shape"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return depth_mesh_of(context) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, obj = self.layout, depth_mesh_of(context)
        modifier = shape_modifier(obj)
        if views(obj.active_material):
            # Four in two rows: in one their names would be cut off.
            few = len(views(obj.active_material)) < 4
            buttons = layout.row(align=True) if few else layout.grid_flow(columns=2, align=True)
            now = shown(obj.active_material)
            for view in views(obj.active_material):
                button = buttons.operator("marigold.show", text=view, depress=view == now)
                button.view = view
        if modifier is None:
            layout.label(text="Baked: plain geometry", icon="MESH_DATA")
            return
        unused = UNUSED_BY_PANORAMAS if is_panorama(obj) else ()
        for group in SLIDERS:
            column = layout.column(align=True)
            column.use_property_split = True
            for name in group:
                if not has_input(modifier, name) or name in unused:
                    continue
                owner, prop, _ = holder(modifier, name)
                column.prop(owner, prop, text=iface(name))
        row = layout.row(align=True)
        row.operator("marigold.camera", icon="CAMERA_DATA")
        row.operator("marigold.bake", icon="MESH_DATA")
        row = layout.row(align=True)
        row.operator("marigold.insert_cg", icon="LIGHT_SUN")
        row.operator_menu_enum("marigold.camera_move", "kind", icon="CON_CAMERASOLVER")
        if move_of(obj) is not None:
            layout.operator("marigold.render_clip", icon="RENDER_ANIMATION")
        _draw_update(layout, obj)
        row = layout.row(align=True)
        row.operator("marigold.save_depth", icon="EXPORT")
        row.operator("marigold.mark_asset", icon="ASSET_MANAGER")
        words = iface("{count} vertices, built in {seconds} s")
        count, seconds = f"{len(obj.data.vertices):,}", f"{obj.get(SECONDS, 0):.2f}"
        layout.label(text=words.format(count=count, seconds=seconds), icon="INFO")


class MARIGOLD_PT_scale(MarigoldPanel, bpy.types.Panel):
    bl_label = "Real Scale"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        obj = depth_mesh_of(context)
        return shape_modifier(obj) is not None and not is_panorama(obj)

    def draw(self, context: bpy.types.Context) -> None:
        layout, known = self.layout, depth_mesh_of(context).marigold_known
        _draw_known(layout, "Distances from the camera", DISTANCE, known.points, "distance")
        _draw_known(layout, "Lengths between two points", LENGTH, known.lengths, "length")
        column = layout.column(align=True)
        row = column.row(align=True)
        words = iface("Floor: {count} points").format(count=len(known.floor))
        row.label(text=words, translate=False)
        row.operator("marigold.pick_point", text="", icon="EYEDROPPER").kind = FLOOR
        if known.floor:
            row.operator("marigold.remove_point", text="", icon="X").kind = FLOOR
        column.prop(known, "camera_height")
        row = layout.row()
        row.scale_y = 1.3
        row.operator("marigold.fit_metres", icon="DRIVER_DISTANCE")
        if known.report:
            draw_message(layout, known.report, context)
        column = layout.column(align=True)
        column.operator("marigold.align_ground", icon="ORIENTATION_NORMAL")
        column.operator("marigold.guided", icon="FILE_REFRESH")


class MARIGOLD_PT_dataset(MarigoldPanel, bpy.types.Panel):
    bl_label = "Training Set"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.marigold_dataset
        layout.use_property_split = True
        layout.use_property_decorate = False
        if draw_progress(layout, rendering, "rendering"):
            return
        for name in NAMES:
            layout.prop(settings, name)
        button = layout.operator("marigold.render_dataset", icon="RENDER_STILL")
        copy_dataset_settings(settings, button)
        if rendering.state == "cancelled":
            words = iface("Cancelled; the complete samples are kept, and the button continues")
            draw_message(layout, words, context)
        elif rendering.message:
            failed = rendering.state == "failed"
            box = layout.box() if failed else layout
            draw_message(box, rendering.message, context, "ERROR" if failed else "NONE")


def _draw_engine(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The checkpoint; where no run can start, why, with a button to the preferences."""
    problem = engine_problem()
    if problem:
        box = layout.box()
        draw_message(box, problem, context, "INFO")
        box.operator("preferences.addon_show", text="Open Preferences").module = PACKAGE
    else:
        layout.label(text=preferences().checkpoint or "nano", icon="NODETREE", translate=False)


def _draw_known(layout: bpy.types.UILayout, title: str, kind: str, known: Any, field: str) -> None:
    """One kind of measurement: a row each, and the button that picks another."""
    column = layout.column(align=True)
    row = column.row(align=True)
    row.label(text=title)
    row.operator("marigold.pick_point", text="", icon="EYEDROPPER").kind = kind
    for index, one in enumerate(known):
        row = column.row(align=True)
        row.alert = getattr(one, "left_out", False)
        row.prop(one, field, text=f"{index + 1}")
        button = row.operator("marigold.remove_point", text="", icon="X")
        button.kind, button.index = kind, index


def _draw_update(layout: bpy.types.UILayout, obj: bpy.types.Object) -> None:
    """Another depth for this mesh, with the settings of the sidebar."""
    picture, depth_file = obj.get(SOURCES, ("", ""))
    if picture and not depth_file:
        row = layout.row()
        row.enabled = not run.running
        button = row.operator("marigold.depth_mesh", text="Estimate Again", icon="FILE_REFRESH")
        button.filepath, button.update, button.panorama = picture, True, is_panorama(obj)


def draw_progress(layout: bpy.types.UILayout, activity: Activity, name: str) -> bool:
    """The bar and its cancel button; False where nothing is in progress."""
    if activity.running:
        row = layout.row(align=True)
        row.progress(factor=activity.fraction, text=activity.words)
        row.operator("marigold.cancel", text="", icon="X").activity = name
    return activity.running


def draw_message(
    layout: bpy.types.UILayout, message: str, context: bpy.types.Context, icon: str = "NONE"
) -> None:
    """A message wrapped to the region: 80 pixels are margins and icon, a letter takes 6.4."""
    column = layout.column(align=True)
    pixels = context.region.width / context.preferences.system.ui_scale
    lines = textwrap.wrap(message, max(int((pixels - 80) / 6.4), 20))
    for k, line in enumerate(lines):
        # The further lines are indented by an empty icon only where the first has one.
        blank = "NONE" if icon == "NONE" else "BLANK1"
        column.label(text=line, icon=icon if k == 0 else blank)


CLASSES = (
    MARIGOLD_PT_picture,
    MARIGOLD_PT_run,
    MARIGOLD_PT_shape,
    MARIGOLD_PT_scale,
    MARIGOLD_PT_dataset,
)
