# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension's zip and a static repository of it:

    python -m blender_addon.build                # dist/marigold_kit-VERSION.zip, dist/repository/

The zip holds the add-on, a wheel of the engine for Blender's own Python, and in `engine/` an
unpacked copy with the bundled checkpoint for the worker's Python; in `renderer/` the programs that
render training sets. Blender's own tool validates it where there is one: a `bpy` in this Python
(pip install bpy), or --blender PROGRAM.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import marigold_core
from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path

ADDON = Path(__file__).parent
ENGINE = Path(marigold_core.__file__).parent
ROOT = ADDON.parent
ID = "marigold_kit"
NOT_IN_ZIP = {"build.py"}
TRAINING = ROOT / "training"
# Run by a background Blender, never imported: they need only bpy and numpy.
RENDERER = (
    "render_dataset.py",
    "render/__init__.py",
    "render/blender_*.py",
    "render/develop.py",
    "render/exr_png.py",
    "render/render_pool.py",
    "render/sample_folder.py",
)
APACHE = b"# SPDX-License-Identifier: Apache-2.0\n"


def build(target: Path) -> Path:
    """Write `target`/marigold_kit-VERSION.zip atomically; returns its path."""
    version = marigold_core.__version__
    built = _time_of_build()
    # Blender unpacks a wheel only if it has none of that version: each build is a version.
    wheel_version = f"{version}.post{time.strftime('%Y%m%d%H%M%S', built)}"
    wheel_name = f"marigold_kit-{wheel_version}-py3-none-any.whl"
    manifest = (ADDON / "blender_manifest.toml").read_text(encoding="utf-8")
    manifest = _set(manifest, "version", f'"{version}"')
    manifest = _set(manifest, "wheels", f'["./wheels/{wheel_name}"]')

    files = {"blender_manifest.toml": manifest.encode()}
    for path in _files(ADDON):
        name = path.relative_to(ADDON).as_posix()
        if name not in NOT_IN_ZIP and name not in files:
            files[name] = path.read_bytes()
    for path in _files(ENGINE):
        files[f"engine/marigold_core/{path.relative_to(ENGINE).as_posix()}"] = path.read_bytes()
    for pattern in RENDERER:
        for path in sorted(TRAINING.glob(pattern)):
            # Their licence differs from that of the add-on's files, so each one states it.
            name = f"renderer/{path.relative_to(TRAINING).as_posix()}"
            files[name] = APACHE + path.read_bytes()
    for folder in ("engine", "renderer"):
        files[f"{folder}/LICENSE"] = (ROOT / "LICENSE").read_bytes()

    archive = target / f"{ID}-{version}.zip"
    with atomic_path(archive) as temporary, tempfile.TemporaryDirectory() as scratch:
        wheel = Path(scratch) / wheel_name
        _write_wheel(wheel, wheel_version, built)
        files[f"wheels/{wheel_name}"] = wheel.read_bytes()
        _write_zip(temporary, files, built)
    return archive


def extension_tool(blender: str | None = None) -> list[str] | None:
    """The command of Blender's extension tool: of the program `blender`, or of this Python's bpy
    (which is found, not imported)."""
    if blender is not None:
        return [blender, "--command", "extension"]
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        return None
    tools = sorted(Path(spec.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
    return [sys.executable, str(tools[-1])] if tools else None


def validate(tool: list[str], archive: Path) -> None:
    """Raises MarigoldError with the tool's message where it finds a fault."""
    run = subprocess.run([*tool, "validate", str(archive)], capture_output=True, text=True)
    output = run.stdout + run.stderr
    if run.returncode or "Error" in output:
        raise MarigoldError(f"Blender's extension tool refuses {archive.name}: {output.strip()}")


def make_repository(tool: list[str], archive: Path, folder: Path) -> None:
    """A folder with the zip and the index that Blender reads from any web server or disk."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(archive, scratch)
        command = [*tool, "server-generate", "--repo-dir", scratch]
        run = subprocess.run(command, capture_output=True, text=True)
        index = Path(scratch) / "index.json"
        if run.returncode or not index.is_file():
            raise MarigoldError(f"Blender's tool made no index: {(run.stdout + run.stderr)[-500:]}")
        for file in (Path(scratch) / archive.name, index):  # the index last: it names the zip
            with atomic_path(folder / file.name) as temporary:
                shutil.copyfile(file, temporary)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and "__pycache__" not in path.parts and not hidden:
            yield path


def _set(manifest: str, key: str, value: str) -> str:
    changed, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", manifest, flags=re.MULTILINE)
    if count != 1:
        raise MarigoldError(f"blender_manifest.toml has {count} lines `{key} = `, not one.")
    return changed


def _time_of_build() -> time.struct_time:
    # The convention of reproducible-builds.org.
    return time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))


def _write_zip(path: Path, files: dict[str, bytes], built: time.struct_time) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, built[:6])
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])


def _write_wheel(path: Path, version: str, built: time.struct_time) -> None:
    """The engine without its assets (the worker's copy has them), as the wheel specification
    (packaging.python.org, binary distribution format) has it.

    It declares no dependencies: the modules that Blender's Python imports need only numpy.
    """
    files = {
        f"marigold_core/{path.relative_to(ENGINE).as_posix()}": path.read_bytes()
        for path in _files(ENGINE)
        if path.suffix == ".py"
    }
    info = f"marigold_kit-{version}.dist-info"
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: marigold-kit\nVersion: {version}\nLicense: Apache-2.0\n"
    ).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: blender_addon.build\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    record = [f"{name},{_hash(data)},{len(data)}" for name, data in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    _write_zip(path, files, built)


def _hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the Blender extension.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", help="folder")
    parser.add_argument("--blender", help="a Blender whose extension tool is used")
    options = parser.parse_args(arguments)
    try:
        archive = build(options.output)
        print(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB")
        tool = extension_tool(options.blender)
        if tool is None:
            print("Not validated, no repository: this Python has no bpy; see --blender.")
            return 0
        validate(tool, archive)
        make_repository(tool, archive, options.output / "repository")
        print(f"valid; repository in {options.output / 'repository'}")
    except (MarigoldError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
