"""The embedding of the empty prompt: the only text that Marigold ever reads.

Two tokens, [BOS, EOS], unpadded, through CLIP's text encoder. It is computed once, in float32,
and kept in a file of a few kilobytes, so that the text encoder (1.3 GB for Stable Diffusion 2) and
transformers are needed once only. Feeding zeros instead is a known bug of other ports.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_path
from .config import read_json
from .hub import is_shared
from .networks import find_component, load_network
from .weights import Weights, find_weights, opened_weights

FILE_NAME = "empty_prompt_embedding.safetensors"
TENSOR_NAME = "empty_prompt_embedding"
# Enough of the file to notice any retraining, little enough to read at every start.
SAMPLES, SAMPLE_BYTES = 64, 4096


def empty_prompt_embedding(folder: str | os.PathLike[str]) -> Tensor:
    """(1, 2, D) float32 on the CPU: the text condition of the checkpoint in `folder`.

    Read from `folder`/empty_prompt_embedding.safetensors or from the user's cache
    (`user_cache_folder`) where a file there was made from this very text encoder, or where there is
    no usable text encoder; else computed, and kept beside the checkpoint, or in the user's cache
    when the folder is the hub's, bundled or read-only. Raises CheckpointError.
    """
    folder = Path(folder)
    beside = folder / FILE_NAME
    try:
        text_encoder = find_weights(folder / "text_encoder")
    except CheckpointError:
        if beside.is_file():
            return read_embedding(beside)
        if (folder / "text_encoder").is_dir():
            raise
        raise CheckpointError(no_text_message(folder)) from None
    key = fingerprint(text_encoder)
    cached = user_cache_folder() / "empty-prompt" / f"{key}.safetensors"
    for file in (beside, cached):
        try:
            return read_embedding(file, key)
        except CheckpointError:
            continue  # absent, stale or damaged: made anew below
    embedding = encode_empty_prompt(folder, text_encoder)
    for file in (cached,) if is_shared(folder) else (beside, cached):
        try:
            write_embedding(file, embedding, key)
            break
        except OSError:
            continue  # a read-only disk costs a second at the next start, nothing more
    return embedding


def no_text_message(folder: Path) -> str:
    return (
        f"{folder} has neither text_encoder/ nor {FILE_NAME}, one of which must give the "
        "embedding of the empty prompt; copy or download it again."
    )


def encode_empty_prompt(folder: Path, text_encoder: Weights) -> Tensor:
    """Run the text encoder in float32 on [BOS, EOS]; its memory is free on return."""
    component = find_component(text_encoder.folder, ("CLIPTextModel",), weights=text_encoder)
    model = load_network(component, torch.device("cpu"), torch.float32)
    tokens = empty_prompt_tokens(folder / "tokenizer", component.config.get("vocab_size"))
    with torch.no_grad():
        # The positions are named because the network's own table of them is not among the weights.
        embedding = model(tokens, position_ids=torch.arange(2)[None])[0]
    return checked(embedding.float().contiguous(), text_encoder.label)


def empty_prompt_tokens(tokenizer: Path, vocab_size: int | None = None) -> Tensor:
    """(1, 2) int64: what a CLIP tokenizer makes of "" without padding, [BOS, EOS].

    Read from the vocabulary itself, because the folder that transformers 5 saves (tokenizer.json
    alone) fails in 4.x.
    """
    if (tokenizer / "vocab.json").is_file():
        vocabulary = read_json(tokenizer / "vocab.json")
    else:
        content = read_json(tokenizer / "tokenizer.json")
        try:
            vocabulary = dict((content.get("model") or {}).get("vocab") or {})
            added = content.get("added_tokens", [])
            vocabulary |= {token["content"]: token["id"] for token in added}
        except (TypeError, ValueError, KeyError, AttributeError):
            raise CheckpointError(
                f"{tokenizer / 'tokenizer.json'} is not a CLIP tokenizer's; download it again."
            ) from None
    tokens = [vocabulary.get(word) for word in ("<|startoftext|>", "<|endoftext|>")]
    if not all(type(token) is int and 0 <= token < (vocab_size or 49408) for token in tokens):
        raise CheckpointError(
            f"The vocabulary in {tokenizer} has no <|startoftext|> and <|endoftext|> that the text "
            "encoder knows, so it is not CLIP's."
        )
    return torch.tensor([tokens])


def fingerprint(text_encoder: Weights) -> str:
    """A short name that changes with the text encoder's weights: lengths, names and samples."""
    digest = hashlib.sha256()
    for file in text_encoder.files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as opened:
            for sample in range(SAMPLES):
                opened.seek(sample * max(size - SAMPLE_BYTES, 0) // max(SAMPLES - 1, 1))
                digest.update(opened.read(SAMPLE_BYTES))
    shapes = {name: tensor.shape for name, tensor in sorted(text_encoder.tensors.items())}
    digest.update(json.dumps(shapes).encode())
    return digest.hexdigest()[:32]


def read_embedding(file: Path, key: str | None = None) -> Tensor:
    """Read the embedding's file; with a key, only if it was made from that text encoder."""
    with opened_weights(file) as opened:
        made_from = (opened.metadata() or {}).get("text_encoder")
        if key is not None and made_from != key:
            raise CheckpointError(f"{file} belongs to another text encoder; delete it.")
        embedding = opened.get_tensor(TENSOR_NAME).float().clone()
    return checked(embedding, file.name)


def write_embedding(file: Path, embedding: Tensor, key: str) -> None:
    with atomic_path(file) as temporary:
        save_file({TENSOR_NAME: embedding}, temporary, metadata={"text_encoder": key})


def checked(embedding: Tensor, label: str) -> Tensor:
    if embedding.ndim != 3 or embedding.shape[0] != 1 or embedding.shape[1] < 1:
        raise CheckpointError(
            f"{label} gives an embedding of shape {tuple(embedding.shape)}, not (1, tokens, width)."
        )
    if not torch.isfinite(embedding).all() or not embedding.any():
        raise CheckpointError(
            f"{label} gives an embedding of the empty prompt that is zero or not finite."
        )
    return embedding


def user_cache_folder() -> Path:
    """Where this user's programs keep what can be made again, on each system."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "marigold-kit"
