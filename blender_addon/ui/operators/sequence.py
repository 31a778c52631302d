# SPDX-License-Identifier: GPL-3.0-or-later
"""An image sequence -> one animated depth mesh.

Each frame's depth has its own scale and shift; the engine's `align_sequence` brings all frames
to one range, with one near and one far.
"""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ...backend.engine_parts import MarigoldError
from ...backend.engine_session import submit
from ...mesh.calibration import placed
from ...mesh.depth_object import object_name
from ...mesh.depth_sequence import frame_number, load_sequence, numbered_frames, write_depth_frames
from ...mesh.picture import SUFFIXES
from ...mesh.shape_inputs import set_inputs
from ..run_settings import (
    MESH_NAMES,
    RELIGHTABLE,
    RUN_NAMES,
    SHAPE_NAMES,
    ShapeSettings,
    fill_from_sidebar,
    run_params,
)
from .background import EngineRun, Work
from .depth_mesh import Place, draw_settings, finish

# The range of a new file; one that the user set stays.
NEW_FILE_FRAMES = (1, 250)
# The maps would be of one frame.
CLIP_NOTE = "A clip (Sequence) shows the picture, not a relightable surface"
INVARIANCES = ("scale_invariant", "shift_invariant")


class MARIGOLD_OT_sequence(EngineRun, ShapeSettings, bpy.types.Operator):
    """Make one animated depth mesh of an image sequence, its frames aligned to one another"""

    bl_idname = "marigold.sequence"
    bl_label = "Animated Depth Mesh"
    bl_options = {"REGISTER", "UNDO"}

    directory: bpy.props.StringProperty(
        name="Folder", description="Of numbered frames", subtype="DIR_PATH", options={"SKIP_SAVE"}
    )
    depth_directory: bpy.props.StringProperty(
        name="Depth Folder",
        description="Where the frames of depth are written, which the mesh reads; empty is a"
        " folder beside the saved file, or in Blender's user folder",
        subtype="DIR_PATH",
        options={"SKIP_SAVE"},
    )
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        fill_from_sidebar(self, context)
        if self.directory:
            return self.start(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def draw(self, context: bpy.types.Context) -> None:
        if context.space_data is not None and context.space_data.type == "FILE_BROWSER":
            self.layout.prop(self, "depth_directory")
            shape = [name for name in SHAPE_NAMES if name != "panorama"]
            draw_settings(self.layout, self, (*RUN_NAMES, *shape, *MESH_NAMES))

    def _target(self, folder: Path) -> Path:
        """Never the user's folder of frames, unless it is chosen."""
        if self.depth_directory:
            return Path(bpy.path.abspath(self.depth_directory))
        if bpy.data.filepath:
            return Path(bpy.path.abspath("//marigold_depth")) / folder.name
        return Path(bpy.utils.user_resource("DATAFILES")) / "marigold_depth" / folder.name

    def steps(self) -> int:
        try:
            return len(numbered_frames(Path(bpy.path.abspath(self.directory)), SUFFIXES)) + 1
        except MarigoldError:
            return 1

    def work(self, context: bpy.types.Context) -> Work:
        folder = Path(bpy.path.abspath(self.directory))
        if self.panorama:
            raise MarigoldError("There are no clips of panoramas; use the pictures one by one.")
        paths = numbered_frames(folder, SUFFIXES)
        place, target = Place.of(context), self._target(folder)
        frames, flags = [], {}
        for path in paths:
            job = submit("depth", {**run_params(self), "image": str(path)})
            yield job
            depth = job.arrays["depth"]
            if frames and depth.shape != frames[0].shape:
                raise MarigoldError(f"{path.name} has another size than the frames before it.")
            frames.append(depth)
            flags = {name: job.result.get(name, True) for name in INVARIANCES}
        job = submit("align", flags, {"frames": np.stack(frames)})
        yield job
        aligned, near, far = placed(job.arrays["frames"], self.near, self.far, **flags)
        try:
            first = write_depth_frames(aligned, target)
        except OSError as error:
            raise MarigoldError(
                f"The frames of depth cannot be written to {target.name}: {error.strerror}; choose"
                " another Depth Folder."
            ) from error

        image = load_sequence(paths[0], len(paths), data=False)
        obj = finish(
            context, self, object_name(str(folder)), aligned[0], image, place, span=(near, far)
        )
        depth_image = load_sequence(first, len(paths), data=True)
        set_inputs(obj, animated=True, depth_sequence=depth_image)
        for node in obj.active_material.node_tree.nodes:
            if node.type == "TEX_IMAGE":
                node.image_user.frame_duration = len(paths)
                node.image_user.frame_start = 1
                node.image_user.frame_offset = frame_number(paths[0]) - 1
                node.image_user.use_auto_refresh = True
        scene, _ = place.find(context)
        if (scene.frame_start, scene.frame_end) == NEW_FILE_FRAMES:
            scene.frame_end = len(paths)
            scene.frame_set(1)
        return CLIP_NOTE if self.surface == RELIGHTABLE else ""


CLASSES = (MARIGOLD_OT_sequence,)
