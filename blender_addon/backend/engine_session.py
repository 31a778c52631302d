# SPDX-License-Identifier: GPL-3.0-or-later
"""The one worker of this Blender, and what it is doing, for the panel to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from .engine_parts import MarigoldError
from .engine_process import EngineProcess, Job
from .environment import environment_python, environment_state

PACKAGE = (__package__ or "").rpartition(".")[0]  # the add-on's own
# The zip's unpacked copy; from a clone there is none and the clone's own engine is used.
ENGINE = Path(__file__).parents[1] / "engine" / "marigold_core"

STAGES = {
    "": "Waiting",
    "start": "Starting the engine",
    "load": "Loading the checkpoint",
    "encode": "Reading the picture",
    "denoise": "Estimating depth",
    "decode": "Decoding",
    "merge": "Merging the ensemble",
}


@dataclass
class Activity:
    """What the modal operator does at this moment; `error` stays until the next run."""

    title: str = ""
    job: Job | None = None
    done: int = 0
    total: int = 1
    error: str = ""
    cancel_asked: bool = False

    @property
    def running(self) -> bool:
        return bool(self.title)

    def begin(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.job, self.error, self.cancel_asked = None, "", False

    def end(self, error: str = "") -> None:
        self.title, self.job, self.error = "", None, error

    @property
    def fraction(self) -> float:
        of_job = (self.job.fraction if self.job is not None else None) or 0.0
        return min((self.done + of_job) / max(self.total, 1), 1.0)


activity = Activity()
_engine: EngineProcess | None = None


def preferences() -> Any:
    return bpy.context.preferences.addons[PACKAGE].preferences


def engine() -> EngineProcess:
    """The worker's client, with the Python of the preferences. Raises MarigoldError."""
    global _engine
    python = chosen_python()
    if _engine is None:
        _engine = EngineProcess(python, engine_folder=ENGINE if ENGINE.is_dir() else None)
    elif str(_engine.python) != python:
        _engine.stop()
        _engine.python = python
    return _engine


def running_engine() -> EngineProcess | None:
    """The client if a run has made one; starts nothing."""
    return _engine


def stop_engine() -> None:
    global _engine
    if _engine is not None:
        _engine.stop()
    _engine = None
    activity.end()


def chosen_python() -> str:
    """Raises MarigoldError where the preferences name no usable Python."""
    chosen = preferences()
    if chosen.python_source == "MADE":
        folder = environment_folder()
        if environment_state(folder) not in ("ready", "outdated"):
            raise MarigoldError(
                "The engine's environment is not made yet; press Make in the add-on's preferences."
            )
        return str(environment_python(folder))
    python = bpy.path.abspath(chosen.python)
    if not python:
        raise MarigoldError(
            "The engine needs a Python of its own; choose or make one in the add-on's preferences,"
            " or give a depth file."
        )
    if not Path(python).exists():
        raise MarigoldError(f"There is no Python at {python}; see the add-on's preferences.")
    return python


def environment_folder() -> Path:
    """Below Blender's folder for this extension: survives its updates, goes with its removal."""
    if not PACKAGE.startswith("bl_ext."):
        return Path(bpy.utils.user_resource("SCRIPTS")) / "marigold_environment"
    return Path(bpy.utils.extension_path_user(PACKAGE, path="environment", create=False))


def model() -> dict[str, Any]:
    """What every request tells the worker of the model; see `marigold_core.worker`."""
    chosen = preferences()
    checkpoint = chosen.checkpoint.strip() or "nano"
    local = bpy.path.abspath(checkpoint)
    values: dict[str, Any] = {
        "checkpoint": local if Path(local).is_dir() else checkpoint,
        "device": None if chosen.device == "AUTO" else chosen.device.lower(),
        "dtype": None if chosen.precision == "AUTO" else chosen.precision.lower(),
        "variant": "fp16" if chosen.half_files else None,
        "vae": "tiny" if chosen.tiny_vae else None,
    }
    if chosen.checkpoint_folder:
        values["cache_dir"] = bpy.path.abspath(chosen.checkpoint_folder)
    return values


def submit(
    method: str, params: dict[str, Any] | None = None, arrays: dict[str, Any] | None = None
) -> Job:
    """Queue a request with the preferences' idle time."""
    minutes = preferences().idle_minutes
    common = {"idle_seconds": minutes * 60.0 if minutes else None}
    return engine().submit(method, {**common, **(params or {})}, arrays)


def activity_in_words() -> str:
    job = activity.job
    stage = STAGES.get(job.stage, job.stage) if job is not None else "Building the mesh"
    words = bpy.app.translations.pgettext_iface(stage)
    if job is not None and job.total:
        words += f" {job.step}/{job.total}"
    if activity.total > 1:
        words = f"{activity.done + 1}/{activity.total}  {words}"
    if job is not None and job.seconds_left is not None:
        words += f", {_time(job.seconds_left)}"
    return words


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}"
