"""Installs what the ComfyUI nodes need beside ComfyUI's own packages, and changes none of those.

    python install.py

ComfyUI-Manager and comfy-cli run it after `requirements.txt`, when the pack is installed or
updated; nodes never do. ComfyUI and all packs share one environment, so everything installed
is given to pip as a constraint: it takes the newest diffusers that fits beside it, instead of
moving transformers or huggingface_hub to another major version.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

# Package -> (its module, the requirement). ComfyUI brings torch, transformers, numpy and pillow.
NEEDED = {
    "diffusers": ("diffusers", "diffusers>=0.33.1"),
}
# Without it, EXR files are refused with a message; every other format works.
OPTIONAL = {"OpenEXR": ("OpenEXR", "OpenEXR>=3.4")}


def installed() -> list[str]:
    """name==version of every installed package, as constraints."""
    found = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"]}
    return sorted(f"{name}=={version}" for name, version in found.items())


def installer() -> list[str]:
    """The beginning of the command that installs into this Python."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if shutil.which("uv"):
        return ["uv", "pip", "install", "--python", sys.executable]
    sys.exit("This Python has neither pip nor uv; install pip and run the same again.")


def add(requirements: list[str]) -> bool:
    """Install, with every installed package kept at its version; False where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("\n".join(installed()) + "\n", encoding="utf-8")
        command = [*installer(), "--constraint", str(constraints), *requirements]
        return subprocess.run(command, check=False).returncode == 0


def missing(packages: dict[str, tuple[str, str]]) -> list[str]:
    return [line for module, line in packages.values() if not find_spec(module)]


def main() -> None:
    needed, optional = missing(NEEDED), missing(OPTIONAL)
    if needed and not add(needed):
        sys.exit(
            f"{', '.join(needed)} could not be installed beside the packages that are there; "
            "the messages above say which of them does not fit."
        )
    if optional and not add(optional):
        print(f"{', '.join(optional)} could not be installed: EXR files will not be available.")
    print("Marigold Kit has the packages that it needs.")


if __name__ == "__main__":
    main()
