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
from .config import read_json
from .published import BUNDLED, BUNDLED_LICENCE, PUBLISHED, TINY_VAE
from .weights import choose_variant, find_weights, shard_variant, variant_files

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHT_PARTS = ("unet", "vae", "text_encoder")
TEXT_FILES = (".json", ".txt", ".md")


@dataclass(frozen=True)
class Known:
    """A checkpoint that can be named. folder None: not on this machine, size_bytes then 0.

    repo_id None: bundled. download_bytes: what fetching it in float32 takes.
    """

    name: str
    repo_id: str | None
    licence: str
    folder: Path | None
    size_bytes: int
    download_bytes: int


def repo_id_of(name: str) -> str | None:
    """The hub id behind a short name, a published repository's own name, or an id; else None."""
    for short, published in (PUBLISHED | TINY_VAE).items():
        if name in (short, published.repo_id.split("/")[1]):
            return published.repo_id
    return name if HUB_ID.fullmatch(name) else None


def locate(
    name: str | os.PathLike[str],
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that holds a checkpoint.

    In this order: a bundled or published name, a folder, a hub id. A published checkpoint that is
    whole in the hub's cache is used as it is there, without asking the network; otherwise it is
    downloaded, unless local_files_only or HF_HUB_OFFLINE forbids it. revision: a branch, tag or
    commit of the hub's repository. Raises CheckpointError.
    """
    text = os.fspath(name)
    if text in BUNDLED and revision is None:
        if not BUNDLED[text].is_dir():
            raise CheckpointError(
                f"The bundled checkpoint {text!r} is missing at {BUNDLED[text]}; "
                "install marigold-kit again."
            )
        return BUNDLED[text]
    folder = Path(text).expanduser()
    repo_id = repo_id_of(text) if isinstance(name, str) else None
    if revision is not None and (repo_id is None or text in BUNDLED):
        raise CheckpointError(
            f"{text} is not on the hub, so it has no revision {revision!r}; leave revision out."
        )
    if repo_id is None or (repo_id == text and folder.exists() and revision is None):
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
    cached = cached_folder(repo_id, cache_dir, revision)
    if cached is not None and is_complete(cached, variant):
        return cached
    if local_files_only or offline():
        fact = "is not in the cache" if cached is None else "is only partly in the cache"
        shown = f" --variant {variant}" if variant else ""
        shown += f" --revision {revision}" if revision else ""
        raise CheckpointError(
            f"The checkpoint {repo_id} {fact}, and this run is offline; "
            f"with a network, run: marigold checkpoints download {text}{shown}"
        )
    return download(text, variant=variant, revision=revision, cache_dir=cache_dir)


def offline() -> bool:
    """Whether the user keeps huggingface_hub off the network (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached_folder(
    repo_id: str,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Path | None:
    """The snapshot of a revision in the hub's cache (None: of "main"), or None. No network."""
    from huggingface_hub import try_to_load_from_cache

    place = None if cache_dir is None else Path(cache_dir)
    for file in ("model_index.json", "config.json", "unet/config.json"):
        found = try_to_load_from_cache(repo_id, file, cache_dir=place, revision=revision)
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


def commit_of(folder: Path) -> str | None:
    """The commit that a snapshot in the hub's cache was downloaded at; None for other folders."""
    real = folder.resolve()
    is_commit = real.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", real.name)
    return real.name if is_commit else None


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
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch a published checkpoint, or what is new of it; returns its folder.

    That is a snapshot in the hub's cache, or `folder`, with the same files and no links.

    An interrupted download continues where it stopped; huggingface_hub draws the progress. variant
    "fp16" fetches half the bytes where a component has such files. revision: a branch, tag or
    commit. Raises CheckpointError for an unknown name, no network, terms not accepted, a full disk.
    """
    if name in BUNDLED and revision is None:
        return BUNDLED[name]
    repo_id = repo_id_of(name)
    if repo_id is None:
        raise CheckpointError(
            f"{name!r} cannot be downloaded: give a hub id (owner/name) or one of "
            f"{', '.join(PUBLISHED)}."
        )
    from huggingface_hub import HfApi, snapshot_download

    try:
        wanted = files_to_fetch(HfApi().list_repo_files(repo_id, revision=revision), variant)
        if not any(file.endswith((".safetensors", ".index.json")) for file in wanted):
            raise CheckpointError(
                f"{repo_id} publishes no .safetensors weights, and pickles are not opened here."
            )
        place = None if cache_dir is None else Path(cache_dir)
        target = None if folder is None else Path(folder)
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=wanted,
                cache_dir=place,
                local_dir=target,
            )
        )
    except CheckpointError:
        raise
    except Exception as error:  # the HTTP library beneath the hub differs between its versions
        raise CheckpointError(download_failure(repo_id, error, revision)) from error


def download_failure(repo_id: str, error: Exception, revision: str | None = None) -> str:
    """The error message: what went wrong, and what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo_id}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo_id} asks you to accept its terms first: open {page}, accept them, "
            "run `hf auth login`, and try again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{page} has no revision {revision!r}; give one of its branches, tags or commits."
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
                "connect to the network and run the same again: it continues where it stopped."
            )
        cause = cause.__cause__ or cause.__context__
    fact = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"{repo_id} could not be downloaded ({fact}); check the network and run the same command "
        "again: it continues where it stopped."
    )


def list_known(cache_dir: str | os.PathLike[str] | None = None) -> list[Known]:
    """The bundled and published checkpoints, and where each is on this machine. No network."""
    known = []
    for name, folder in BUNDLED.items():
        size = folder_size(folder)
        here = folder if folder.is_dir() else None
        known.append(Known(name, None, BUNDLED_LICENCE, here, size, size))
    for name, published in (PUBLISHED | TINY_VAE).items():
        cached = cached_folder(published.repo_id, cache_dir)
        if cached is not None and not is_complete(cached):
            cached = None
        size = folder_size(cached) if cached else 0
        facts = (published.repo_id, published.licence, cached, size, published.size_bytes)
        known.append(Known(name, *facts))
    return known


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
