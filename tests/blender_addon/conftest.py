from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from blender_program import BLENDER_PYTHONS

from blender_addon.build import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def addon_module():
    """import_module for the files of blender_addon/ that need no bpy; its __init__ needs it."""
    package = ModuleType("blender_addon_without_bpy")
    package.__path__ = [str(ROOT / "blender_addon")]
    sys.modules[package.__name__] = package
    return lambda name: importlib.import_module(f"{package.__name__}.{name}")


@pytest.fixture(scope="session", params=BLENDER_PYTHONS)
def blender(request) -> str:
    """A Python with bpy; a test that asks for it runs in each that there is."""
    return request.param


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    return build(tmp_path_factory.mktemp("extension"))
