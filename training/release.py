"""The checkpoint that a run publishes: a complete folder in diffusers' layout, with a model card.

The parts that training does not change are written once; after that only the U-Net's one weight
file and the card are replaced, each by a rename, so that the folder is whole at every moment. Its
`SHA256SUMS` lists everything that decides a result: not the card, which its owner may edit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from base_model import Base
from safetensors.torch import save_file
from targets import TARGETS
from torch import Tensor

from marigold_core.checkpoints.checksums import (
    FILE_NAME,
    damaged_files,
    is_hidden,
    read_checksums,
    verify_checksums,
    write_checksums,
)
from marigold_core.checkpoints.empty_prompt import FILE_NAME as EMBEDDING_FILE
from marigold_core.checkpoints.inspection import inspect_checkpoint
from marigold_core.checkpoints.weights import find_weights
from marigold_core.errors import CheckpointError
from marigold_core.files import atomic_path, copy_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
RAIL = "CreativeML Open RAIL++-M"
LICENCE_FILES = ("LICENSE*", "LICENCE*", "USE_POLICY*")
CARD = """---
license: {licence}
{licence_name}pipeline_tag: {pipeline_tag}
library_name: diffusers
tags:
- marigold
- {target}
---

# {title}

{what} from one picture: a Marigold checkpoint made with Marigold Kit's `training/finetune.py`
from **{base}**. It opens in `marigold_core.Marigold.from_pretrained`, in this kit's ComfyUI nodes
and Blender add-on, and in `diffusers.{pipeline}`.{one_step}

## Data

{data}

## Recipe

{steps} optimiser steps; `recipe.json` has every value.

{recipe}

## Figures

{metrics}

## Licence

{terms}
"""


def write_fixed_parts(folder: Path, base: Base, recipe: Any) -> None:
    """Everything but the U-Net's weights, the card, and model_index.json, which comes last."""
    dtype = getattr(torch, recipe.save_dtype)
    for part in ("unet", "vae", "scheduler"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    vae = {k: v.to(dtype).contiguous() for k, v in base.vae.state_dict().items()}
    save(folder / "vae" / WEIGHTS, vae)
    for network, part in ((base.vae, "vae"), (base.unet, "unet")):
        config = {"_class_name": type(network).__name__, **network.config}
        # diffusers notes where it read a network: a path of this machine.
        config.pop("_name_or_path", None)
        write_json(folder / part / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", base.scheduler_config)
    for part in ("text_encoder", "tokenizer"):
        if (base.folder / part).is_dir():
            copy_part(base.folder / part, folder / part)
    # Beside a text encoder the embedding's file is only a cache, which is computed when needed.
    if not (folder / "text_encoder").is_dir() and (base.folder / EMBEDDING_FILE).is_file():
        copy_file(base.folder / EMBEDDING_FILE, folder / EMBEDDING_FILE)
    for pattern in LICENCE_FILES:
        for file in base.folder.glob(pattern):
            copy_file(file, folder / file.name)


def copy_part(source: Path, target: Path) -> None:
    """The configuration, and the weights once: hub folders hold them in several precisions."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".txt") and ".index." not in file.name:
            copy_file(file, target / file.name)
    if source.name == "text_encoder":
        found = find_weights(source)
        weights = dict(found.load())
        save(target / "model.safetensors", weights)


def model_index(recipe: Any) -> dict[str, Any]:
    """An end-to-end checkpoint has its authors' class name, by which loaders recognise it."""
    end_to_end = recipe.objective == "e2e"
    index: dict[str, Any] = {
        **TARGETS[recipe.target].index,
        **({"_class_name": "StableDiffusionPipeline"} if end_to_end else {}),
        "default_denoising_steps": 1 if end_to_end else recipe.default_steps,
        "default_processing_resolution": recipe.resolution or 768,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if end_to_end:
        unused = ("safety_checker", "feature_extractor", "image_encoder")
        index |= {part: [None, None] for part in unused} | {"requires_safety_checker": False}
    return index


def write_unet(
    folder: Path,
    weights: Mapping[str, Tensor],
    base: Base,
    recipe: Any,
    steps: int,
    metrics: Mapping[str, Mapping[str, float]],
    samples: Mapping[str, int],
) -> None:
    """The U-Net as it is now, and the card that goes with it."""
    dtype = getattr(torch, recipe.save_dtype)
    with atomic_path(folder / "unet" / WEIGHTS) as temporary:
        save_file({k: v.to(dtype) for k, v in weights.items()}, temporary, {"format": "pt"})
        # Until all files are replaced, no list of checksums is better than a wrong one.
        (folder / FILE_NAME).unlink(missing_ok=True)
    private = ("base", "output", "cache", "config")
    values = {k: v for k, v in vars(recipe).items() if k not in private}
    # Data folders by kind and name alone: paths of this machine are private.
    for name in ("data", "val_data"):
        values[name] = [public_name(spec) for spec in values[name] or []]
    write_json(folder / "recipe.json", {**values, "steps_done": steps, "metrics": metrics})
    with atomic_path(folder / "README.md") as path:
        path.write_text(model_card(folder.name, base, values, steps, metrics, samples), "utf-8")
    write_json(folder / "model_index.json", model_index(recipe))
    list_checksums(folder)


def list_checksums(folder: Path) -> None:
    own = ("run", "README.md")
    write_checksums(
        folder,
        (
            path
            for path in folder.rglob("*")
            if path.relative_to(folder).parts[0] not in own
            and not is_hidden(path.relative_to(folder))
        ),
    )


def damage(folder: Path) -> str | None:
    """What is wrong with the files that an earlier part of the run wrote; None if nothing is."""
    try:
        damaged = damaged_files(folder, read_checksums(folder) or {})
    except CheckpointError as error:
        return str(error)
    return ", ".join(damaged) or None


def check_written(folder: Path) -> None:
    """Open the finished checkpoint again. Raises CheckpointError where it is not whole."""
    inspect_checkpoint(folder)
    if verify_checksums(folder) is None:  # a run was killed while it replaced files
        list_checksums(folder)


def model_card(
    title: str,
    base: Base,
    values: Mapping[str, Any],
    steps: int,
    metrics: Mapping[str, Mapping[str, float]],
    samples: Mapping[str, int],
) -> str:
    licence, terms = licence_terms(base, values["card_licence"])
    name = Path(base.name).name if Path(base.name).exists() else base.name
    target = TARGETS[values["target"]]
    shown = ("target", "objective", "zero_snr", "optimizer", "learning_rate", "batch_size",
             "warmup", "decay_steps", "noise_strength", "noise_annealing", "terminal_share",
             "dropout", "flip", "invalid", "lora_rank", "ema",
             "mixed_precision", "seed")  # fmt: skip
    rows = "\n".join(f"| {key} | {values[key]} |" for key in shown)
    table = "\n".join(
        f"| {data} | " + " | ".join(f"{value:.4f}" for value in scores.values()) + " |"
        for data, scores in metrics.items()
    )
    heads = list(next(iter(metrics.values()), {}))
    return CARD.format(
        licence=licence if re.fullmatch(r"[\w.+-]+", licence) else "other",
        licence_name="" if re.fullmatch(r"[\w.+-]+", licence) else f"license_name: {licence}\n",
        title=title,
        base=name,
        target=target.name,
        what=target.card,
        pipeline=target.index["_class_name"],
        pipeline_tag="depth-estimation" if target.name == "depth" else "image-to-image",
        one_step=" It was trained end to end for one\nstep from zeros: no noise, no ensemble."
        * (values["objective"] == "e2e"),
        data="\n".join(
            f"- `{public_name(spec)}`: {count} samples, share of the batches {share:g}"
            for (spec, count), share in zip(samples.items(), values["weights"], strict=True)
        ),
        steps=steps,
        recipe=f"| | |\n|---|---|\n{rows}",
        metrics=f"One step, one member, over validation samples; {target.figures}:\n\n"
        f"| | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|\n{table}"
        if metrics
        else "Not measured; `python training/evaluate.py` does.",
        terms=terms,
    )


def public_name(spec: str) -> str:
    kind, _, where = spec.partition(":")
    return f"{kind}:{where if kind == 'procedural' else Path(where).name}"


def licence_terms(base: Base, override: str | None) -> tuple[str, str]:
    """The card's `license:` and what to say about it.

    Weights derived from Stable Diffusion stay under its licence, whose use restrictions
    (paragraph 5 and attachment A) must be passed on.
    """
    stated = override or stated_licence(base.folder / "README.md")
    files = sorted({f.name for p in LICENCE_FILES for f in base.folder.glob(p)})
    beside = f" The base's own text is beside this file: {', '.join(files)}." if files else ""
    if stated is None:
        return "other", (
            "The base does not say what licence it is under. If it descends from Stable Diffusion "
            f"2, these weights are a derivative under {RAIL}: its use restrictions (paragraph 5 "
            "and attachment A) apply to whoever uses them, and must be passed on with them."
            + beside
        )
    if "rail" in stated.lower():
        return stated, (
            f"These weights derive from a base under `{stated}`. Its **use restrictions** "
            "(paragraph 5 and attachment A of the licence) apply to these weights too, and whoever "
            "passes them on must pass on the restrictions and the licence's text." + beside
        )
    return stated, f"`{stated}`, as the base's." + beside


def stated_licence(card: Path) -> str | None:
    """`license:` in the front matter of a model card."""
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.S)
    found = front and re.search(r"^license(?:_name)?:\s*(\S+)", front[1], re.M)
    return found[1].strip("\"'") if found else None


def save(path: Path, weights: Mapping[str, Tensor]) -> None:
    # The "format" entry is what transformers 4.x asks of a file before it reads it.
    with atomic_path(path) as temporary:
        save_file(dict(weights), temporary, metadata={"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", "utf-8")
