"""The smallest text encoder that says the empty prompt.

Marigold is conditioned on the embedding of "" alone: two tokens, <|startoftext|> and
<|endoftext|>. So a vocabulary of those two words and one layer of CLIP are a whole text encoder.
The files are written here, key by key, and not by `save_pretrained`: a model that is made and
saved with transformers 5 has weights without the `text_model.` prefix, which 4.57 opens with
random weights and only a warning, and its tokenizer has no vocab.json, which 4.57 cannot do
without. With the prefix and both vocabulary files, either version reads the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77


def write_nano_text_encoder(
    folder: str | os.PathLike[str], hidden_size: int, seed: int = 0
) -> None:
    """Write `text_encoder/` and `tokenizer/` into a checkpoint folder.

    The embedding of "" is (1, 2, hidden_size) float32, of zero mean and unit variance along its
    last axis (CLIP ends in a layer norm). The weights are a function of hidden_size and seed.
    hidden_size must be a multiple of 8.
    """
    if hidden_size < 8 or hidden_size % 8:
        raise ValueError(f"hidden_size is {hidden_size}; it must be a multiple of 8.")
    encoder, tokenizer = Path(folder) / "text_encoder", Path(folder) / "tokenizer"
    encoder.mkdir(parents=True, exist_ok=True)
    tokenizer.mkdir(parents=True, exist_ok=True)

    config = clip_config(hidden_size)
    weights = clip_weights(hidden_size, config["intermediate_size"], seed)
    # The "format" entry is what transformers 4.x asks of a file before it reads it.
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    write_json(encoder / "config.json", config)

    write_json(tokenizer / "vocab.json", {START: 0, END: 1})
    (tokenizer / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    write_json(tokenizer / "special_tokens_map.json", special)
    write_json(
        tokenizer / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": MAX_TOKENS,
            "do_lower_case": True,
            "errors": "replace",
            **special,
        },
    )


def clip_config(hidden_size: int) -> dict[str, Any]:
    """The `config.json` of a one-layer CLIPTextModel over a two-word vocabulary."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "projection_dim": hidden_size,
        "num_hidden_layers": 1,
        "num_attention_heads": hidden_size // 8,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "torch_dtype": "float32",
    }


def clip_weights(hidden_size: int, intermediate_size: int, seed: int) -> dict[str, Tensor]:
    """Random float32 weights under the names that every transformers reads."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    layer = "encoder.layers.0"
    weights = {
        "embeddings.token_embedding.weight": normal(2, hidden_size),
        "embeddings.position_embedding.weight": normal(MAX_TOKENS, hidden_size),
    }
    shapes = {f"{layer}.self_attn.{name}_proj": (hidden_size, hidden_size) for name in "qkv"}
    shapes[f"{layer}.self_attn.out_proj"] = (hidden_size, hidden_size)
    shapes[f"{layer}.mlp.fc1"] = (intermediate_size, hidden_size)
    shapes[f"{layer}.mlp.fc2"] = (hidden_size, intermediate_size)
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = normal(*shape)
        weights[f"{name}.bias"] = torch.zeros(shape[0])
    for name in (f"{layer}.layer_norm1", f"{layer}.layer_norm2", "final_layer_norm"):
        weights[f"{name}.weight"] = torch.ones(hidden_size)
        weights[f"{name}.bias"] = torch.zeros(hidden_size)
    return {f"text_model.{name}": weight for name, weight in weights.items()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
