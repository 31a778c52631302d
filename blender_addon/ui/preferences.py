# SPDX-License-Identifier: GPL-3.0-or-later
"""The preferences page: which Python runs the engine, on what, with which checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import bpy

from ..backend.engine_parts import BUNDLED, PUBLISHED
from ..backend.engine_session import PACKAGE, environment_folder
from ..backend.environment import BUILDS, environment_state
from .operators.background import setup
from .panel import draw_message, draw_progress


def _names(target: str, part: str = "") -> Callable[..., Iterable[str]]:
    """The published checkpoints for a target, whose names have `part` in them, as suggestions."""
    known = [*(BUNDLED if target == "depth" else ())]
    known += [name for name, one in PUBLISHED.items() if one.target == target and part in name]

    def search(
        self: bpy.types.AddonPreferences, context: bpy.types.Context, text: str
    ) -> Iterable[str]:
        return [name for name in known if text.lower() in name]

    return search


def _builds(self: bpy.types.AddonPreferences, context: bpy.types.Context) -> list[tuple]:
    return _BUILD_ITEMS


# Blender does not copy the list that a callback returns, so it must stay alive here.
_BUILD_ITEMS = [
    ("AUTO", "Automatic", "What fits this machine"),
    *((name.upper(), build.label, build.size) for name, build in BUILDS.items()),
]


def _forget_message(self: bpy.types.AddonPreferences, context: bpy.types.Context) -> None:
    """The last message is about another Python."""
    if not setup.running:
        setup.message, setup.lines = "", []


class MarigoldPreferences(bpy.types.AddonPreferences):
    bl_idname = PACKAGE

    python_source: bpy.props.EnumProperty(
        name="Engine",
        items=[
            (
                "EXISTING",
                "Use an Existing Python",
                "One that has torch and diffusers, as ComfyUI's",
            ),
            ("MADE", "Make One for Me", "An environment in Blender's folder for this add-on"),
        ],
        update=_forget_message,
    )
    python: bpy.props.StringProperty(
        name="Python",
        description="The python program, or the folder, of an environment with torch and diffusers."
        " Nothing is ever written to it",
        subtype="FILE_PATH",
        update=_forget_message,
    )
    build: bpy.props.EnumProperty(
        name="Build", description="Which build of torch is downloaded", items=_builds
    )
    proxy: bpy.props.StringProperty(
        name="Proxy",
        description="Such as http://host:8080; empty is the system's setting. Blender's preferences"
        " keep it as plain text, so a password is better given in the variable HTTPS_PROXY",
    )
    wheel_folder: bpy.props.StringProperty(
        name="Wheel Folder",
        description="Install from the wheels in this folder, without the network",
        subtype="DIR_PATH",
    )
    device: bpy.props.EnumProperty(
        name="Device",
        items=[
            ("AUTO", "Automatic", "The fastest one available"),
            ("CUDA", "CUDA / ROCm", "An NVIDIA or AMD GPU"),
            ("MPS", "MPS", "An Apple GPU"),
            ("CPU", "CPU", "Slow with a full-size checkpoint, but always available"),
        ],
    )
    precision: bpy.props.EnumProperty(
        name="Precision",
        items=[
            ("AUTO", "Automatic", "Half on a GPU that supports it well, otherwise full"),
            ("FLOAT32", "Full", "32-bit floats"),
            ("FLOAT16", "Half", "16-bit floats"),
            ("BFLOAT16", "Brain Half", "bfloat16, with the range of 32-bit floats"),
        ],
    )
    checkpoint: bpy.props.StringProperty(
        name="Checkpoint",
        description="nano (bundled, for trying), a published name such as v1-1, a folder, or a"
        " Hugging Face id",
        default="nano",
        search=_names("depth"),
        search_options={"SUGGESTION"},
    )
    normals_checkpoint: bpy.props.StringProperty(
        name="Normals",
        description="Checkpoint for the normals of a relightable surface: a published name, a"
        " folder, or a Hugging Face id. Empty takes the normals of the depth",
        search=_names("normals"),
        search_options={"SUGGESTION"},
    )
    appearance_checkpoint: bpy.props.StringProperty(
        name="Appearance",
        description="Checkpoint for albedo, roughness and metallic of a relightable surface. Empty"
        " takes the picture as the base colour",
        search=_names("intrinsics", "appearance"),
        search_options={"SUGGESTION"},
    )
    lighting_checkpoint: bpy.props.StringProperty(
        name="Lighting",
        description="Checkpoint for the shading of the picture, which the material keeps, and for"
        " the albedo where there is none for appearance",
        search=_names("intrinsics", "lighting"),
        search_options={"SUGGESTION"},
    )
    half_files: bpy.props.BoolProperty(
        name="fp16 Files", description="Use the half-size files of the checkpoint", default=False
    )
    tiny_vae: bpy.props.BoolProperty(
        name="Tiny VAE", description="A small decoder: less memory, less detail", default=False
    )
    checkpoint_folder: bpy.props.StringProperty(
        name="Download Folder",
        description="Where checkpoints are kept; empty is Hugging Face's cache",
        subtype="DIR_PATH",
    )
    idle_minutes: bpy.props.IntProperty(
        name="Idle Minutes",
        description="The model is unloaded after this time without a run; 0 is never",
        default=5,
        min=0,
        max=24 * 60,
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(self, "python_source", expand=True)
        if self.python_source == "EXISTING":
            layout.prop(self, "python")
            layout.operator("marigold.test_python", icon="CHECKMARK")
        else:
            self._draw_environment(layout)
        _draw_setup(layout, context)

        layout.separator()
        layout.prop(self, "checkpoint")
        published = PUBLISHED.get(self.checkpoint.strip())
        if published is not None:
            words = bpy.app.translations.pgettext_iface(
                "{repository}, {size} GB, licence {licence}"
            )
            # The fp16 files are half as large.
            size = published.size_bytes / (2 if self.half_files else 1) / 1e9
            layout.label(
                text=words.format(
                    repository=published.repo_id, size=f"{size:.1f}", licence=published.licence
                ),
                translate=False,
            )
        column = layout.column(heading="Relightable", align=True)
        for name in ("normals_checkpoint", "appearance_checkpoint", "lighting_checkpoint"):
            column.prop(self, name)
        row = layout.row(heading="Options")
        row.prop(self, "half_files")
        row.prop(self, "tiny_vae")
        layout.prop(self, "checkpoint_folder")
        layout.operator("marigold.download_checkpoint", icon="IMPORT")
        layout.separator()
        layout.prop(self, "device")
        layout.prop(self, "precision")
        layout.prop(self, "idle_minutes")
        layout.operator("marigold.unload", icon="X")

    def _draw_environment(self, layout: bpy.types.UILayout) -> None:
        layout.prop(self, "build")
        layout.prop(self, "wheel_folder")
        layout.prop(self, "proxy")
        state = environment_state(environment_folder())
        row = layout.row()
        label = {"unfinished": "Continue", "outdated": "Update"}.get(state, "Make")
        row.operator("marigold.make_environment", text=label, icon="IMPORT")
        row.operator("marigold.remove_environment", icon="TRASH")
        if not bpy.app.online_access and not self.wheel_folder and state != "ready":
            words = "Blender is offline: allow online access in Preferences, System"
            draw_message(layout, bpy.app.translations.pgettext_tip(words), bpy.context, "INFO")
        if state in ("ready", "outdated"):
            layout.operator("marigold.test_python", icon="CHECKMARK")


def _draw_setup(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The work in progress, or how the last one ended."""
    if not draw_progress(layout, setup, "setup") and setup.message:
        icon = "ERROR" if setup.state == "failed" else "CHECKMARK"
        draw_message(layout, setup.message, context, icon)
    box = layout.box() if setup.lines else None
    for line in setup.lines[-6:]:
        box.label(text=line[:100])


CLASSES = (MarigoldPreferences,)
