"""A cold `marigold depth --example` beside the import of diffusers' U-Net alone, in CPU seconds.

    python benchmarks/cold_start.py --repeats 5

Fresh processes in turn, medians of user and system time, which other work on the machine changes
less than the time on the clock. One thread each: where other work holds the cores, threads of one
process spend most of their CPU time waiting for each other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTS = "import torch; from diffusers import UNet2DConditionModel"


def cpu_seconds(arguments: list[str]) -> float:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "import torch": ["-c", "import torch"],
            "import torch and diffusers' U-Net": ["-c", IMPORTS],
            "marigold depth --example": ["-m", "marigold_core", "depth", "--example", "-o", folder],
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, arguments in runs.items():
                times[name].append(cpu_seconds(arguments))
    medians = {name: statistics.median(found) for name, found in times.items()}
    whole = medians["import torch and diffusers' U-Net"]
    print("| | CPU s | of the import |\n|---|--:|--:|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {seconds / whole:.2f} |")


if __name__ == "__main__":
    main()
