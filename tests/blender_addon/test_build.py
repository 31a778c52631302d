"""The extension's zip."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import marigold_core
from blender_addon.build import build, extension_tool, make_repository, validate

ADDON = Path(__file__).parents[2] / "blender_addon"
MANIFEST = (ADDON / "blender_manifest.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


def wheel_of(archive: Path) -> str:
    with zipfile.ZipFile(archive) as file:
        (wheel,) = [name for name in file.namelist() if name.endswith(".whl")]
    return wheel


def test_the_zip_holds_all_and_no_more(archive):
    with zipfile.ZipFile(archive) as file:
        names = set(file.namelist())
        manifest = file.read("blender_manifest.toml").decode()
        licence = file.read("LICENSE").decode()
    assert f'version = "{marigold_core.__version__}"' in manifest
    assert f'wheels = ["./{wheel_of(archive)}"]' in manifest
    assert "GNU GENERAL PUBLIC LICENSE" in licence and "Version 3" in licence
    assert {"__init__.py", "ui/operators/depth_mesh.py", "engine/LICENSE"} <= names
    assert "engine/marigold_core/assets/nano/model_index.json" in names
    assert "build.py" not in names
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_is_the_engine_without_its_assets(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        wheel = Path(file.extract(wheel_of(archive), tmp_path))
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import marigold_core, marigold_core.geometry.points, marigold_core.colormaps\n"
        "print(marigold_core.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(wheel) in run.stdout
    with zipfile.ZipFile(wheel) as file:
        assert not [name for name in file.namelist() if "assets" in name]
        assert "Requires-Dist" not in file.read(
            next(name for name in file.namelist() if name.endswith("METADATA"))
        ).decode()  # fmt: skip


def test_every_build_is_a_version_of_its_own(tmp_path, monkeypatch):
    made = []
    for name, epoch in (("a", "1700000000"), ("b", "1700000000"), ("c", "1700000001")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        made.append(build(tmp_path / name))
    assert made[0].read_bytes() == made[1].read_bytes(), "a build can be reproduced"
    assert wheel_of(made[0]) != wheel_of(made[2])
    assert [path.name for path in (tmp_path / "a").iterdir()] == [made[0].name]


def test_the_manifest_keeps_blenders_rules():
    tagline = re.search(r'^tagline = "(.*)"$', MANIFEST, re.M)
    assert tagline and len(tagline[1]) <= 64 and not tagline[1].endswith(".")
    version = re.search(r'^version = "(.*)"$', MANIFEST, re.M)
    assert version and version[1] == marigold_core.__version__
    for purpose in re.findall(r'^(?:files|network) = "(.*)"$', MANIFEST, re.M):
        assert not purpose.endswith(".") and len(purpose) <= 64


def test_every_file_names_its_licence():
    for path in ADDON.rglob("*.py"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == "# SPDX-License-Identifier: GPL-3.0-or-later", path.name


def test_blenders_tool_takes_the_zip(archive, tmp_path):
    tool = extension_tool()
    if tool is None:
        pytest.skip("this Python has no bpy; test_in_blender.py installs the zip")
    validate(tool, archive)
    make_repository(tool, archive, tmp_path / "repository")
    assert {p.name for p in (tmp_path / "repository").iterdir()} == {archive.name, "index.json"}
