"""Configuration files are data: they select no code, and cost no memory or time of their own."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import types

import pytest
import torch
from checkpoint_builders import edit_json, unet_file
from safetensors.torch import load_file, save_file

from marigold_core import CheckpointError, load_checkpoint

pytestmark = pytest.mark.usefixtures("user_cache")


def refused(folder, *words: str, seconds: float = 5) -> str:
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert time.monotonic() - started < seconds
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_attn_implementation", "org/kernel"),
        ("attn_implementation", "org/kernel"),
        ("_attn_implementation_internal", "flash_attention_2"),
        ("auto_map", {"AutoModel": "org/repo--model.Model"}),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
    ],
)
def test_keys_that_select_code_are_refused_by_name(folder, part, key, value):
    edit_json(folder / part / "config.json", **{key: value})
    refused(folder, f"{part}/config.json", key)


def test_no_hub_kernel_is_fetched(folder, monkeypatch):
    """transformers imports `kernels` for an attention named "owner/name", online or not."""
    asked: list[object] = []
    kernels = types.ModuleType("kernels")
    kernels.get_kernel = lambda *names, **_: asked.append(names)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    edit_json(folder / "text_encoder" / "config.json", _attn_implementation="org/kernel")
    refused(folder, "_attn_implementation")
    assert asked == []


def test_unknown_keys_are_ignored(folder):
    for part in ("unet", "vae", "text_encoder"):
        edit_json(folder / part / "config.json", comment="from a newer version", _private=[1, 2])
    unet = load_checkpoint(folder).unet
    assert not hasattr(unet.config, "comment")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("unet", {"layers_per_block": 1000}, ("layers_per_block", "1000")),
        ("unet", {"layers_per_block": 60}, ("layers_per_block", "60")),
        ("unet", {"transformer_layers_per_block": 60}, ("transformer_layers_per_block", "60")),
        ("unet", {"block_out_channels": [2**40, 2**40]}, ("block_out_channels",)),
        ("unet", {"block_out_channels": [64] * 900}, ("block_out_channels",)),
        ("unet", {"cross_attention_dim": 10**9}, ("cross_attention_dim",)),
        ("unet", {"norm_num_groups": 0}, ("norm_num_groups", "0")),
        ("unet", {"norm_eps": "1e-5"}, ("norm_eps",)),
        ("unet", {"norm_eps": float("nan")}, ("norm_eps",)),
        ("unet", {"encoder_hid_dim": 32}, ("encoder_hid_dim", "null")),
        ("vae", {"layers_per_block": 60}, ("layers_per_block", "60")),
        ("vae", {"shift_factor": 0.5}, ("shift_factor",)),
        ("vae", {"latents_mean": [1.0, 1.0, 1.0, 1.0]}, ("latents_mean",)),
        ("text_encoder", {"vocab_size": 2 * 10**7}, ("vocab_size",)),
        ("text_encoder", {"vocab_size": 400_000}, ("token_embedding",)),
        ("text_encoder", {"hidden_size": 2**20}, ("hidden_size",)),
        ("text_encoder", {"intermediate_size": 1.5}, ("intermediate_size", "1.5")),
        ("text_encoder", {"num_hidden_layers": 60}, ("num_hidden_layers", "60")),
        ("text_encoder", {"num_attention_heads": 0}, ("num_attention_heads",)),
        ("text_encoder", {"hidden_act": "org/kernel"}, ("hidden_act",)),
    ],
)
def test_sizes_are_compared_with_the_tensors_before_anything_is_built(folder, part, change, words):
    edit_json(folder / part / "config.json", **change)
    refused(folder, f"{part}/config.json", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trained_betas": [0.1] * 1000}, ("trained_betas", "null")),
        ({"num_train_timesteps": 10**9}, ("num_train_timesteps",)),
        ({"num_train_timesteps": True}, ("num_train_timesteps",)),
        ({"beta_start": "0.1"}, ("beta_start",)),
        ({"beta_end": 1e400}, ("beta_end",)),
        ({"steps_offset": -1}, ("steps_offset",)),
        ({"rescale_betas_zero_snr": "no"}, ("rescale_betas_zero_snr",)),
    ],
)
def test_a_scheduler_has_numbers_where_numbers_belong(folder, change, words):
    edit_json(folder / "scheduler" / "scheduler_config.json", **change)
    refused(folder, "scheduler/scheduler_config.json", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"default_denoising_steps": 10**9}, ("default_denoising_steps",)),
        ({"default_denoising_steps": "4"}, ("default_denoising_steps",)),
        ({"default_processing_resolution": 10**9}, ("default_processing_resolution",)),
        ({"shift_invariant": "false"}, ("shift_invariant",)),
    ],
)
def test_the_pipelines_defaults_are_in_range(folder, change, words):
    edit_json(folder / "model_index.json", **change)
    refused(folder, "model_index.json", *words)


def test_a_header_of_a_million_tensors_is_not_read(folder):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"tensor.{number}": entry for number in range(300_000)}).encode()
    unet_file(folder).write_bytes(struct.pack("<Q", len(header)) + header)
    refused(folder, "unet/diffusion_pytorch_model.safetensors", "header", seconds=2)


def test_a_configuration_of_any_length_is_not_read(folder):
    with (folder / "unet" / "config.json").open("ab") as file:
        file.truncate(1 << 30)
    refused(folder, "unet/config.json", "MB", seconds=2)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "model_index.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_only_regular_files_are_read(folder, name, kind):
    file = folder / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if kind == "device" else file.name)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_names_of_tensors_cannot_steer_a_terminal(folder):
    weights = {**load_file(unet_file(folder)), "\x1b[2J\nall is well": torch.zeros(1)}
    save_file(weights, unet_file(folder))
    assert r"\x1b[2J\nall is well" in refused(folder, "has no place for")
