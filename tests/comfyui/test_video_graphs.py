"""Depth of a Video in a real ComfyUI: the result of all frames at once, in flat memory.

COMFYUI_PATH=... COMFYUI_PYTHON=... python -m pytest tests/comfyui -m slow
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comfyui_server import PromptFailed

from marigold_core import read_depth

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "marigold_core" / "assets" / "example.jpg"
# A pan over the example picture: file, frames, width, height. PyAV comes with ComfyUI.
PAN = """
import sys
import av
from PIL import Image
example, file, frames, width, height = *sys.argv[1:3], *map(int, sys.argv[3:])
picture = Image.open(example).convert("RGB").resize((width * 3 // 2, height * 3 // 2))
with av.open(file, "w") as container:
    stream = container.add_stream("h264", rate=24)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for number in range(frames):
        left, top = (side // 2 * number // frames for side in (width, height))
        frame = picture.crop((left, top, left + width, top + height))
        container.mux(stream.encode(av.VideoFrame.from_image(frame)))
    container.mux(stream.encode())
"""


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def ours(name, /, **inputs):
    return node(f"MarigoldKit_{name}", **inputs)


@pytest.fixture(scope="session")
def clip(comfyui, installation):
    """clip(frames, width, height): the name of such a video in ComfyUI's input folder."""

    def make(frames, width, height):
        name = f"pan_{frames}_{width}.mp4"
        file = comfyui.base / "input" / name
        if not file.exists():
            sizes = map(str, (frames, width, height))
            subprocess.run(
                [installation.python, "-c", PAN, str(EXAMPLE), str(file), *sizes], check=True
            )
        return name

    return make


def video_depth(video, resolution=96, **changes):
    inputs = {
        "steps": 1, "predictions": 1, "resolution": resolution, "seed": 0, "mode": "min-max",
        "near_is_white": False, "frames": "none", "filename_prefix": "clip/frame",
    }  # fmt: skip
    return {
        "load": ours("LoadMarigold", checkpoint="nano", precision="fp32", vae="standard"),
        "video": node("LoadVideo", file=video),
        "depth": ours(
            "VideoDepth", model=["load", 0], video=["video", 0], **(inputs | changes)
        ),
    }  # fmt: skip


def test_a_few_frames_at_a_time_give_what_all_at_once_give(comfyui, clip):
    """Two and a half chunks: no seam, and the same range."""
    graph = video_depth(clip(40, 96, 64), frames="16-bit PNG")
    graph["depth"]["inputs"]["video"] = ["same frames", 0]  # decoded once, for both
    graph |= {
        "frames": node("GetVideoComponents", video=["video", 0]),
        "same frames": node("CreateVideo", images=["frames", 0], fps=["frames", 2]),
        "estimate": ours("EstimateDepth", model=["load", 0], image=["frames", 0], steps=1,
                         predictions=1, resolution=96, seed=0, invert_mask=False),
        "ensemble": ours("Ensemble", predictions=["estimate", 0], method="closed form",
                         reduction="median", uncertainty_scale=0.1),
        "normalize": ours("Normalize", depth=["ensemble", 0], mode="min-max", near_is_white=False,
                          gamma=1.0, range="per image", sequence=True),
        "together": ours("DepthFromImage", image=["normalize", 0], kind="depth",
                         near_is_white=False, batch="pictures", invert_mask=False),
        "save": ours("SaveDepth", depth=["together", 0], format="NPY",
                     filename_prefix="clip/together"),
        "again": node("GetVideoComponents", video=["depth", 0]),
        "gray": ours("DepthFromImage", image=["again", 0], kind="depth", near_is_white=False,
                     batch="pictures", invert_mask=False),
        "video saved": ours("SaveDepth", depth=["gray", 0], format="NPY",
                            filename_prefix="clip/video"),
    }  # fmt: skip
    outputs = comfyui.run(graph)
    assert outputs["depth"]["images"][0]["filename"].endswith(".mp4")
    folder = comfyui.base / "output" / "clip"
    frames, together, video = (
        np.stack([read_depth(file).depth for file in sorted(folder.glob(pattern))])
        for pattern in ("frame_*.png", "together_*.npy", "video_*.npy")
    )
    assert frames.shape == together.shape == video.shape == (40, 64, 96)
    # Each frame at once differs by rounding alone, at the seams (16, 32) as elsewhere.
    assert np.abs(frames - together).max() < 1e-3
    assert frames.min() == 0 and frames.max() == 1
    assert np.abs(video - frames).mean() < 0.01  # of 8 bits, compressed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_clip_takes_the_memory_of_a_short_one(comfyui, clip):
    """240 frames of 640 x 480 are 885 MB as an IMAGE, and 295 MB as depth maps."""
    short, long = clip(40, 640, 480), clip(240, 640, 480)
    peaks = []
    for name in (short, short, long):
        Path(f"/proc/{comfyui.process.pid}/clear_refs").write_text("5")  # a new peak
        comfyui.run(video_depth(name, resolution=32, seed=len(peaks)), timeout=590)
        status = Path(f"/proc/{comfyui.process.pid}/status").read_text()
        peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    print(f"peak with 40 frames {peaks[1]:.0f} MiB, with 240 frames {peaks[2]:.0f} MiB")
    assert peaks[2] - peaks[1] < 64


@pytest.mark.parametrize("mode", ["fixed near/far", "inverse depth (ControlNet)"])
def test_every_mode_and_format(comfyui, clip, mode):
    values = {
        "fixed near/far": {"mode.near_value": 0.0, "mode.far_value": 1.0},
        "inverse depth (ControlNet)": {"mode.far_to_near": 5.0},
    }[mode]
    graph = video_depth(clip(3, 96, 64), 32, mode=mode, frames="32-bit EXR", predictions=2,
                        near_is_white=True, filename_prefix="clip/exr", **values)  # fmt: skip
    graph["save"] = node("SaveVideo", video=["depth", 0], filename_prefix="clip/saved",
                         format="auto", codec="auto")  # fmt: skip
    before = set((comfyui.base / "output").glob("clip/*"))
    assert comfyui.run(graph)["save"]["images"]
    made = {file.suffix for file in set((comfyui.base / "output").glob("clip/*")) - before}
    assert made == {".exr", ".mp4"}


def test_cancel_between_two_frames(comfyui, clip):
    prompt, entry = comfyui.cancel_at(video_depth(clip(240, 640, 480), 32, seed=9), "depth", 24)
    assert comfyui.seen("execution_interrupted", prompt), entry["status"]
    assert not list((comfyui.base / "temp").glob("*.marigold-part*"))


def test_a_checkpoint_for_something_else(comfyui, clip, downloaded):
    graph = video_depth(clip(3, 96, 64), 32)
    graph["load"]["inputs"]["checkpoint"] = "normals-v1-1"
    with pytest.raises(PromptFailed, match="estimates normals, and a checkpoint for depth"):
        comfyui.run(graph)
