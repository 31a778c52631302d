"""Where checkpoints are looked for, and under what names the loader offers them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..marigold_core import MarigoldError
from ..marigold_core.checkpoints.hub import BUNDLED, PUBLISHED

FOLDER = "marigold"
# Pipeline folders are at home in models/diffusers too, as other packs have put them there.
SEARCHED = (FOLDER, "diffusers")
DEPTH = 3  # folder/author/name


def register_folder() -> None:
    """Make models/marigold a model folder, beside those of extra_model_paths.yaml."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def found() -> dict[str, Path]:
    """Name -> folder of every Marigold pipeline in the model paths.

    `get_filename_list` lists files by suffix and knows no pipeline folders.
    """
    checkpoints: dict[str, Path] = {}
    for kind in SEARCHED:
        for root in map(Path, folder_paths.get_folder_paths(kind)):
            for level in range(1, DEPTH + 1):
                for index in sorted(root.glob("/".join(["*"] * level + ["model_index.json"]))):
                    name = index.parent.relative_to(root).as_posix()
                    if is_marigold(index):
                        checkpoints.setdefault(name, index.parent)
    return checkpoints


def is_marigold(index: Path) -> bool:
    """Other pipelines lie in models/diffusers too. The class name says which is which."""
    try:
        return "Marigold" in index.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def choices() -> list[str]:
    """Bundled, then found, then published names."""
    names = [*BUNDLED, *found(), *(name for name in PUBLISHED if name not in BUNDLED)]
    return list(dict.fromkeys(names))


def resolve(name: str) -> str | Path:
    """What the engine loads for a name of `choices`. Raises MarigoldError for any other."""
    folders = found()
    if name in BUNDLED or name in PUBLISHED:
        return folders.get(name, name)
    if name in folders:
        return folders[name]
    places = " or ".join(str(Path(folder_paths.get_folder_paths(kind)[0])) for kind in SEARCHED)
    raise MarigoldError(
        f"There is no Marigold checkpoint {name!r}: put its folder (with model_index.json) into "
        f"{places}, or choose one of {', '.join(choices())}."
    )
