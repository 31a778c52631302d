"""Depth of a Video: clips of any length, of which a few frames are in memory at a time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, io, ui
from numpy.typing import NDArray
from torch import Tensor

from ..marigold_core import DepthMap, Marigold, MarigoldError, normalize_depth
from ..marigold_core.ensemble.sequence import follow
from ..marigold_core.files import atomic_path
from ..marigold_core.resize import resize_map
from .estimate_depth import RESOLUTION, SEED, STEPS, predictions_input
from .managed_model import ManagedModel
from .normalize_depth import NEAR_IS_WHITE, OPTIONS, arguments_of
from .run_progress import RunProgress, check_cancel, interruptible
from .saved_files import saved_workflow
from .sockets import CATEGORY, Model, schema

# Frames that are read together. Those that fit share the network's batch; see `predict_frames`.
CHUNK = 16
MODES = [mode for mode in OPTIONS if mode != "percentile"]  # which needs all frames at once
FRAMES = {"none": "", "16-bit PNG": ".png", "32-bit EXR": ".exr"}
QUALITY = {"crf": "16"}


class VideoDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_VideoDepth",
            display_name="Depth of a Video (Marigold)",
            category=CATEGORY,
            description="From a video to its depth as a video, however long it is: frames are "
            "read, estimated and written a few at a time. Each frame is aligned to the one before, "
            "and all share one range, so that the depth does not flicker.",
            search_aliases=["marigold video", "video depth", "clip", "long video"],
            is_output_node=True,
            inputs=[
                Model.Input("model", tooltip="From Load Marigold."),
                io.Video.Input("video", tooltip="From Load Video."),
                STEPS,
                predictions_input(
                    "Merged into one map for each frame: more are better and slower."
                ),
                RESOLUTION,
                SEED,
                io.DynamicCombo.Input(
                    "mode",
                    options=[io.DynamicCombo.Option(mode, OPTIONS[mode]) for mode in MODES],
                    tooltip="What becomes black and white, the same in all frames. min-max: from "
                    "the nearest point of the clip to the farthest. fixed near/far: two values of "
                    "your choice. inverse depth: disparity, which ControlNet's depth models were "
                    "trained on.",
                ),
                NEAR_IS_WHITE,
                io.Combo.Input(
                    "frames",
                    options=list(FRAMES),
                    default="none",
                    tooltip="A file for each frame in the output folder, beside the video, which "
                    "has 8 bits: the depth itself as Save Depth writes it, 0 is near, before mode "
                    "and near_is_white.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="depth/Video",
                    tooltip="Folder and name of the frames inside ComfyUI's output folder.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    "depth_video",
                    display_name="video",
                    tooltip="The depth, in the video's size and speed, without sound. For Save "
                    "Video, or for a ControlNet after Get Video Components.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ManagedModel,
        video: Any,
        steps: int,
        predictions: int,
        resolution: int,
        seed: int,
        mode: dict[str, Any],
        near_is_white: bool,
        frames: str,
        filename_prefix: str,
    ) -> io.NodeOutput:
        model.marigold.expect("depth")
        arguments = arguments_of(mode)
        pictures = frames_of(video)
        first = next(pictures, None)
        if first is None:
            raise MarigoldError("The video has no frames.")
        height, width = first.shape[:2]
        marigold = model.load(height, width, resolution or None, predictions * CHUNK)
        temporary = folder_paths.get_temp_directory()
        Path(temporary).mkdir(parents=True, exist_ok=True)
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            "marigold_depth", temporary
        )
        file = Path(folder) / f"{name}_{counter:05}_.mp4"
        with tempfile.TemporaryFile(dir=temporary) as store:
            with interruptible(model.patcher.model):
                maps = estimated(
                    marigold,
                    chain([first], pictures),
                    video.get_frame_count(),
                    num_inference_steps=steps or None,
                    ensemble_size=predictions,
                    processing_resolution=resolution or None,
                    seed=seed,
                )
                clip = stored(maps, store, (height, width), marigold)
            if frames != "none":
                save_frames(clip, FRAMES[frames], filename_prefix, saved_workflow(cls))
            # Disparity is large where it is near; every other mode is small there.
            arguments["invert"] = near_is_white != (arguments["mode"] == "inverse")
            write_video(file, clip, arguments, video.get_frame_rate())
        shown = ui.SavedResult(file.name, subfolder, io.FolderType.temp)
        return io.NodeOutput(InputImpl.VideoFromFile(str(file)), ui=ui.PreviewVideo([shown]))


@dataclass(frozen=True)
class StoredClip:
    """The aligned depth of a clip in a file: float32 frames one after the other.

    size: (H, W) of the video. processed: (h, w) of the stored frames. origin, unit: what is
    subtracted and divided by on reading. low, high: of all frames, read. The invariances are the
    checkpoint's; see `DepthMap`.
    """

    store: BinaryIO
    count: int
    size: tuple[int, int]
    processed: tuple[int, int]
    origin: float
    unit: float
    low: float
    high: float
    scale_invariant: bool
    shift_invariant: bool

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Each frame at the video's size, in the range of `align_sequence`."""
        h, w = self.processed
        self.store.seek(0)
        for _ in range(self.count):
            frame = np.frombuffer(self.store.read(4 * h * w), np.float32).reshape(h, w)
            frame = (frame - np.float32(self.origin)) / np.float32(self.unit)
            yield resize_map(torch.from_numpy(frame), self.size).numpy()

    def gray(self, depth: NDArray[np.float32], arguments: dict[str, Any]) -> NDArray[np.float32]:
        """A frame as gray values in [0, 1], by `normalize_depth`, in the range of all frames."""
        if arguments["mode"] == "fixed":
            return normalize_depth(depth, **arguments)
        extent = max(self.high - self.low, 1e-6)
        position = ((depth - self.low) / np.float32(extent)).clip(0, 1)
        if arguments["mode"] == "minmax":
            arguments = arguments | {"mode": "fixed", "near": 0.0, "far": 1.0}
        elif not self.scale_invariant and 0 < self.low < self.high:
            arguments = arguments | {"near": self.low, "far": self.high}
        return normalize_depth(position, **arguments)


def estimated(
    marigold: Marigold, frames: Iterator[NDArray[Any]], count: int, **options: Any
) -> Iterator[Tensor]:
    """The depth of each of about `count` frames, float32 (h, w) as the model sees it."""
    progress = RunProgress(max(1, math.ceil(count / CHUNK)))
    while chunk := list(islice(frames, CHUNK)):
        for members in marigold.predict_frames(chunk, callback=progress, **options):
            merged = marigold.target.merge(
                members, chunk[0].shape[:2], match_input_resolution=False
            )
            yield torch.from_numpy(merged.depth)
        progress.picture += 1
        # A file's header may count fewer frames than it has.
        progress.count = max(progress.count, progress.picture + 1)


def stored(
    maps: Iterator[Tensor], store: BinaryIO, size: tuple[int, int], marigold: Marigold
) -> StoredClip:
    """The frames, aligned to one another, written to the file."""
    relative, shifted = marigold.scale_invariant, marigold.shift_invariant
    aligned = maps
    if relative:
        aligned = follow(((one, torch.ones_like(one, dtype=torch.bool)) for one in maps), shifted)
    count, low, high, processed = 0, math.inf, -math.inf, (0, 0)
    for frame in aligned:
        low, high = min(low, float(frame.min())), max(high, float(frame.max()))
        processed = frame.shape[0], frame.shape[1]
        store.write(frame.numpy().tobytes())
        count += 1
    origin = low if shifted and count > 1 else 0.0
    unit = max(high - origin, 1e-6) if relative and count > 1 else 1.0
    ends = (low - origin) / unit, (high - origin) / unit
    return StoredClip(store, count, size, processed, origin, unit, *ends, relative, shifted)


def frames_of(video: Any) -> Iterator[NDArray[Any]]:
    """The pictures of a VIDEO, (H, W, 3), decoded one by one where it is a file."""
    if not isinstance(video, InputImpl.VideoFromFile):
        yield from (image[..., :3].float().numpy() for image in video.get_components().images)
        return
    import av  # type: ignore[import-not-found]  # ComfyUI brings it

    window = getattr(video, "get_active_trim_window", None)
    start, duration = window() if window else (0.0, 0.0)
    with av.open(video.get_stream_source(), mode="r") as container:
        stream = container.streams.video[0]
        first = int(start / stream.time_base)
        last = int((start + duration) / stream.time_base) if duration else None
        if first:
            container.seek(first, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts < first:
                continue
            if last is not None and frame.pts is not None and frame.pts >= last:
                return
            check_cancel()
            turns = round(getattr(frame, "rotation", 0) / 90)
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def save_frames(
    clip: StoredClip, suffix: str, filename_prefix: str, metadata: dict[str, str]
) -> None:
    """A file for each frame in the output folder, as Save Depth writes it."""
    height, width = clip.size
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        filename_prefix, folder_paths.get_output_directory(), width, height
    )
    for number, depth in enumerate(clip, counter):
        check_cancel()
        file = Path(folder) / f"{name}_{number:05}_{suffix}"
        one = DepthMap(
            depth, scale_invariant=clip.scale_invariant, shift_invariant=clip.shift_invariant
        )
        one.save(file, metadata=metadata)


def write_video(file: Path, clip: StoredClip, arguments: dict[str, Any], rate: Fraction) -> None:
    """The clip as a gray H.264 video; arguments: of `normalize_depth`."""
    import av

    height, width = (side - side % 2 for side in clip.size)  # H.264 has no odd sides
    with (
        atomic_path(file) as temporary,
        av.open(str(temporary), mode="w", format="mp4") as container,
    ):
        stream = container.add_stream("h264", rate=Fraction(round(rate * 1000), 1000))
        stream.options = QUALITY
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for depth in clip:
            check_cancel()
            gray = clip.gray(depth, arguments)[:height, :width]
            pixels = np.rint(gray * 255).astype(np.uint8)
            rgb = np.repeat(pixels[..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
