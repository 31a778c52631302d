"""What the ComfyUI graph costs over a direct engine call: same picture, seed and checkpoint.

    COMFYUI_PATH=... python benchmarks/comfyui_overhead.py      # with ComfyUI's Python

Two real servers, previews off and on,
and this process take turns; the first round is not counted. A graph's time is the one that
ComfyUI reports from the start of a prompt to its end: everything but the checkpoint and the
picture, which it has cached as the direct call has them loaded. Both save the depth as NPY. CPU
seconds are of the whole process, and do not see what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "comfyui")]
from comfyui_server import ComfyUIServer, installations  # noqa: E402

from marigold_core import Marigold, read_image  # noqa: E402

PICTURE = ROOT / "marigold_core" / "assets" / "example.jpg"


class Direct:
    """The engine, called from this process."""

    name = "engine"

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.file = folder / "direct.npy"
        self.marigold = Marigold.from_pretrained("nano", device="cpu")
        self.picture = read_image(PICTURE)
        self.process = psutil.Process()

    def run(self, seed: int) -> float:
        began = time.perf_counter()
        depth = self.marigold(
            self.picture,
            num_inference_steps=self.options.steps,
            ensemble_size=self.options.predictions,
            processing_resolution=self.options.resolution,
            generator=torch.Generator().manual_seed(seed),
        )
        depth.save(self.file)
        return time.perf_counter() - began

    def result(self) -> Any:
        return np.load(self.file)


class Graph:
    """The nodes, in a ComfyUI of their own."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path, preview: str) -> None:
        self.name = name
        self.options = options
        self.folder = folder
        folder.mkdir()
        self.server = ComfyUIServer(folder, installations()[0], "--preview-method", preview)
        self.process = psutil.Process(self.server.process.pid)

    def run(self, seed: int) -> float:
        def node(name: str, **inputs: Any) -> dict[str, Any]:
            return {"class_type": name, "inputs": inputs}

        entry = self.server.wait(
            self.server.queue(
                {
                    "image": node("LoadImage", image=PICTURE.name),
                    "load": node(
                        "MarigoldKit_LoadMarigold", checkpoint="nano", precision="fp32",
                        vae="standard",
                    ),
                    "estimate": node(
                        "MarigoldKit_EstimateDepth", model=["load", 0], image=["image", 0],
                        steps=self.options.steps, predictions=self.options.predictions,
                        resolution=self.options.resolution, seed=seed,
                        invert_mask=False,
                    ),
                    "ensemble": node(
                        "MarigoldKit_Ensemble", predictions=["estimate", 0],
                        method="closed form", reduction="median", uncertainty_scale=0.1,
                    ),
                    "save": node(
                        "MarigoldKit_SaveDepth", depth=["ensemble", 0], format="NPY",
                        filename_prefix="depth",
                    ),
                }
            ),
            timeout=600,
        )  # fmt: skip
        times = {kind: message["timestamp"] for kind, message in entry["status"]["messages"]}
        return (times["execution_success"] - times["execution_start"]) / 1000

    def result(self) -> Any:
        return np.load(max((self.folder / "output").glob("depth_*.npy")))


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--predictions", type=int, default=4)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways: list[Any] = [
            Direct(options, folder),
            Graph("graph", options, folder / "off", "none"),
            Graph("graph, previews on", options, folder / "on", "auto"),
        ]
        wall: dict[str, list[float]] = {way.name: [] for way in ways}
        cpu: dict[str, list[float]] = {way.name: [] for way in ways}
        for seed in range(options.rounds + 1):
            for way in ways:
                before = cpu_seconds(way.process)
                seconds = way.run(seed)
                if seed:
                    wall[way.name].append(seconds)
                    cpu[way.name].append(cpu_seconds(way.process) - before)
        difference = max(abs(way.result() - ways[0].result()).max() for way in ways)
        for way in ways[1:]:
            way.server.__exit__()

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, nano, {vars(options)}")
    print(f"greatest difference of the depth maps: {difference:g}")
    print("| way | wall s, median | min | over the engine | CPU s, median | over the engine |")
    print("|---|---|---|---|---|---|")
    for name in wall:
        row = [f"| {name} | {statistics.median(wall[name]):.2f} | {min(wall[name]):.2f}"]
        for measured in (wall, cpu):
            # Each round against the engine's call in the same round.
            ratios = [a / b for a, b in zip(measured[name], measured["engine"], strict=True)]
            over = f"{100 * (statistics.median(ratios) - 1):+.1f} %"
            row += [over] if measured is wall else [f"{statistics.median(cpu[name]):.2f}", over]
        print(" | ".join(row) + " |")


if __name__ == "__main__":
    main()
