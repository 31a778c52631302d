"""Fetch free environment maps, photographs, textures and furniture models for rendered worlds.

    python training/fetch_assets.py runs/assets

fills four folders: `environments` (equirectangular EXR), `photographs`, `textures` and `models`
(OBJ, with real sizes in `models.json`), and writes `CREDITS.md`, which a checkpoint's model card
must repeat. Archives come from npm and Debian by their own clients, `npm pack` and `apt-get
download`; one that already lies in OUTPUT/archives is used as it is, so that a machine without
these clients can be handed the files. Versions and checksums are pinned. Eight of the environment
maps are part of Blender: run this by the Python that has bpy, or they are left out.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


class Archive(NamedTuple):
    """A pinned package: how its client is called, what it leaves, where else the file is."""

    file: str
    sha256: str
    command: tuple[str, ...]
    page: str


PMNDRS = Archive(
    "pmndrs-assets-1.7.0.tgz",
    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    ("npm", "pack", "--silent", "@pmndrs/assets@1.7.0"),
    "https://www.npmjs.com/package/@pmndrs/assets/v/1.7.0",
)
FURNITURE = Archive(
    "sweethome3d-furniture_1.8-1_all.deb",
    "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    ("apt-get", "download", "sweethome3d-furniture=1.8-1"),
    "https://packages.debian.org/bookworm/sweethome3d-furniture",
)
WALLPAPERS = Archive(
    "lomiri-wallpapers-16.04_20.04.0-2_all.deb",
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
    ("apt-get", "download", "lomiri-wallpapers-16.04=20.04.0-2"),
    "https://packages.debian.org/bookworm/lomiri-wallpapers-16.04",
)
# The package's other pictures are CC BY-SA, or no photographs.
PHOTOGRAPHS = {
    "aitzgorri_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "friends_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "life_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "sunset_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "Picture_0B_by_freespace.jpg": 'Trevor "Freespace", CC BY 4.0',
    "Picture_1A_by_freespace.jpg": 'Trevor "Freespace", CC BY 4.0',
    "seeding_by_Clements_Engelhardt.jpg": "Clemens Engelhardt, CC0 1.0",
    "umang_by_Abhishek_Mudgal.jpg": "Abhishek Mudgal, CC BY 4.0",
    "Wine_by_Jakkub_Mede.jpg": "Jakub Mede, CC BY 4.0",
}
# The catalogues of Sweet Home 3D's furniture, and whom their licence wants named.
CATALOGUES = {
    "BlendSwap-CC-0": "Blend Swap contributors, CC0 1.0",
    "BlendSwap-CC-BY": "Blend Swap contributors, CC BY 3.0",
    "KatorLegaz": "Andrew Kator and Jennifer Legaz, CC BY 3.0 US",
    "Reallusion": "Reallusion (http://www.reallusion.com), CC BY 3.0 US",
    "Scopia": "Emmanuel Puybaret / eTeks and Scopia Visual Interfaces Systems, s.l. "
    "(http://www.scopia.es), CC BY 3.0",
}
PICTURES = (".jpg", ".jpeg", ".png")
# Smaller ones are icons and plain colours.
SMALLEST_TEXTURE = 4000


def fetch(archive: Archive, folder: Path) -> Path:
    """The archive's file, downloaded where it is not there yet; its checksum is right."""
    file = folder / archive.file
    if not file.exists():
        try:
            subprocess.run(archive.command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(
                f"{' '.join(archive.command)} failed ({error}). Download {archive.file} from "
                f"{archive.page} into {folder} and run this again."
            )
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "no file"
    if found != archive.sha256:
        sys.exit(f"{file} is not the pinned version (SHA-256 {found}); delete it and try again.")
    return file


def debian_files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a .deb: an ar archive around a tar archive."""
    with package.open("rb") as file:
        file.read(8)
        while header := file.read(60):
            name, size = header[:16].strip(b" /"), int(header[48:58])
            body = file.read(size + size % 2)[:size]
            if name.startswith(b"data.tar"):
                with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                    for member in tar:
                        if member.isfile():
                            opened = tar.extractfile(member)
                            assert opened
                            yield member.name, opened.read()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def environments(archive: Path, output: Path) -> None:
    """The package keeps each map as base64 text in a JavaScript module."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if match := re.fullmatch(r"package/hdri/(\w+)\.exr\.js", member.name):
                opened = tar.extractfile(member)
                assert opened
                text = opened.read().decode().split("base64,", 1)[1].split("'", 1)[0]
                write(output / f"pmndrs-{match[1]}.exr", base64.b64decode(text))
    blender = importlib.util.find_spec("bpy")
    if blender is None or not blender.origin:
        print("No bpy here: Blender's own environment maps are left out.")
        return
    for file in sorted(Path(blender.origin).parent.glob("*/datafiles/studiolights/world/*.exr")):
        shutil.copy(file, output / f"blender-{file.name}")


def catalogue(text: str) -> list[dict[str, str]]:
    """The entries of a Sweet Home 3D catalogue: `name#12=Chair` is a property of entry 12."""
    entries: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)#(\d+)=(.*)", line):
            entries.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    return [entries[number] for number in sorted(entries)]


def described(entry: dict[str, str], folder: str) -> dict[str, Any]:
    """A line of `models.json`, in metres; `on_top` is where things stand on it, 0 for nowhere."""
    model: dict[str, Any] = {
        "file": folder + entry["model"],
        "name": entry["name"],
        "category": entry["category"],
        "creator": entry["creator"],
        "size": [float(entry[side]) / 100 for side in ("width", "depth", "height")],
        "elevation": float(entry.get("elevation", 0)) / 100,
    }
    # Nothing stands on it where this is negative; where it is missing, on its top.
    model["on_top"] = max(0.0, float(entry.get("dropOnTopElevation", entry["height"])) / 100)
    if "modelRotation" in entry:
        model["rotation"] = [float(number) for number in entry["modelRotation"].split()]
    return model


def models(archive: Path, output: Path) -> tuple[list[dict[str, Any]], int]:
    """Unpacks models and textures; returns the models and the number of textures."""
    found, textures = [], 0
    for name, content in debian_files(archive):
        if not name.endswith(".sh3f"):
            continue
        stem = PurePosixPath(name).stem
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            text = packed.read("PluginFurnitureCatalog.properties").decode("latin-1")
            found += [described(entry, stem) for entry in catalogue(text)]
            for member in packed.namelist():
                path = PurePosixPath(member)
                # catalogue/model/file; icons and translations lie higher.
                if len(path.parts) != 3 or not path.suffix:
                    continue
                if path.is_absolute() or ".." in path.parts:
                    sys.exit(f"{archive}: {member} would be written outside {output}")
                body = packed.read(member)
                write(output / "models" / stem / path, body)
                if path.suffix.lower() in PICTURES and len(body) >= SMALLEST_TEXTURE:
                    textures += 1
                    flat = "-".join((stem, *path.parts[1:]))
                    write(output / "textures" / flat, body)
    write(output / "models" / "models.json", json.dumps(found, indent=1).encode())
    return found, textures


def credits_of(found: list[dict[str, Any]]) -> str:
    creators = sorted({model["creator"] for model in found})
    lines = [
        "# Credits",
        "",
        "- Environment maps: Poly Haven (https://polyhaven.com), CC0 1.0, as Blender and the npm "
        "package @pmndrs/assets 1.7.0 distribute them.",
        "- Furniture models and their textures: Debian's sweethome3d-furniture 1.8-1:",
        *(f"  - {name}: {words}" for name, words in CATALOGUES.items()),
        f"  - Modelled by: {', '.join(creators)}.",
        "- Photographs: Debian's lomiri-wallpapers-16.04 20.04.0-2:",
        *(f"  - {name}: {words}" for name, words in PHOTOGRAPHS.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder to fill")
    output = parser.parse_args().output
    archives = output / "archives"
    for name in ("archives", "environments", "photographs", "textures", "models"):
        (output / name).mkdir(parents=True, exist_ok=True)
    environments(fetch(PMNDRS, archives), output / "environments")
    found, textures = models(fetch(FURNITURE, archives), output)
    for name, content in debian_files(fetch(WALLPAPERS, archives)):
        if (file := PurePosixPath(name).name) in PHOTOGRAPHS:
            write(output / "photographs" / file, content)
    write(output / "CREDITS.md", credits_of(found).encode())
    maps = len(list((output / "environments").glob("*.exr")))
    print(
        f"{maps} environment maps, {len(PHOTOGRAPHS)} photographs, {textures} textures and "
        f"{len(found)} models in {output}; CREDITS.md names their authors."
    )


if __name__ == "__main__":
    main()
