"""Configuration files as data: known fields alone, each of the right type and in range.

A checkpoint's JSON files come from a stranger and end in the constructors of diffusers and
transformers, where some values name code to import and others are sizes to allocate. So those
constructors get checked fields and nothing else. Unknown fields are ignored; fields that would
select code, and known ones with a value that this engine does not implement, are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, MarigoldError
from ..files import open_regular

MOST_BYTES = 32 << 20  # the largest that is needed, a tokenizer.json, has 4 MB
SELECTS_CODE = re.compile(
    r"_*(auto_map|custom_pipelines?|custom_generate|quantization_config|use_kernels|kernel_config"
    r"|(attn|attention|experts)_implementation(_internal)?)"
)


@dataclass(frozen=True)
class Field:
    """What a value must be. wanted: the words for it in an error message."""

    wanted: str
    fits: Callable[[Any], bool]


Schema = Mapping[str, Field]


def whole(least: int, most: int) -> Field:
    return Field(
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def number(least: float, most: float) -> Field:
    return Field(
        f"a number from {least:g} to {most:g}",
        lambda value: type(value) in (int, float) and least <= value <= most,
    )


def one_of(*allowed: Any) -> Field:
    """One of these JSON values; true is not 1 here."""
    words = " or ".join(json.dumps(value) for value in allowed)
    return Field(
        words,
        lambda value: any(type(value) is type(one) and value == one for one in allowed),
    )


def either(*fields: Field) -> Field:
    return Field(
        " or ".join(field.wanted for field in fields),
        lambda value: any(field.fits(value) for field in fields),
    )


def several(field: Field, most: int = 16) -> Field:
    return Field(
        f"a list of 1 to {most}, each {field.wanted}",
        lambda value: (
            isinstance(value, list) and 1 <= len(value) <= most and all(map(field.fits, value))
        ),
    )


NULL = one_of(None)
FLAG = one_of(True, False)
TEXT = Field("a text of at most 100 letters", lambda v: isinstance(v, str) and len(v) <= 100)
# Of a map; it becomes part of file names.
NAME = Field(
    "a name of 1 to 32 letters, digits, _ and -",
    lambda value: (
        isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,32}", value) is not None
    ),
)
ANYTHING = Field("anything", lambda value: True)
# Wide enough for any published network, and narrow enough that a network of nothing but the
# largest values is described within seconds.
CHANNELS = whole(1, 16384)
LAYERS = whole(1, 64)


UNET: Schema = {
    "sample_size": either(NULL, whole(1, 4096), several(whole(1, 4096), 2)),
    "in_channels": whole(1, 256),
    "out_channels": whole(1, 256),
    "center_input_sample": FLAG,
    "flip_sin_to_cos": FLAG,
    "freq_shift": number(0, 1),
    "down_block_types": several(one_of("CrossAttnDownBlock2D", "DownBlock2D")),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
    "up_block_types": several(one_of("CrossAttnUpBlock2D", "UpBlock2D")),
    "only_cross_attention": either(FLAG, several(FLAG)),
    "block_out_channels": several(CHANNELS),
    "layers_per_block": either(LAYERS, several(LAYERS)),
    "downsample_padding": whole(0, 1),
    "mid_block_scale_factor": number(0, 100),
    "dropout": number(0, 1),
    "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
    "norm_num_groups": either(NULL, whole(1, 1024)),
    "norm_eps": number(0, 1),
    "cross_attention_dim": CHANNELS,
    "transformer_layers_per_block": either(LAYERS, several(LAYERS)),
    "attention_head_dim": either(whole(1, 1024), several(whole(1, 1024))),
    "num_attention_heads": either(NULL, whole(1, 1024), several(whole(1, 1024))),
    "use_linear_projection": FLAG,
    "upcast_attention": either(NULL, FLAG),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "resnet_skip_time_act": FLAG,
    "resnet_out_scale_factor": number(0, 100),
    "time_embedding_dim": either(NULL, CHANNELS),
    "conv_in_kernel": one_of(1, 3, 5, 7),
    "conv_out_kernel": one_of(1, 3, 5, 7),
    "mid_block_only_cross_attention": either(NULL, FLAG),
    "cross_attention_norm": either(NULL, one_of("layer_norm", "group_norm")),
    # Other networks' inputs, which the engine would not feed.
    "time_embedding_type": one_of("positional"),
    "attention_type": one_of("default"),
    "dual_cross_attention": one_of(False),
    "class_embeddings_concat": one_of(False),
    **dict.fromkeys(
        (
            "reverse_transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type",
            "time_embedding_act_fn", "timestep_post_act", "time_cond_proj_dim",
        ),
        NULL,
    ),
}  # fmt: skip
AUTOENCODER: Schema = {
    "in_channels": one_of(3),
    "out_channels": one_of(3),
    "down_block_types": several(one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
    "up_block_types": several(one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D")),
    "block_out_channels": several(CHANNELS),
    "layers_per_block": LAYERS,
    "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
    "latent_channels": whole(1, 256),
    "norm_num_groups": whole(1, 1024),
    "sample_size": whole(1, 4096),
    "scaling_factor": number(1e-6, 1e6),
    # Latents are scaled here, not shifted.
    "shift_factor": either(NULL, one_of(0, 0.0)),
    "latents_mean": NULL,
    "latents_std": NULL,
    "force_upcast": FLAG,
    "use_quant_conv": FLAG,
    "use_post_quant_conv": FLAG,
    "mid_block_add_attention": FLAG,
}
TINY_AUTOENCODER: Schema = {
    "in_channels": one_of(3),
    "out_channels": one_of(3),
    "encoder_block_out_channels": several(CHANNELS),
    "decoder_block_out_channels": several(CHANNELS),
    "act_fn": one_of("relu", "silu", "gelu"),
    "upsample_fn": one_of("nearest"),
    "latent_channels": whole(1, 256),
    "upsampling_scaling_factor": one_of(2),
    "num_encoder_blocks": several(LAYERS),
    "num_decoder_blocks": several(LAYERS),
    "latent_magnitude": number(1e-3, 1e3),
    "latent_shift": number(0, 1e3),
    "force_upcast": FLAG,
    "scaling_factor": number(1e-6, 1e6),
    "shift_factor": either(NULL, one_of(0, 0.0)),
}
TEXT_ENCODER: Schema = {
    "vocab_size": whole(1, 1_000_000),
    "hidden_size": CHANNELS,
    "intermediate_size": whole(1, 65536),
    "projection_dim": either(NULL, CHANNELS),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": whole(1, 1024),
    "max_position_embeddings": whole(2, 8192),
    "hidden_act": one_of("gelu", "quick_gelu", "gelu_new", "relu", "silu"),
    "layer_norm_eps": number(0, 1),
    "attention_dropout": number(0, 1),
    "pad_token_id": either(NULL, whole(0, 1_000_000)),
    "bos_token_id": either(NULL, whole(0, 1_000_000)),
    "eos_token_id": either(NULL, whole(0, 1_000_000)),
}
SCHEDULER: Schema = {
    "_class_name": TEXT,
    "num_train_timesteps": whole(1, 100_000),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "beta_schedule": TEXT,
    # A list would replace the three above; no published checkpoint has one.
    "trained_betas": NULL,
    "clip_sample": FLAG,
    "clip_sample_range": number(0, 1e6),
    "thresholding": FLAG,
    "dynamic_thresholding_ratio": number(0, 1),
    "sample_max_value": number(0, 1e6),
    "set_alpha_to_one": FLAG,
    "steps_offset": whole(0, 1000),
    "prediction_type": TEXT,
    "timestep_spacing": TEXT,
    "rescale_betas_zero_snr": FLAG,
    "original_inference_steps": whole(1, 100_000),
    "timestep_scaling": number(0, 1e6),
}
MODEL_INDEX: Schema = {
    "_class_name": either(NULL, TEXT),
    "default_denoising_steps": either(NULL, whole(1, 1000)),
    "default_processing_resolution": either(NULL, whole(0, 16384)),
    "scale_invariant": either(NULL, FLAG),
    "shift_invariant": either(NULL, FLAG),
    "prediction_type": either(NULL, TEXT),
    "target_properties": ANYTHING,
    "use_full_z_range": either(NULL, FLAG),
    # [library, class] of each component; only whether it is there is read.
    **dict.fromkeys(("unet", "vae", "scheduler", "text_encoder", "image_encoder"), ANYTHING),
}
# What model_index.json says about intrinsic images: the latents, and under each map's name this.
TARGET_PROPERTIES: Schema = {"target_names": several(NAME, 8)}
TARGET_PROPERTY: Schema = {
    "prediction_space": one_of("srgb", "linear", "stack"),
    "sub_target_names": either(NULL, several(either(NULL, NAME), 3)),
    "up_to_scale": either(NULL, FLAG),
}


def checked(content: Mapping[str, Any], schema: Schema, label: str) -> dict[str, Any]:
    """The fields of `schema` that `content` has. label: the file's name in error messages.

    Raises CheckpointError for a value that does not fit, and for a field that selects code.
    """
    for name, value in content.items():
        if SELECTS_CODE.fullmatch(name) and value is not None:
            raise CheckpointError(
                f"{label} has {name}, which selects code to run; a checkpoint is only data here. "
                "Remove that line if you trust the rest."
            )
    for name in schema.keys() & content.keys():
        if not schema[name].fits(content[name]):
            shown = json.dumps(content[name])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise CheckpointError(f"{label}: {name} is {shown}; it must be {schema[name].wanted}.")
    return {name: content[name] for name in schema if name in content}


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError that names the file."""
    label = short_name(file)
    try:
        with open_regular(file) as opened:
            raw = opened.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise CheckpointError(
                f"{label} is longer than {MOST_BYTES >> 20} MB; download it again."
            )
        content = json.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{label} is missing in {file.parent}; copy or download it again."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    except CheckpointError:
        raise
    except MarigoldError as error:  # a pipe or a device
        raise CheckpointError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{label} is not valid JSON ({error}); copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{label} is not a JSON object; download it again.")
    return content


def short_name(file: Path) -> str:
    """The folder's and the file's name: enough to find it, short enough for one line."""
    return f"{file.parent.name}/{file.name}"
