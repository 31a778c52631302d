"""The pack's folders: where checkpoints are looked for and under which names the loader lists them,
and the example picture and clip."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import folder_paths

from ..marigold_core import CheckpointError, MarigoldError
from ..marigold_core.checkpoints.config import read_json
from ..marigold_core.checkpoints.families import target_of
from ..marigold_core.checkpoints.hub import cached_folder, is_complete
from ..marigold_core.checkpoints.published import BUNDLED, PUBLISHED
from ..marigold_core.files import atomic_path

FOLDER = "marigold"
# In the input folder -> in ASSETS: what the templates open.
EXAMPLES = {"marigold_example.jpg": "example.jpg", "marigold_example.webm": "example.webm"}
ASSETS = Path(__file__).parents[1] / "marigold_core" / "assets"
# Other packs put pipeline folders into models/diffusers.
SEARCHED = (FOLDER, "diffusers")
DEPTH = 3  # folder/author/name


def register_folder() -> None:
    """Make models/marigold a model folder, beside those of extra_model_paths.yaml."""
    folder = Path(folder_paths.models_dir) / FOLDER
    folder_paths.add_model_folder_path(FOLDER, str(folder))
    # So that users see where checkpoints belong; a read-only installation has no need for it.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)


def place_example() -> None:
    """Put the picture and the clip that the templates open into the input folder, unless they are
    there."""
    for name, asset in EXAMPLES.items():
        target = Path(folder_paths.get_input_directory()) / name
        with contextlib.suppress(OSError):
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as temporary:
                    shutil.copyfile(ASSETS / asset, temporary)


def found(target: str | None = None) -> dict[str, Path]:
    """Name -> folder of every Marigold checkpoint in the model paths; of one target, None is all.

    `get_filename_list` lists files by suffix and knows no pipeline folders.
    """
    checkpoints: dict[str, Path] = {}
    for kind in SEARCHED:
        for root in map(Path, folder_paths.get_folder_paths(kind)):
            for level in range(1, DEPTH + 1):
                for index in sorted(root.glob("/".join(["*"] * level + ["model_index.json"]))):
                    name = index.parent.relative_to(root).as_posix()
                    estimated = target_in(index)
                    if estimated is not None and target in (None, estimated):
                        checkpoints.setdefault(name, index.parent)
    return checkpoints


def target_in(index: Path) -> str | None:
    """What the checkpoint of a model_index.json estimates; None where it is not one of Marigold's:
    other pipelines are in these folders too. End-to-end ones say it in their folder's name alone.
    """
    folder = index.parent.name
    try:
        content = read_json(index)
        if "marigold" not in f"{folder} {json.dumps(content)}".lower():
            return None
        return target_of(folder, content, {})
    except CheckpointError:
        return None


def choices(target: str | None = None) -> list[str]:
    """Names for the loader, of one target or of all: bundled, then found, then published ones."""
    names = [
        *(BUNDLED if target in (None, "depth") else ()),
        *found(target),
        *(name for name, one in PUBLISHED.items() if target in (None, one.target)),
    ]
    return list(dict.fromkeys(names))


def download_folder(name: str) -> Path:
    """Where the download of a published checkpoint is put, and looked for."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0]) / name


def resolve(name: str) -> Path | None:
    """The folder of a name of `choices`; None for a published checkpoint that is not here yet.

    Raises MarigoldError for any other name.
    """
    if name in BUNDLED:
        return BUNDLED[name]
    folders = found()
    if name in PUBLISHED:
        cached = cached_folder(PUBLISHED[name].repo_id)
        for folder in (folders.get(name), download_folder(name), cached):
            if folder is not None and is_complete(folder):
                return folder
        return None
    if name in folders:
        return folders[name]
    places = " or ".join(str(Path(folder_paths.get_folder_paths(kind)[0])) for kind in SEARCHED)
    raise MarigoldError(
        f"There is no Marigold checkpoint {name!r}: put its folder (with model_index.json) into "
        f"{places}, or choose one of {', '.join(choices())}."
    )
