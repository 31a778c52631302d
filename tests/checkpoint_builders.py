"""Tiny random checkpoints in every layout that is published, and broken ones.

The networks have the published architecture in small and random weights, scaled so that what comes
out is not flat: a comparison of flat pictures proves nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from marigold_core.checkpoints.autoencoder import Autoencoder
from marigold_core.checkpoints.unet import UNet

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from nano_text import write_nano_text_encoder  # noqa: E402

TEXT_WIDTH = 32
NOISE_PROCESS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
ZERO_SNR = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
DDIM = {"_class_name": "DDIMScheduler", **NOISE_PROCESS}
LCM = {
    "_class_name": "LCMScheduler",
    **NOISE_PROCESS,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}
AFFINE = {"scale_invariant": True, "shift_invariant": True}
DEPTH = {"_class_name": "MarigoldDepthPipeline", "prediction_type": "depth"}
V1_1 = {
    **DEPTH,
    **AFFINE,
    "default_denoising_steps": 4,
    "default_processing_resolution": 768,
}
NORMALS = {"_class_name": "MarigoldNormalsPipeline", "prediction_type": "normals"}
DEFAULTS = {"default_denoising_steps": 4, "default_processing_resolution": 768}
APPEARANCE = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "srgb"},
    "material": {
        "prediction_space": "stack",
        "sub_target_names": ["roughness", "metallicity", None],
    },
    "roughness": {"prediction_space": "linear"},
    "metallicity": {"prediction_space": "linear"},
}
LIGHTING = {
    "target_names": ["albedo", "shading", "residual"],
    "albedo": {"prediction_space": "linear"},
    "shading": {"prediction_space": "linear", "up_to_scale": True},
    "residual": {"prediction_space": "linear", "up_to_scale": True},
}
INTRINSICS = {"_class_name": "MarigoldIntrinsicsPipeline", "prediction_type": "intrinsics"}
NOTHING = [None, None]
END_TO_END = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": NOTHING,
    "feature_extractor": NOTHING,
    "image_encoder": NOTHING,
    "requires_safety_checker": False,
}

# name: (model_index.json without its components, scheduler_config.json)
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "v1-1": (V1_1, DDIM | ZERO_SNR),
    "v1-0": (
        {
            "_class_name": "MarigoldPipeline",
            **AFFINE,
            "default_denoising_steps": 10,
            "default_processing_resolution": 768,
        },
        DDIM | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False},
    ),
    # The first revision of v1-0: no key that is not a component, a scheduler without spacing.
    "v1-0-early": ({"_class_name": "MarigoldPipeline"}, DDIM),
    "lcm": (
        {
            "_class_name": "MarigoldPipeline",
            "prediction_type": "depth",
            **AFFINE,
            "default_denoising_steps": 1,
            "default_processing_resolution": 768,
        },
        LCM,
    ),
    "e2e": (
        END_TO_END,
        DDIM | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": False},
    ),
    "scale-only": (V1_1 | {"shift_invariant": False}, DDIM | ZERO_SNR),
    "metric": (V1_1 | {"shift_invariant": False, "scale_invariant": False}, DDIM | ZERO_SNR),
    "epsilon": (V1_1, DDIM | {"timestep_spacing": "trailing", "prediction_type": "epsilon"}),
    "sample": (V1_1, DDIM | {"timestep_spacing": "trailing", "prediction_type": "sample"}),
    "normals-v1-1": (NORMALS | DEFAULTS | {"use_full_z_range": True}, DDIM | ZERO_SNR),
    "normals-v0-1": (
        {
            "_class_name": "MarigoldPipeline",
            "use_full_z_range": True,
            "default_denoising_steps": 10,
            "default_processing_resolution": 768,
        },
        DDIM | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False},
    ),
    "normals-lcm": (NORMALS | DEFAULTS | {"default_denoising_steps": 1}, LCM),
    # Nothing but the name of its folder says that it is one of normals.
    "normals-e2e": (
        END_TO_END,
        DDIM | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": False},
    ),
    "normals-half-z": (NORMALS | DEFAULTS | {"use_full_z_range": False}, DDIM | ZERO_SNR),
    "iid-appearance": (
        INTRINSICS | DEFAULTS | {"target_properties": APPEARANCE},
        DDIM | ZERO_SNR,
    ),
    "iid-lighting": (INTRINSICS | DEFAULTS | {"target_properties": LIGHTING}, DDIM | ZERO_SNR),
}


def build_checkpoint(
    folder: Path, family: str = "v1-1", seed: int = 0, variant: str | None = None
) -> Path:
    """Write a checkpoint of one of FAMILIES; variant "fp16" writes only such files."""
    index, scheduler = FAMILIES[family]
    latents = len(index.get("target_properties", {}).get("target_names", ["one"]))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, vae = tiny_unet(4 * (latents + 1), 4 * latents), tiny_vae()
    for network, part in ((unet, "unet"), (vae, "vae")):
        network = network.half() if variant == "fp16" else network
        network.save_pretrained(folder / part, variant=variant)
    if family == "v1-0-early":
        edit_json(folder / "vae" / "config.json", scaling_factor=...)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_nano_text_encoder(folder, TEXT_WIDTH, seed)
    if variant is not None:
        plain = folder / "text_encoder" / "model.safetensors"
        half = {name: weight.half() for name, weight in load_file(plain).items()}
        save_file(half, plain.with_name(f"model.{variant}.safetensors"), metadata={"format": "pt"})
        plain.unlink()
    components = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    write_json(folder / "model_index.json", {"_diffusers_version": "0.25.0", **index, **components})
    return folder


def tiny_unet(
    in_channels: int = 8, out_channels: int = 4, **config: Any
) -> Any:  # diffusers' classes lose their type in decorators
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(4, 8),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        **config,
    )
    # As it is built, a random network's output has a tenth of the variance of what it imitates.
    torch.nn.init.normal_(unet.conv_out.weight, std=0.05)
    # The default text projections are so weak that a wrong embedding would go unnoticed.
    for name, weight in unet.named_parameters():
        if "attn2.to_" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return unet


def for_inference(network: Any, prompt: torch.Tensor) -> Any:
    """The engine's own network with the weights of diffusers'; it has none for AutoencoderTiny."""
    kinds = {UNet2DConditionModel: UNet, AutoencoderKL: Autoencoder}
    if type(network) not in kinds:
        return network
    own = kinds[type(network)](json.loads(network.to_json_string()))
    own.load_state_dict(network.state_dict())
    own.fold(prompt)
    return own.eval()


def tiny_vae(**config: Any) -> Any:
    vae: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.18215,
        **config,
    )
    torch.nn.init.normal_(vae.encoder.conv_out.weight, std=0.5)
    torch.nn.init.normal_(vae.decoder.conv_in.weight, std=0.2)
    torch.nn.init.normal_(vae.decoder.conv_out.weight, std=0.1)
    return vae


def build_tiny_autoencoder(folder: Path, seed: int = 0) -> Path:
    """An AutoencoderTiny in a folder of its own, as madebyollin/taesd is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae: Any = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
        torch.nn.init.normal_(vae.decoder.layers[-1].weight, std=0.3)
    vae.save_pretrained(folder)
    return folder


def build_bare_unet(folder: Path, seed: int = 1) -> Path:
    """config.json and weights: what `unet.save_pretrained` leaves."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tiny_unet().save_pretrained(folder)
    return folder


def build_training_output(folder: Path, seed: int = 1) -> Path:
    """What the authors' trainer leaves: unet/ and scheduler/, and nothing else."""
    build_bare_unet(folder / "unet", seed)
    write_json(folder / "scheduler" / "scheduler_config.json", DDIM | ZERO_SNR)
    return folder


def shard(folder: Path, variant: str | None = None, parts: int = 2) -> None:
    """Split a component's diffusion_pytorch_model.safetensors into shards with an index."""
    word = f".{variant}" if variant else ""
    whole = folder / f"diffusion_pytorch_model{word}.safetensors"
    weights = load_file(whole)
    weight_map: dict[str, str] = {}
    for part in range(parts):
        name = f"diffusion_pytorch_model{word}-{part + 1:05}-of-{parts:05}.safetensors"
        chosen = dict(list(weights.items())[part::parts])
        save_file(chosen, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, name)
    index = folder / f"diffusion_pytorch_model.safetensors.index{word}.json"
    write_json(index, {"metadata": {}, "weight_map": weight_map})
    whole.unlink()


def unet_file(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def truncate(folder: Path) -> None:
    file = unet_file(folder)
    file.write_bytes(file.read_bytes()[:-1000])


def to_pickle(folder: Path) -> None:
    file = unet_file(folder)
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def edit_weights(file: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Replace, add or (None) remove tensors."""
    weights: dict[str, torch.Tensor | None] = {**load_file(file), **change}
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, file, metadata={"format": "pt"})


def replace_unet(folder: Path, **config: Any) -> None:
    shutil.rmtree(folder / "unet")
    tiny_unet(**config).save_pretrained(folder / "unet")


def lose_shard(folder: Path) -> None:
    shard(folder / "unet")
    next((folder / "unet").glob("*-00002-of-*.safetensors")).unlink()


def old_attention_names(file: Path) -> None:
    """Rename a VAE's attention weights to what diffusers called them before 0.12."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, weight in load_file(file).items():
        for new, old in names.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = weight
    save_file(renamed, file, metadata={"format": "pt"})


# name: (what breaks a v1-1 checkpoint, words that the error must have)
BROKEN: dict[str, tuple[Any, tuple[str, ...]]] = {
    "pickle only": (to_pickle, ("unet/diffusion_pytorch_model.bin", "pickle", "save_pretrained")),
    "truncated": (truncate, ("unet/diffusion_pytorch_model.safetensors", "truncated")),
    "empty file": (
        lambda f: unet_file(f).write_bytes(b""),
        ("unet/diffusion_pytorch_model.safetensors", "not a safetensors file"),
    ),
    "Git LFS pointer": (
        lambda f: unet_file(f).write_text("version https://git-lfs.github.com/spec/v1\n"),
        ("unet/diffusion_pytorch_model.safetensors", "git lfs pull"),
    ),
    "no weights": (lambda f: unet_file(f).unlink(), ("unet/", "no .safetensors weights")),
    "no unet folder": (lambda f: shutil.rmtree(f / "unet"), ("unet/", "missing")),
    "no vae folder": (lambda f: shutil.rmtree(f / "vae"), ("vae/", "missing")),
    "no scheduler folder": (lambda f: shutil.rmtree(f / "scheduler"), ("scheduler/", "missing")),
    "no unet config": (
        lambda f: (f / "unet" / "config.json").unlink(),
        ("unet/config.json", "missing"),
    ),
    "broken JSON": (
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text("{"),
        ("scheduler/scheduler_config.json", "not valid JSON"),
    ),
    "no text encoder": (
        lambda f: shutil.rmtree(f / "text_encoder"),
        ("text_encoder/", "empty prompt"),
    ),
    "channels in config": (
        lambda f: edit_json(f / "unet" / "config.json", in_channels=4),
        ("unet/config.json says 4", "has 8 in_channels"),
    ),
    "plain Stable Diffusion": (
        lambda f: replace_unet(f, in_channels=4),
        ("unet/diffusion_pytorch_model.safetensors", "4 in_channels"),
    ),
    "intrinsic images by channels": (
        lambda f: replace_unet(f, in_channels=12, out_channels=8),
        ("unet/diffusion_pytorch_model.safetensors", "12 in_channels"),
    ),
    "intrinsic images without names": (
        lambda f: edit_json(f / "model_index.json", target_properties={"albedo": {}}),
        ("model_index.json", "target_names"),
    ),
    "intrinsic images in another space": (
        lambda f: edit_json(
            f / "model_index.json",
            target_properties=APPEARANCE | {"albedo": {"prediction_space": "acescg"}},
        ),
        ("model_index.json", "albedo", "prediction_space", "acescg"),
    ),
    "a map that would be written elsewhere": (
        lambda f: edit_json(
            f / "model_index.json", target_properties={"target_names": ["../../albedo"]}
        ),
        ("model_index.json", "target_names", "letters"),
    ),
    "two maps of one name": (
        lambda f: edit_json(
            f / "model_index.json", target_properties={"target_names": ["albedo", "Albedo"]}
        ),
        ("model_index.json", "albedo"),
    ),
    "a stack of nothing": (
        lambda f: edit_json(
            f / "model_index.json",
            target_properties=APPEARANCE | {"material": {"prediction_space": "stack"}},
        ),
        ("model_index.json", "material"),
    ),
    "intrinsic images of another number": (
        lambda f: edit_json(f / "model_index.json", target_properties=APPEARANCE),
        ("unet/diffusion_pytorch_model.safetensors", "8 in_channels", "intrinsics has 12"),
    ),
    "another prediction": (
        lambda f: edit_json(f / "model_index.json", prediction_type="disparity"),
        ("model_index.json", "disparity", "depth, normals and intrinsic images"),
    ),
    "Lotus": (
        lambda f: replace_unet(
            f, class_embed_type="projection", projection_class_embeddings_input_dim=4
        ),
        ("unet/config.json", "class_embed_type", "Lotus"),
    ),
    "GeoWizard": (
        lambda f: edit_json(
            f / "model_index.json",
            _class_name="DepthNormalEstimationPipeline",
            prediction_type=...,
            image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        ),
        ("model_index.json", "image_encoder", "GeoWizard"),
    ),
    "DepthMaster": (
        lambda f: edit_weights(unet_file(f), {"fft_block.weight": torch.zeros(4)}),
        ("unet/diffusion_pytorch_model.safetensors", "fft_block.weight"),
    ),
    "missing weight": (
        lambda f: edit_weights(unet_file(f), {"conv_norm_out.weight": None}),
        ("unet/diffusion_pytorch_model.safetensors", "lacks conv_norm_out.weight"),
    ),
    "wrong shape": (
        lambda f: edit_weights(unet_file(f), {"conv_norm_out.weight": torch.ones(3)}),
        ("unet/diffusion_pytorch_model.safetensors", "conv_norm_out.weight", "shape"),
    ),
    "missing text weight": (
        lambda f: edit_weights(
            f / "text_encoder" / "model.safetensors", {"text_model.final_layer_norm.weight": None}
        ),
        ("text_encoder/model.safetensors", "final_layer_norm.weight"),
    ),
    "text encoder of zeros": (
        lambda f: edit_weights(
            f / "text_encoder" / "model.safetensors",
            {"text_model.final_layer_norm.weight": torch.zeros(TEXT_WIDTH)},
        ),
        ("text_encoder/model.safetensors", "zero"),
    ),
    "text encoder of another model": (
        lambda f: write_nano_text_encoder(f, 64),
        ("64", "cross_attention_dim is 32"),
    ),
    "epsilon at zero SNR": (
        lambda f: edit_json(f / "scheduler" / "scheduler_config.json", prediction_type="epsilon"),
        ("scheduler/scheduler_config.json", "epsilon", "rescale_betas_zero_snr"),
    ),
    "flow matching": (
        lambda f: edit_json(
            f / "scheduler" / "scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"
        ),
        ("scheduler/scheduler_config.json", "FlowMatchEulerDiscreteScheduler"),
    ),
    "VAE with 16 latent channels": (
        lambda f: edit_json(f / "vae" / "config.json", latent_channels=16),
        ("vae/config.json", "16 latent channels"),
    ),
    "unknown block": (
        lambda f: edit_json(f / "unet" / "config.json", mid_block_type="MarsBlock"),
        ("unet/config.json", "MarsBlock"),
    ),
    "missing shard": (lose_shard, ("unet/", "00002-of-00002.safetensors is missing")),
}


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2))


def edit_json(file: Path, **change: Any) -> None:
    """Set keys of a JSON file; `...` removes one."""
    content = json.loads(file.read_text()) | change
    write_json(file, {key: value for key, value in content.items() if value is not ...})
