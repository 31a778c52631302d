"""Checkpoints of the published sizes, Stable Diffusion 2's networks with random weights.

The tests beside this one use tiny networks; what depends on the size shows only here: the weights'
names and shapes of the real architecture, float16 files and shards, memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_builders import (
    APPEARANCE,
    DDIM,
    DEFAULTS,
    INTRINSICS,
    LIGHTING,
    NORMALS,
    V1_1,
    ZERO_SNR,
    edit_json,
    write_json,
)
from diffusers import AutoencoderKL, UNet2DConditionModel
from nano_text import write_nano_text_encoder
from safetensors.torch import save_file
from torch import Tensor

from marigold_core import IntrinsicImages, Marigold, NormalMap
from marigold_core.checkpoints.inspection import inspect_checkpoint
from marigold_core.errors import CheckpointError

pytestmark = pytest.mark.slow
# unet/config.json and vae/config.json of stable-diffusion-2, what differs from diffusers' defaults.
UNET = {
    "sample_size": 96, "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024,
    "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "sample_size": 768, "block_out_channels": (128, 256, 512, 512), "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2, "scaling_factor": 0.18215,
}  # fmt: skip
ENDS = ("conv_in.", "conv_out.")  # where the layouts differ
SHARD = "diffusion_pytorch_model.fp16-{:05}-of-00002.safetensors"
LAYOUTS: dict[str, tuple[dict[str, Any], int]] = {
    "depth": (V1_1, 1),
    "normals": (NORMALS | DEFAULTS | {"use_full_z_range": True}, 1),
    "appearance": (INTRINSICS | DEFAULTS | {"target_properties": APPEARANCE}, 2),
    "lighting": (INTRINSICS | DEFAULTS | {"target_properties": LIGHTING}, 3),
}
PARAMETERS = 865_922_244  # Marigold's depth and normals U-Net


def random_weights(network: torch.nn.Module, seed: int) -> Iterator[tuple[str, Tensor]]:
    """float16, one tensor after another: the network itself is described, not allocated."""
    generator = torch.Generator().manual_seed(seed)
    for name, meta in network.state_dict().items():
        if meta.ndim > 1:
            fan_in = meta[0].numel()
            values = torch.randn(meta.shape, generator=generator) * fan_in**-0.5
        else:  # of norms: one; all biases: zero
            values = torch.full(meta.shape, float(name.endswith("weight")))
        yield name, values.half()


def described(kind: Any, **config: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return kind(**config)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Path]:
    """The weights that all layouts have in common, 1.9 GB: the U-Net's body, and the VAE."""
    folder = tmp_path_factory.mktemp("full")
    body = dict(random_weights(described(UNet2DConditionModel, **UNET), 0))
    body = {name: weight for name, weight in body.items() if not name.startswith(ENDS)}
    save_file(body, folder / "body.safetensors", {"format": "pt"})
    del body
    vae = dict(random_weights(described(AutoencoderKL, **VAE), 1))
    save_file(vae, folder / "vae.safetensors", {"format": "pt"})
    yield folder
    shutil.rmtree(folder)  # pytest would keep it for three runs


def build(shared: Path, name: str, layout: str) -> Path:
    """The checkpoint's folder; its large files are links to the shared ones."""
    folder = shared / name
    index, latents = LAYOUTS[layout]
    channels = {"in_channels": 4 * (latents + 1), "out_channels": 4 * latents}
    unet = described(UNet2DConditionModel, **UNET, **channels)
    (folder / "unet").mkdir(parents=True)
    (folder / "vae").mkdir()
    os.link(shared / "body.safetensors", folder / "unet" / SHARD.format(1))
    os.link(shared / "vae.safetensors", folder / "vae" / "diffusion_pytorch_model.safetensors")
    ends = torch.nn.ModuleDict({"conv_in": unet.conv_in, "conv_out": unet.conv_out})
    save_file(dict(random_weights(ends, 2)), folder / "unet" / SHARD.format(2))
    shards = {name: SHARD.format(1 + name.startswith(ENDS)) for name in unet.state_dict()}
    write_json(
        folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json",
        {"metadata": {}, "weight_map": shards},
    )
    for part, class_name, config in (
        ("unet", "UNet2DConditionModel", UNET | channels), ("vae", "AutoencoderKL", VAE),
    ):  # fmt: skip
        write_json(folder / part / "config.json", {"_class_name": class_name, **config})
    write_json(folder / "scheduler" / "scheduler_config.json", DDIM | ZERO_SNR)
    write_nano_text_encoder(folder, 1024)
    write_json(folder / "model_index.json", index)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_layouts_open_and_run_at_their_size(shared, layout):
    folder, latents = build(shared, layout, layout), LAYOUTS[layout][1]
    info = inspect_checkpoint(folder)
    ends = 9 * 320 * 4 * 2 * (latents - 1) + 4 * (latents - 1)  # conv_in and conv_out
    assert info.parameters["unet"] == PARAMETERS + ends
    assert info.variants["unet"] == "fp16"
    marigold = Marigold.from_pretrained(folder, device="cpu")
    picture = np.random.default_rng(0).random((48, 64, 3), np.float32)
    result: Any = marigold(
        picture, num_inference_steps=1, processing_resolution=64,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    if layout == "depth":
        maps = {"depth": result.depth}
    elif layout == "normals":
        assert isinstance(result, NormalMap)
        maps = {"normals": result.normals}
        assert np.allclose(np.linalg.norm(result.normals, axis=2), 1, atol=1e-4)
    else:
        assert isinstance(result, IntrinsicImages)
        maps = result.maps
        names = "albedo roughness metallicity" if latents == 2 else "albedo shading residual"
        assert list(maps) == names.split()
    for name, values in maps.items():
        assert values.shape[:2] == (48, 64)
        assert np.isfinite(values).all() and values.std() > 0.01, name


# What published relatives of the same size have in place of Marigold's.
RELATIVES: dict[str, tuple[str, dict[str, Any], str]] = {
    "GeoWizard": (
        "model_index.json",
        {"_class_name": "DepthNormalEstimationPipeline", "prediction_type": ...,
         "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]},
        "image_encoder",
    ),
    "Lotus": (
        "unet/config.json",
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4},
        "task embedding",
    ),
    "Lotus discriminative": (
        "unet/config.json",
        {"in_channels": 4, "class_embed_type": "projection",
         "projection_class_embeddings_input_dim": 4},
        "task embedding",
    ),
    "Stable Diffusion 2": (
        "unet/config.json", {"in_channels": 4}, "has 8 in_channels",
    ),
    "Marigold V2": (
        "unet/config.json", {"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel",
    ),
}  # fmt: skip


@pytest.mark.parametrize("relative", RELATIVES)
def test_relatives_of_that_size_are_refused_with_one_message(shared, relative):
    folder = build(shared, relative, "depth")
    file, change, words = RELATIVES[relative]
    edit_json(folder / file, **change)
    with pytest.raises(CheckpointError) as refused:
        Marigold.from_pretrained(folder, device="cpu")
    assert words in str(refused.value) and "\n" not in str(refused.value)
