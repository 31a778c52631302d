# SPDX-License-Identifier: GPL-3.0-or-later
"""The clip of a camera move, rendered into a file or folder of its own.

Blender renders an animation with the scene's own settings. They are set for the clip and set back
at its end, so that the user's output, camera and frames are as before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from ...mesh.depth_object import SIZE
from ..poll_messages import refuse
from .camera_move import move_of
from .shape import depth_mesh_of, has_view

FOLDER = "marigold_clips"
# What the clip sets: the owner, from the scene on, and the property. A later one depends on those
# before it.
OUTPUT = (
    ("", "camera"), ("", "frame_start"), ("", "frame_end"), ("", "frame_step"),
    ("render", "filepath"), ("render", "use_file_extension"), ("render", "use_overwrite"),
    ("render", "use_sequencer"), ("render", "use_border"), ("render", "use_lock_interface"),
    ("render", "resolution_x"), ("render", "resolution_y"), ("render", "resolution_percentage"),
    ("render.image_settings", "media_type"),  # from Blender 5.0 on
    ("render.image_settings", "file_format"), ("render.image_settings", "color_mode"),
    ("render.ffmpeg", "format"), ("render.ffmpeg", "codec"),
    ("render.ffmpeg", "constant_rate_factor"), ("render.ffmpeg", "audio_codec"),
)  # fmt: skip


class MARIGOLD_OT_render_clip(bpy.types.Operator):
    """Render the clip of the camera move, as a video where this Blender can write one, else as PNG
    frames: into a folder beside the saved file, or in your folder of videos"""

    bl_idname = "marigold.render_clip"
    bl_label = "Render Clip"

    directory: bpy.props.StringProperty(
        name="Folder",
        description="For the clip; empty is marigold_clips beside the saved file, or in your folder"
        " of videos",
        subtype="DIR_PATH",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not has_view(cls, context):
            return False
        if move_of(depth_mesh_of(context)) is None:
            return refuse(cls, "Add a camera move first")
        if bpy.app.is_job_running("RENDER"):
            return refuse(cls, "Wait for the current render, or cancel it with ESC")
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Returns at once; Blender shows the render and its progress, and ESC cancels it."""
        return self._render(context, "INVOKE_DEFAULT")

    def execute(self, context: bpy.types.Context) -> set[str]:
        return self._render(context, "EXEC_DEFAULT")

    def _render(self, context: bpy.types.Context, how: str) -> set[str]:
        try:
            target, restore = self._prepare(context)
        except OSError as error:
            self.report({"ERROR"}, f"{error.filename}: {error.strerror}; choose another folder.")
            return {"CANCELLED"}

        def at_the_end() -> float | None:
            if bpy.app.is_job_running("RENDER"):
                return 0.5
            restore()
            return None

        words = "The clip is in {}"
        try:
            bpy.ops.render.render(how, animation=True)
        except RuntimeError as error:
            self.report({"ERROR"}, str(error).removeprefix("Error: ").strip())
            return {"CANCELLED"}
        finally:
            if at_the_end() is not None:
                bpy.app.timers.register(at_the_end, first_interval=0.5)
                words = "The clip is being written to {}"
        self.report({"INFO"}, words.format(target))
        return {"FINISHED"}

    def _prepare(self, context: bpy.types.Context) -> tuple[Path, Callable[[], None]]:
        """Set the scene for the clip; where that will be, and a function that sets all back. Raises
        OSError, with the scene as it was."""
        obj, scene = depth_mesh_of(context), context.scene
        move = move_of(obj)
        video = _writes_video()
        folder = Path(bpy.path.abspath(self.directory)) if self.directory else _default_folder()
        target = _free(folder, f"{bpy.path.clean_name(obj.name)}_{move.kind}", video)
        target.parent.mkdir(parents=True, exist_ok=True)
        height, width = obj[SIZE]
        before = _values(scene)
        values = {
            "camera": move.camera,
            "frame_start": 1,
            "frame_end": move.frames,
            "frame_step": 1,
            "filepath": str(target if video else target / "frame_####"),
            "use_file_extension": True,
            "use_overwrite": True,
            "use_sequencer": False,
            "use_border": False,
            # Nothing is changed, undone or saved with these settings meanwhile.
            "use_lock_interface": True,
            # H.264 has even sizes.
            "resolution_x": width - width % 2 if video else width,
            "resolution_y": height - height % 2 if video else height,
            "resolution_percentage": 100,
            "media_type": "VIDEO" if video else "IMAGE",
            "file_format": "FFMPEG" if video else "PNG",
            "color_mode": "RGB",
        }
        if video:
            values |= {
                "format": "MPEG4",
                "codec": "H264",
                "constant_rate_factor": "HIGH",
                "audio_codec": "NONE",
            }
        _set(scene, values)
        name = scene.name

        def restore() -> None:
            """By name: an undo or another file may have replaced the scene meanwhile."""
            scene = bpy.data.scenes.get(name)
            if scene is not None:
                camera = bpy.data.objects.get(before["camera"], scene.camera)
                _set(scene, before | {"camera": camera if before["camera"] else None})

        return target, restore


def _writes_video() -> bool:
    return bool(bpy.app.build_options.codec_ffmpeg)


def _default_folder() -> Path:
    """Never one that the user's own files are in."""
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / FOLDER
    videos = Path.home() / "Videos"
    return (videos if videos.is_dir() else Path.home()) / FOLDER


def _free(folder: Path, name: str, video: bool) -> Path:
    """A path in the folder that is not there yet: of a video, or of a folder of frames."""
    suffix = ".mp4" if video else ""
    path, number = folder / f"{name}{suffix}", 2
    while path.exists():
        path, number = folder / f"{name}_{number}{suffix}", number + 1
    return path


def _owner(scene: bpy.types.Scene, path: str) -> Any:
    return scene.path_resolve(path) if path else scene


def _values(scene: bpy.types.Scene) -> dict[str, Any]:
    """What OUTPUT names, the camera by its name."""
    found = {
        name: getattr(_owner(scene, path), name)
        for path, name in OUTPUT
        if hasattr(_owner(scene, path), name)
    }
    return found | {"camera": scene.camera.name if scene.camera is not None else ""}


def _set(scene: bpy.types.Scene, values: dict[str, Any]) -> None:
    for path, name in OUTPUT:
        if name in values and hasattr(_owner(scene, path), name):
            setattr(_owner(scene, path), name, values[name])


CLASSES = (MARIGOLD_OT_render_clip,)
