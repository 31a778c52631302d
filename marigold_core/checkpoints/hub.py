"""Names of checkpoints: bundled, in a folder, or on the Hugging Face hub.

Reading the hub's cache needs no network. Only `download` goes out, and nothing but safetensors,
JSON and text is fetched.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError
from .weights import choose_variant, find_weights, read_json, shard_variant, variant_files

BUNDLED: dict[str, Path] = {"nano": Path(__file__).parents[1] / "assets" / "nano"}
PUBLISHED: dict[str, str] = {
    "v1-1": "prs-eth/marigold-depth-v1-1",
    "v1-0": "prs-eth/marigold-depth-v1-0",
    "lcm": "prs-eth/marigold-depth-lcm-v1-0",
    "e2e": "GonzaloMG/marigold-e2e-ft-depth",
}
# A VAE of 2.4 M parameters (https://github.com/madebyollin/taesd), for `vae=` and --tiny-vae.
TINY_VAE = {"tiny": "madebyollin/taesd"}

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHT_PARTS = ("unet", "vae", "text_encoder")
TEXT_FILES = (".json", ".txt", ".md")


@dataclass(frozen=True)
class Known:
    """A checkpoint that can be named. folder None: not on this machine."""

    name: str
    repo_id: str | None
    folder: Path | None
    size_bytes: int


def repo_id_of(name: str) -> str | None:
    """The hub id behind a short name, a published repository's own name, or an id; else None."""
    ids = PUBLISHED | TINY_VAE | {full.split("/")[1]: full for full in PUBLISHED.values()}
    if name in ids:
        return ids[name]
    return name if HUB_ID.fullmatch(name) else None


def locate(
    name: str | os.PathLike[str],
    *,
    variant: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that holds a checkpoint.

    In this order: a bundled or published name, a folder, a hub id. A published checkpoint that is
    whole in the hub's cache is used as it is there, without asking the network; otherwise it is
    downloaded, unless local_files_only or HF_HUB_OFFLINE forbids it. Raises CheckpointError.
    """
    text = os.fspath(name)
    if text in BUNDLED:
        if not BUNDLED[text].is_dir():
            raise CheckpointError(
                f"The bundled checkpoint {text!r} is missing at {BUNDLED[text]}; "
                "install marigold-kit again."
            )
        return BUNDLED[text]
    folder = Path(text).expanduser()
    repo_id = repo_id_of(text) if isinstance(name, str) else None
    if repo_id is None or (repo_id == text and folder.exists()):
        if text and folder.is_dir():
            return folder
        if folder.is_file():
            raise CheckpointError(
                f"{folder} is a file; a checkpoint is a folder with model_index.json, unet/, vae/."
            )
        raise CheckpointError(
            f"There is no checkpoint {text!r}: it is neither a folder, nor a hub id (owner/name), "
            f"nor one of {', '.join((*BUNDLED, *PUBLISHED))}."
        )
    cached = cached_folder(repo_id, cache_dir)
    if cached is not None and is_complete(cached, variant):
        return cached
    if local_files_only or offline():
        fact = "is not in the cache" if cached is None else "is only partly in the cache"
        shown = f" --variant {variant}" if variant else ""
        raise CheckpointError(
            f"The checkpoint {repo_id} {fact}, and this run is offline; "
            f"with a network, run: marigold checkpoints download {text}{shown}"
        )
    return download(text, variant=variant, cache_dir=cache_dir)


def offline() -> bool:
    """Whether the user has told huggingface_hub to stay off the network (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_folder(repo_id: str, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The newest snapshot of a hub repository in the cache, or None. No network."""
    from huggingface_hub import try_to_load_from_cache

    place = None if cache_dir is None else Path(cache_dir)
    for file in ("model_index.json", "config.json", "unet/config.json"):
        found = try_to_load_from_cache(repo_id, file, cache_dir=place)
        if isinstance(found, str):
            return Path(found).parents[file.count("/")]
    return None


def is_complete(folder: Path, variant: str | None = None) -> bool:
    """Whether every weight file that a snapshot needs is there and whole.

    An interrupted download leaves a snapshot with some files missing. With an explicit variant at
    least one component must have it.
    """
    try:
        if not (folder / "model_index.json").is_file():
            found = [find_weights(folder, variant)]
        else:
            index = read_json(folder / "model_index.json")
            parts = [part for part in WEIGHT_PARTS if is_used(index.get(part))]
            found = [find_weights(folder / part, variant) for part in parts]
            configs = [folder / part / "config.json" for part in parts]
            configs.append(folder / "scheduler" / "scheduler_config.json")
            if not all(config.is_file() for config in configs):
                return False
    except CheckpointError:
        return False
    return variant is None or any(weights.variant == variant for weights in found)


def is_used(entry: object) -> bool:
    """Whether a model_index.json entry names a component: [null, null] says that there is none."""
    return isinstance(entry, list) and len(entry) == 2 and all(entry)


def is_shared(folder: Path) -> bool:
    """Whether a folder is the hub's cache or ours, in which nothing else may be written."""
    inside = folder.resolve()
    bundled = any(path.resolve() == inside for path in BUNDLED.values())
    snapshot = inside.parent.name == "snapshots" and (inside.parents[1] / "blobs").is_dir()
    return bundled or snapshot


def files_to_fetch(names: list[str], variant: str | None = None) -> list[str]:
    """Of a repository's file names, those that make up one checkpoint in one variant.

    Component folders only: some repositories keep whole single-file models of 5 GB at the top. A
    component without the variant comes plain.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        folders.setdefault(path.parent.as_posix(), []).append(path.name)
    has_parts = "unet" in folders
    wanted: list[str] = []
    for folder, files in folders.items():
        if folder != "." and folder not in PARTS:
            continue
        prefix = "" if folder == "." else f"{folder}/"
        texts = [file for file in files if file.endswith(TEXT_FILES) or file.startswith("LICENSE")]
        wanted += [prefix + file for file in texts]
        found = variant_files(files)
        if not found or (folder == "." and has_parts):
            continue
        chosen = choose_variant(found, variant)
        wanted.append(prefix + found[chosen])
        if found[chosen].endswith(".json"):
            wanted += [prefix + file for file in files if shard_variant(file) == (True, chosen)]
    return sorted(set(wanted))


def download(
    name: str,
    *,
    variant: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch a published checkpoint, or what is new of it, into the hub's cache; its folder there.

    An interrupted download goes on where it stopped; huggingface_hub draws the progress. variant
    "fp16" fetches half the bytes where a component has such files. Raises CheckpointError for an
    unknown name, no network, terms not accepted, a full disk.
    """
    if name in BUNDLED:
        return BUNDLED[name]
    repo_id = repo_id_of(name)
    if repo_id is None:
        raise CheckpointError(
            f"{name!r} cannot be downloaded: give a hub id (owner/name) or one of "
            f"{', '.join(PUBLISHED)}."
        )
    from huggingface_hub import HfApi, snapshot_download

    try:
        wanted = files_to_fetch(HfApi().list_repo_files(repo_id), variant)
        if not any(file.endswith((".safetensors", ".index.json")) for file in wanted):
            raise CheckpointError(
                f"{repo_id} publishes no .safetensors weights, and pickles are not opened here."
            )
        place = None if cache_dir is None else Path(cache_dir)
        return Path(snapshot_download(repo_id, allow_patterns=wanted, cache_dir=place))
    except CheckpointError:
        raise
    except Exception as error:  # the HTTP library beneath the hub differs between its versions
        raise CheckpointError(download_failure(repo_id, error)) from error


def download_failure(repo_id: str, error: Exception) -> str:
    """One sentence for what went wrong, and what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo_id}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo_id} asks you to accept its terms first: open {page}, accept them, "
            "run `hf auth login`, and try again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"There is no public checkpoint at {page}; check the name."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repo_id} was not downloaded because HF_HUB_OFFLINE is set; unset it."
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return f"The disk is full, {repo_id} is only partly downloaded; make room, run again."
        if isinstance(cause, (socket.gaierror, ConnectionError, TimeoutError)):
            return (
                f"{repo_id} could not be downloaded, because huggingface.co cannot be reached; "
                "connect to the network and run the same again: it goes on where it stopped."
            )
        cause = cause.__cause__ or cause.__context__
    fact = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"{repo_id} could not be downloaded ({fact}); check the network and run the same command "
        "again: it goes on where it stopped."
    )


def list_known(cache_dir: str | os.PathLike[str] | None = None) -> list[Known]:
    """The bundled and published checkpoints, and where each is on this machine. No network."""
    known = [
        Known(name, None, folder if folder.is_dir() else None, folder_size(folder))
        for name, folder in BUNDLED.items()
    ]
    for name, repo_id in (PUBLISHED | TINY_VAE).items():
        folder = cached_folder(repo_id, cache_dir)
        if folder is not None and not is_complete(folder):
            folder = None
        known.append(Known(name, repo_id, folder, folder_size(folder) if folder else 0))
    return known


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
