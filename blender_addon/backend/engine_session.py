# SPDX-License-Identifier: GPL-3.0-or-later
"""The one engine process of this Blender, as the preferences ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

import marigold_core

from .engine_parts import MarigoldError
from .engine_process import EngineProcess, Job
from .environment import environment_python, environment_state

PACKAGE = (__package__ or "").rpartition(".")[0]  # the add-on's own
# The unpacked copy in the zip; in a clone the clone's own engine is used.
ENGINE = Path(__file__).parents[1] / "engine" / "marigold_core"
EXAMPLE = (
    ENGINE if ENGINE.is_dir() else Path(marigold_core.__file__).parent
) / "assets/example.jpg"

_engine: EngineProcess | None = None


def preferences() -> Any:
    return bpy.context.preferences.addons[PACKAGE].preferences


def engine() -> EngineProcess:
    """The client of the worker, with the Python of the preferences. Raises MarigoldError."""
    global _engine
    python = chosen_python()
    if _engine is None:
        _engine = EngineProcess(python, engine_folder=ENGINE if ENGINE.is_dir() else None)
    elif str(_engine.python) != python:
        _engine.stop()
        _engine.python = python
    return _engine


def running_engine() -> EngineProcess | None:
    """The client, if a run has made one."""
    return _engine


def stop_engine() -> None:
    global _engine
    if _engine is not None:
        _engine.stop()
    _engine = None


def chosen_python() -> str:
    """Raises MarigoldError where the preferences name no usable Python."""
    chosen = preferences()
    if chosen.python_source == "MADE":
        folder = environment_folder()
        if environment_state(folder) not in ("ready", "outdated"):
            raise MarigoldError("The engine has no Python yet: press Make in the preferences.")
        return str(environment_python(folder))
    python = bpy.path.abspath(chosen.python)
    if not python:
        raise MarigoldError(
            "The engine has no Python yet: choose or make one in the preferences, or give a depth"
            " file."
        )
    if Path(python).is_dir():  # an environment's folder: its Python is meant
        inside = ("bin/python", "Scripts/python.exe", "python.exe", ".venv/bin/python",
                  "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe",
                  "python_embeded/python.exe")  # fmt: skip
        found = (Path(python) / name for name in inside)
        python = str(next((path for path in found if path.is_file()), python))
    if not Path(python).is_file():
        raise MarigoldError(f"There is no Python at {python}; choose one in the preferences.")
    return python


def engine_problem() -> str:
    """Why no run can start with the present preferences; empty where one can."""
    try:
        chosen_python()
    except MarigoldError as error:
        return str(error)
    return ""


def environment_folder() -> Path:
    """In Blender's folder for this extension: kept by updates, deleted with the extension."""
    if not PACKAGE.startswith("bl_ext."):
        return Path(bpy.utils.user_resource("SCRIPTS")) / "marigold_environment"
    return Path(bpy.utils.extension_path_user(PACKAGE, path="environment", create=False))


def model(checkpoint: str | None = None) -> dict[str, Any]:
    """The parameter `model` of every request; see `marigold_core.worker`. None: the checkpoint for
    depth."""
    chosen = preferences()
    checkpoint = (chosen.checkpoint if checkpoint is None else checkpoint).strip() or "nano"
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
    """Send a request with the idle time of the preferences."""
    minutes = preferences().idle_minutes
    common = {"idle_seconds": minutes * 60.0 if minutes else None}
    return engine().submit(method, {**common, **(params or {})}, arrays)
