"""Weight files: which of them belong together, and what their headers say they hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, MarigoldError
from ..files import open_regular
from .config import read_json, short_name

# Bytes of a file's header. Stable Diffusion 2's U-Net has 0.1 MB; the library reads up to 100 MB,
# which takes a gigabyte of memory.
LONGEST_HEADER = 4_000_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file's header describes it. dtype is safetensors' word ("F16")."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """The weight files of one component (one file, or shards) and what they hold."""

    folder: Path
    files: tuple[Path, ...]
    variant: str | None
    tensors: dict[str, TensorHeader]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The dtype that most parameters are stored in, in safetensors' word."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
        return max(counts, key=lambda dtype: counts[dtype])

    @property
    def label(self) -> str:
        """How an error names these weights: "unet/diffusion_pytorch_model.safetensors"."""
        return short_name(self.files[0])

    def load(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one tensor at a time; floating tensors are cast to dtype.

        Each is a copy: a mapped file that changes later would crash the process.
        """
        for file in self.files:
            with opened_weights(file) as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    tensor = opened.get_tensor(name)
                    cast = dtype if tensor.is_floating_point() else None
                    yield name, tensor.to(device=device, dtype=cast, copy=True)


@contextmanager
def opened_weights(file: Path) -> Iterator[Any]:
    """A safetensors file, opened by the library after a look at its first bytes.

    Raises CheckpointError where the file is truncated, a Git LFS pointer, not a regular file, or
    something else, or when reading from it fails later.
    """
    label = short_name(file)
    try:
        with open_regular(file) as raw:
            start, size = raw.read(8), raw.seek(0, 2)
        if start == b"version " and size < 1024:
            raise CheckpointError(
                f"{label} is a Git LFS pointer, not the weights; run `git lfs pull` there."
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= LONGEST_HEADER:
            raise CheckpointError(
                f"{label} is not a safetensors file, or its header is damaged ({size} bytes in "
                "all); download it again."
            )
        with safe_open(str(file), framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        raise CheckpointError(
            f"{label} ({size} bytes) is truncated or damaged: {str(error)[:200].rstrip('.')}; "
            "copy or download it again."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    except MarigoldError as error:  # a pipe or a device
        raise CheckpointError(str(error)) from error


def read_header(file: Path) -> dict[str, TensorHeader]:
    """What one safetensors file holds; the library checks that the whole of it is there.

    Raises CheckpointError as `opened_weights` does, and for a file without tensors.
    """
    tensors = {}
    with opened_weights(file) as opened:
        for name in opened.keys():  # noqa: SIM118 (not a mapping)
            part = opened.get_slice(name)
            tensors[name] = TensorHeader(part.get_dtype(), tuple(part.get_shape()))
    if not tensors:
        raise CheckpointError(f"{short_name(file)} holds no tensors; download it again.")
    return tensors


def variant_files(names: list[str]) -> dict[str | None, str]:
    """{variant: file name} of the weight files, or shard indices, among a component's file names.

    Variant None is the plain file. Both places where diffusers has put a variant's name in a
    sharded index are read.
    """
    stem = r"(?:diffusion_pytorch_model|model)"
    word = r"(?P<variant>[A-Za-z0-9_]+)"
    patterns = (
        rf"{stem}(?:\.{word})?\.safetensors",
        rf"{stem}(?:\.{word})?\.safetensors\.index\.json",
        rf"{stem}\.safetensors\.{word}\.index\.json",
        rf"{stem}\.safetensors\.index\.{word}\.json",
    )
    found: dict[str | None, str] = {}
    for pattern in patterns:
        for name in sorted(names):
            match = re.fullmatch(pattern, name)
            if match:
                found.setdefault(match["variant"], name)
    return found


def shard_variant(name: str) -> tuple[bool, str | None]:
    """Whether a file name is a shard's, and of which variant."""
    match = re.fullmatch(r"\w+?(?:\.(\w+))?-\d+-of-\d+(?:\.(\w+))?\.safetensors", name)
    return (True, match[1] or match[2]) if match else (False, None)


def choose_variant(
    found: dict[str | None, str], variant: str | None = None, prefer_half: bool = False
) -> str | None:
    """Which of the variants to read: the one asked for, else by dtype, else what there is."""
    order: list[str | None] = [variant] if variant else ["fp16"] if prefer_half else []
    order += [None, "fp16"]
    return next((name for name in order if name in found), next(iter(found), None))


def find_weights(folder: Path, variant: str | None = None, prefer_half: bool = False) -> Weights:
    """The weights of one component folder, their headers read and their lengths checked.

    variant: "fp16" reads those files where the component has them. prefer_half: take fp16 files
    when both are there. Raises CheckpointError for a missing folder or file, pickles, and damage.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"The folder {folder.name}/ is missing in {folder.parent}; "
            "copy or download the checkpoint again."
        )
    names = [entry.name for entry in folder.iterdir()]
    found = variant_files(names)
    if not found:
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        if pickles:
            raise CheckpointError(pickle_message(folder, pickles[0]))
        raise CheckpointError(
            f"{folder.name}/ in {folder.parent} holds no .safetensors weights; "
            "copy or download the checkpoint again."
        )
    chosen = choose_variant(found, variant, prefer_half)
    first = folder / found[chosen]
    files = shards(first) if first.suffix == ".json" else (first,)
    tensors: dict[str, TensorHeader] = {}
    for file in files:
        tensors.update(read_header(file))
    return Weights(folder, files, chosen, tensors)


def shards(index: Path) -> tuple[Path, ...]:
    """The files that a shard index names, all of them present."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{short_name(index)} has no weight_map; download it again.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # A name with a folder in it could point anywhere on the disk.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{short_name(index)} names {name!r}, not a safetensors file.")
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index.parent.name}/{name} is missing, which {index.name} names; "
                "copy or download it again."
            )
    return tuple(index.parent / name for name in names)


def pickle_message(folder: Path, name: str) -> str:
    classes = {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    library = "transformers" if folder.name == "text_encoder" else "diffusers"
    network = classes.get(folder.name, "UNet2DConditionModel")
    place = folder.as_posix()
    return (
        f"{folder.name}/{name} is a pickle, which can run code when it is opened, and there are no "
        f".safetensors weights beside it; if you trust its source, convert it with: "
        f'python -c "from {library} import {network} as M; '
        f"M.from_pretrained('{place}', use_safetensors=False).save_pretrained('{place}')\""
    )
