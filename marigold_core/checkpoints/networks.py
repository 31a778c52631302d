"""Networks: from a component folder's files to a diffusers model with exactly those weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, MarigoldError
from .weights import Weights, read_json, short_name

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float16": torch.float16,
    "fp16": torch.float16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip
# The attention layers' names in files from before diffusers 0.12, which some VAEs still carry.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def torch_dtype(dtype: torch.dtype | str | None, device: torch.device | str) -> torch.dtype:
    """A dtype from its name; None and "auto" by device."""
    if dtype is None or dtype == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.float16
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise MarigoldError(f"The dtype is {dtype!r}; use float32, float16, bfloat16 or auto.")
    return found


def load_vae(folder: Path, weights: Weights, device: torch.device, dtype: torch.dtype) -> nn.Module:
    from diffusers import AutoencoderKL, AutoencoderTiny

    tiny = read_json(folder / "config.json").get("_class_name") == "AutoencoderTiny"
    network = AutoencoderTiny if tiny else AutoencoderKL
    return load_network(network, folder, weights, device, dtype)


def load_network(
    network: Any, folder: Path, weights: Weights, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Build a diffusers model from config.json and give it exactly the weights of its files.

    Not `from_pretrained`: that warns where weights are missing and goes on with random ones, and
    without accelerate it fills the network with random numbers first.
    """
    config_file = folder / "config.json"
    config = read_json(config_file)
    try:
        with torch.device("meta"):
            model = network.from_config(config)
    except Exception as error:  # whatever diffusers' constructors make of a wrong value
        raise CheckpointError(
            f"{short_name(config_file)} describes a network that the installed diffusers cannot "
            f"build: {' '.join(str(error).split())[:200]}"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = {name: current_name(name, expected) for name in weights.tensors}
    stored = {names[name]: tensor.shape for name, tensor in weights.tensors.items()}
    for problem, found in (
        ("lacks", sorted(expected.keys() - stored.keys())),
        ("has, and the network has no place for,", sorted(stored.keys() - expected.keys())),
        ("has in another shape", sorted(n for n in expected if stored.get(n) != expected[n])),
    ):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise CheckpointError(
                f"{weights.label} {problem} {found[0]}{more}, by {short_name(config_file)}; "
                "the files are damaged or belong to a different model."
            )
    state = {names[name]: tensor for name, tensor in weights.load(device, dtype)}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def current_name(name: str, expected: Mapping[str, Any]) -> str:
    """A weight's name as diffusers has it today."""
    if name in expected:
        return name
    return re.sub(
        r"\.(query|key|value|proj_attn)\.(weight|bias)$",
        lambda match: f".{OLD_ATTENTION[match[1]]}.{match[2]}",
        name,
    )
