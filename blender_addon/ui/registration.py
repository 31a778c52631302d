# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that Blender has to register and to unregister."""

from __future__ import annotations

import sys

import bpy

from ..backend.engine_session import PACKAGE, running_engine, stop_engine
from . import known, marks, menus, panel, preferences, run_settings
from .operators import (
    background,
    batch,
    camera_move,
    dataset,
    depth_mesh,
    environment,
    guided,
    insert_cg,
    points,
    render_clip,
    sequence,
    shape,
)
from .translations import translations

CLASSES = (
    *run_settings.CLASSES,
    *known.CLASSES,
    *points.CLASSES,
    *shape.CLASSES,
    *insert_cg.CLASSES,
    *camera_move.CLASSES,
    *render_clip.CLASSES,
    *background.CLASSES,
    *depth_mesh.CLASSES,
    *batch.CLASSES,
    *guided.CLASSES,
    *sequence.CLASSES,
    *dataset.CLASSES,
    *environment.CLASSES,
    *preferences.CLASSES,
    *panel.CLASSES,
    *menus.CLASSES,
)


@bpy.app.handlers.persistent
def _before_another_file(*_: object) -> None:
    """A run belongs to the file that is closed; the worker stays warm for the next one."""
    engine = running_engine()
    if engine is not None:
        engine.cancel()
    background.run.cancel()


def register() -> None:
    for cls in CLASSES:
        if issubclass(cls, bpy.types.Operator):
            # Blender would show the docstring with its line breaks and its indentation.
            cls.bl_description = " ".join((cls.__doc__ or "").split())
        bpy.utils.register_class(cls)
    bpy.types.Scene.marigold = bpy.props.PointerProperty(type=run_settings.MarigoldSettings)
    bpy.types.Scene.marigold_dataset = bpy.props.PointerProperty(type=dataset.MarigoldDataset)
    bpy.types.Object.marigold_known = bpy.props.PointerProperty(type=known.Known)
    bpy.app.translations.register(PACKAGE, translations())
    bpy.app.handlers.load_pre.append(_before_another_file)
    menus.add_menus()
    marks.show_marks()


def unregister() -> None:
    background.run.cancel()
    background.setup.cancel()
    dataset.leave()
    stop_engine()
    marks.hide_marks()
    menus.remove_menus()
    bpy.app.handlers.load_pre.remove(_before_another_file)
    bpy.app.translations.unregister(PACKAGE)
    del bpy.types.Object.marigold_known
    del bpy.types.Scene.marigold_dataset
    del bpy.types.Scene.marigold
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    # An update brings another wheel, but Blender forgets only the add-on's own modules.
    for name in [name for name in sys.modules if name.split(".")[0] == "marigold_core"]:
        del sys.modules[name]
