"""Runs a scenario inside a real Blender; `test_in_blender.py` starts it as a program.

    BLENDER_USER_RESOURCES=EMPTY BLENDER_PYTHON inside_blender.py SCENARIO ZIP FOLDER ENGINE_PYTHON

FOLDER holds the pictures and depth files that the test made. A scenario that fails raises.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bpy
import measured_first_picture  # noqa: F401
import measured_relight  # noqa: F401
import measured_views  # noqa: F401
import scenarios_dataset  # noqa: F401
import scenarios_engine  # noqa: F401
import scenarios_file  # noqa: F401
import scenarios_metres  # noqa: F401
import scenarios_panorama  # noqa: F401
import scenarios_relight  # noqa: F401
import scenarios_shape  # noqa: F401
from addon_in_blender import ADDON, SCENARIOS, empty_scene, install


def main() -> None:
    name, archive, folder, python = sys.argv[1:5]
    install(Path(archive))
    empty_scene()
    bpy.context.preferences.filepaths.file_preview_type = "NONE"
    SCENARIOS[name](Path(folder), python)
    session = sys.modules.get(f"{ADDON}.engine_session")
    if session is not None:
        session.stop_engine()
    print("PASSED", name, flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # bpy as a module can crash while Python takes itself down (4.2, after glTF)
