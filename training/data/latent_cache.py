"""The latents of a data set on disk, so that no training step runs the VAE's encoder.

One safetensors file for each sample, with a checksum that is compared when it is read. Files are
written whole or not at all: caching continues where it stopped. A sample that cannot be used has a
note in its place that says why. The folder's name is a fingerprint of the VAE, of the data and of
this code's output; when one of them changes, so does the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from targets import TARGETS, TrainingTarget
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from marigold_core.checkpoints.checksums import is_hidden
from marigold_core.checkpoints.weights import read_header
from marigold_core.denoising import encode
from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path

from .latents import latent_mask
from .sample import DataError, Sample, SampleDataset

VERSION = 4  # of what a file holds; raise it when that changes
# What decides how a procedural scene looks.
PROCEDURAL_SOURCES = ("render/procedural.py", "render/worlds.py", "data/scenes.py")


class LatentSample(NamedTuple):
    """image: (4, h, w), target: (4 T, h, w) float32 scaled latents. mask: (1, h, w) bool, cells
    that count. truth: float32, what the end-to-end objective compares with: metres (H, W), clamped
    to their 2 % and 98 % quantiles, or normals (3, H, W); valid: (H, W) bool. target and mask are
    empty for that objective, truth and valid for the others."""

    name: str
    image: Tensor
    target: Tensor
    mask: Tensor
    truth: Tensor
    valid: Tensor


class LatentCache(Dataset[LatentSample]):
    """The usable samples of a data set, as latents: `cache[index]`, or `cache[index, flipped]`.

    left_out: the name of each sample that could not be used -> the reason.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "index.json"
        try:
            index = json.loads(file.read_text())
            self.left_out: dict[str, str] = dict(index["left_out"])
            self.samples = [(int(n), int(h), int(w)) for n, h, w in index["samples"]]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise MarigoldError(
                f"{file} is damaged ({error}); delete it, and the next run writes it again."
            ) from error

    def __len__(self) -> int:
        return len(self.samples)

    def shape(self, index: int) -> tuple[int, int]:
        """(h, w) of that sample's latents."""
        return self.samples[index][1:]

    def name(self, index: int) -> str:
        with safe_open(str(sample_file(self.folder, self.samples[index][0])), "pt") as opened:
            return opened.metadata()["name"]

    def __getitem__(self, item: int | tuple[int, bool]) -> LatentSample:
        index, flipped = item if isinstance(item, tuple) else (item, False)
        file = sample_file(self.folder, self.samples[index][0])
        try:
            with safe_open(str(file), "pt") as opened:
                parts = {key: opened.get_slice(key)[int(flipped)] for key in opened.keys()}  # noqa: SIM118
                name, checksums = (opened.metadata()[key] for key in ("name", "sha256"))
            if checksum(parts) != checksums.split()[int(flipped)]:
                raise OSError("its checksum differs")
        except (SafetensorError, OSError, IndexError, KeyError, TypeError) as error:
            raise MarigoldError(
                f"{file} is damaged ({error}); delete it and index.json in {self.folder}, and the "
                "next run encodes it again."
            ) from error
        empty = torch.empty(0)
        return LatentSample(
            name,
            parts["image"].float(),
            parts.get("target", empty).float(),
            parts.get("mask", empty).bool(),
            parts.get("truth", empty).float(),
            parts.get("valid", empty).bool(),
        )


def checksum(parts: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors' bytes, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(parts.items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def sample_file(folder: Path, number: int) -> Path:
    return folder / f"{number // 1000:04}" / f"{number:07}.safetensors"


def cache_folder(
    root: Path, spec: str, split: str, resolution: int | None, vae: str, **kind: Any
) -> Path:
    """Where the latents of that data set belong. vae: a fingerprint of its weights."""
    described = json.dumps([VERSION, spec, split, resolution, vae, kind, data_fingerprint(spec)])
    return root / f"{spec.split(':')[0]}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def data_fingerprint(spec: str) -> str:
    """Changes with the files of a data set (names, sizes, times; not with logs), or with the code
    that renders procedural scenes."""
    kind, _, where = spec.partition(":")
    digest = hashlib.sha256()
    if kind == "procedural":
        for source in PROCEDURAL_SOURCES:
            digest.update((Path(__file__).parents[1] / source).read_bytes())
        return digest.hexdigest()
    root = Path(where).expanduser()
    root = root.parent if root.is_file() else root  # a manifest's paths are relative to it
    for file in sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".log"):
        relative = file.relative_to(root)
        if is_hidden(relative):  # a half-written file of a killed program, a file manager's notes
            continue
        status = file.stat()
        known = (relative.as_posix(), status.st_size, status.st_mtime_ns)
        digest.update(repr(known).encode())
    return digest.hexdigest()


def fill(
    folder: Path,
    dataset: SampleDataset,
    vae: Any,
    *,
    flip: bool,
    metric: bool,
    invalid: str,
    target: str = "depth",
    share: tuple[int, int] = (0, 1),
    workers: int = 0,
    progress: Callable[[Sequence[int]], Iterator[int]] = iter,
) -> None:
    """Encode what is not there yet. share: (this process, of how many).

    flip: mirrored pictures too. metric: for the end-to-end objective. invalid ("ignore" or "far")
    and target: see finetune.py. Raises MarigoldError for a full disk.
    """
    numbers = [n for n in range(share[0], len(dataset), share[1]) if not is_done(folder, n)]
    if not numbers:
        return
    shown = progress(numbers)
    device = next(vae.parameters()).device
    for number, found in DataLoader(Readable(dataset, numbers), None, num_workers=workers):
        next(shown, None)
        file = sample_file(folder, number)
        try:
            tensors = (
                found
                if isinstance(found, str)
                else encoded(found, vae, device, TARGETS[target], flip, metric, invalid)
            )
            if isinstance(tensors, str):
                name = dataset.name(number)
                with atomic_path(file.with_suffix(".json")) as temporary:
                    temporary.write_text(json.dumps({"name": name, "reason": tensors}))
            else:
                copies = range(2 if flip else 1)
                each = ({k: v[i] for k, v in tensors.items()} for i in copies)
                sums = " ".join(map(checksum, each))
                with atomic_path(file) as temporary:
                    save_file(tensors, temporary, {"name": found.name, "sha256": sums})
        except (OSError, SafetensorError) as error:
            raise MarigoldError(
                f"The latents of {dataset.name(number)} cannot be written to {folder}: {error}. "
                "What is there is kept; free some space, or name another place with --cache."
            ) from error
    next(shown, None)


def is_done(folder: Path, number: int) -> bool:
    file = sample_file(folder, number)
    try:
        if file.with_suffix(".json").is_file():
            return bool(read_note(file.with_suffix(".json")))
        return file.is_file() and bool(read_header(file))
    except (MarigoldError, ValueError, KeyError, TypeError):  # damaged: it is written again
        return False


def read_note(file: Path) -> tuple[str, str]:
    """The sample's name, and why it is left out."""
    note = json.loads(file.read_text())
    return str(note["name"]), str(note["reason"])


class Readable(Dataset[Any]):
    """The chosen samples, or in place of one that cannot be read the reason."""

    def __init__(self, dataset: SampleDataset, numbers: Sequence[int]) -> None:
        self.dataset, self.numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Sample | str]:
        number = self.numbers[index]
        try:
            return number, self.dataset[number]
        except (DataError, OSError) as error:
            return number, str(error)


def encoded(
    sample: Sample,
    vae: Any,
    device: torch.device,
    target: TrainingTarget,
    flip: bool,
    metric: bool,
    invalid: str,
) -> dict[str, Tensor] | str:
    """The tensors of a sample, (1, ...), or (2, ...) with the mirrored one second; or why it cannot
    be used."""
    problem = unusable(sample, metric or invalid == "far", target)
    if problem:
        return problem
    # Sides that are not multiples of 8 are padded as the engine pads them at inference.
    height, width = sample.depth.shape
    pad = (0, -width % 8, 0, -height % 8)
    valid = sample.valid[None]
    image = F.pad(sample.image[None] * 2 - 1, pad, mode="replicate").to(device)
    both = [image, image.flip(-1)] if flip else [image]
    kept = {"image": torch.cat([encode(vae, picture) for picture in both])}
    if metric:
        truth = clamped_depth(sample) if not target.maps else sample.maps[target.maps[0]]
        sides = [truth, target.mirrored(truth)] if flip else [truth]
        kept |= {"truth": torch.stack(sides), "valid": mirrored(valid, flip)}
    else:
        pictures = F.pad(target.pictures(sample, invalid), pad, mode="replicate")
        sides = [pictures, target.mirrored(pictures)] if flip else [pictures]
        cells = torch.ones_like(valid) if invalid == "far" else valid
        cells = F.pad(cells[None].float(), pad, mode="replicate")[0] > 0
        latents = [encode(vae, side.to(device)) for side in sides]
        kept["target"] = torch.stack([rearrange(z, "t c h w -> (t c) h w") for z in latents])
        kept["mask"] = latent_mask(mirrored(cells, flip))
    return {name: tensor.cpu().contiguous().clone() for name, tensor in kept.items()}


def clamped_depth(sample: Sample) -> Tensor:
    """(H, W) metres clamped to their 2 % and 98 % quantiles, 0 where they are not valid."""
    # numpy's, because torch.quantile refuses more than 16 million values.
    low, high = np.quantile(sample.depth[sample.valid].numpy(), (0.02, 0.98))
    return torch.where(sample.valid, sample.depth.clamp(float(low), float(high)), 0)


def mirrored(maps: Tensor, flip: bool) -> Tensor:
    return torch.cat([maps, maps.flip(-1)]) if flip else maps


def unusable(sample: Sample, whole: bool, target: TrainingTarget) -> str | None:
    """Why this sample cannot be trained on, or None. whole: single valid pixels are enough."""
    if not sample.valid.any():
        what = " and ".join(target.maps) or "depth"
        return f"{sample.name}: no pixel has a valid {what}."
    if not torch.isfinite(sample.image).all():
        return f"{sample.name}: the picture has values that are not finite."
    problem = target.problem(sample)
    if problem:
        return f"{sample.name}: {problem}."
    if not whole and not latent_mask(sample.valid[None]).any():
        return f"{sample.name}: no 8 x 8 block of pixels has {target.name} throughout."
    return None


def write_index(folder: Path, count: int) -> None:
    """List what `fill` left: usable samples with the size of their latents, and the others."""
    samples, left_out = [], {}
    for number in range(count):
        sample = sample_file(folder, number)
        if sample.is_file():
            samples.append([number, *read_header(sample)["image"].shape[-2:]])
        else:
            name, left_out_because = read_note(sample.with_suffix(".json"))
            left_out[name] = left_out_because
    with atomic_path(folder / "index.json") as temporary:
        temporary.write_text(json.dumps({"samples": samples, "left_out": left_out}))
