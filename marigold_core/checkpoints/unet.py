"""Stable Diffusion's U-Net, for inference with one prompt, in torch alone.

It takes the weights of diffusers' UNet2DConditionModel and computes the same (Rombach et al. 2022,
arXiv 2112.10752, section 3.3), without diffusers' import and in fewer operations; see `layers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import (
    Downsample,
    Layer,
    Network,
    PromptAttention,
    Resnet,
    SelfAttention,
    Upsample,
    normal_silu,
)

# diffusers' defaults of the fields that are read here.
DEFAULTS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "use_linear_projection": False,
}
# Fields of which this network knows one value, diffusers' default and that of Stable Diffusion.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "transformer_layers_per_block": 1,
    "num_attention_heads": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1,
    "time_embedding_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
}


def is_known(config: dict[str, Any]) -> bool:
    """Whether `UNet` implements the configuration; if not, diffusers' network does."""
    used = DEFAULTS | config
    widths, heads = used["block_out_channels"], used["attention_head_dim"]
    levels = len(widths)
    heads = [heads] * levels if isinstance(heads, int) else heads
    return (
        all(config.get(name, value) == value for name, value in FIXED.items())
        and not config.get("mid_block_only_cross_attention")
        and isinstance(used["layers_per_block"], int)
        and isinstance(used["norm_num_groups"], int)
        and len(used["down_block_types"]) == len(used["up_block_types"]) == levels
        and len(heads) == levels
        and not any(width % count for width, count in zip(widths, heads, strict=True))
    )


class Denoised(NamedTuple):
    sample: Tensor


class UNet(Network):
    """config: the checked fields of unet/config.json, for which `is_known` is true.

    `fold` must be called before the first use.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = used = SimpleNamespace(**DEFAULTS | config)
        widths = used.block_out_channels
        heads = used.attention_head_dim
        heads = [heads] * len(widths) if isinstance(heads, int) else heads
        time_width = 4 * widths[0]
        common = used.norm_num_groups, used.norm_eps, time_width

        def resnet(channels: int, out: int) -> Resnet:
            return Resnet(channels, out, *common)

        def transformer(level: int) -> Transformer:
            return Transformer(
                widths[level], heads[level], used.cross_attention_dim, used.norm_num_groups,
                used.use_linear_projection,
            )  # fmt: skip

        self.conv_in = nn.Conv2d(used.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time_width)
        width, skips = widths[0], [widths[0]]
        self.down_blocks = nn.ModuleList()
        last = len(widths) - 1
        for level, (kind, out) in enumerate(zip(used.down_block_types, widths, strict=True)):
            block = Block()
            for _ in range(used.layers_per_block):
                block.add(resnet(width, out), transformer(level) if "CrossAttn" in kind else None)
                width = out
                skips.append(out)
            if level < last:
                block.downsamplers = nn.ModuleList([Downsample(out, padding=1)])
                skips.append(out)
            self.down_blocks.append(block)
        self.mid_block = MiddleBlock(resnet(width, width), transformer(last), resnet(width, width))
        self.up_blocks = nn.ModuleList()
        for level, kind in zip(range(last, -1, -1), used.up_block_types, strict=True):
            block = Block()
            for _ in range(used.layers_per_block + 1):
                out = widths[level]
                attention = transformer(level) if "CrossAttn" in kind else None
                block.add(resnet(width + skips.pop(), out), attention)
                width = out
            if level > 0:
                block.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(used.norm_num_groups, width, used.norm_eps)
        self.conv_out = nn.Conv2d(width, used.out_channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Any = None
    ) -> Denoised:
        """sample: (B, C, h, w); timestep: one for all. The prompt was folded in and is not read."""
        time = self.time_embedding(timestep.reshape(1), sample.dtype)
        h = self.conv_in(sample)
        skips = [h]
        block: Any
        for block in self.down_blocks:
            for layer in block.layers():
                h = self.through(layer, h, time)
                skips.append(h)
            for downsample in block.downsamplers:
                h = downsample(h)
                skips.append(h)
        h = self.through(self.mid_block, h, time)
        for block in self.up_blocks:
            for layer in block.layers():
                h = self.through(layer, torch.cat([h, skips.pop()], 1), time)
            for upsample in block.upsamplers:
                h = upsample(h, tuple(skips[-1].shape[2:]))
        return Denoised(self.conv_out(normal_silu(self.conv_norm_out, h)))


class TimeEmbedding(nn.Module):
    """A timestep as sines and cosines, then two layers, up to the SiLU that all users apply."""

    def __init__(self, waves: int, width: int) -> None:
        super().__init__()
        self.waves = waves
        self.linear_1 = nn.Linear(waves, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """(1,) -> (1, width)."""
        half = self.waves // 2
        rates = torch.arange(half, device=timestep.device, dtype=torch.float32) / half
        angles = timestep[:, None].float() * (-math.log(10000) * rates).exp()
        waves = F.pad(torch.cat([angles.cos(), angles.sin()], -1), (0, self.waves % 2))
        return F.silu(self.linear_2(F.silu(self.linear_1(waves.to(dtype)))))


class Block(nn.Module):
    """The layers of one size, each a ResNet and perhaps a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.resnets = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def add(self, resnet: Resnet, transformer: Transformer | None) -> None:
        self.resnets.append(resnet)
        if transformer is not None:
            self.attentions.append(transformer)

    def layers(self) -> Iterator[Layer]:
        for number, resnet in enumerate(self.resnets):
            yield partial(_layer, resnet, self.attentions[number] if self.attentions else None)


def _layer(resnet: nn.Module, transformer: nn.Module | None, h: Tensor, time: Tensor) -> Tensor:
    h = resnet(h, time)
    return h if transformer is None else transformer(h)


class MiddleBlock(nn.Module):
    def __init__(self, first: Resnet, transformer: Transformer, second: Resnet) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([first, second])
        self.attentions = nn.ModuleList([transformer])

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        first, second = self.resnets
        return second(self.attentions[0](first(h, time)), time)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """One transformer block on the pixels of (B, C, h, w), beside a shortcut."""

    def __init__(self, channels: int, heads: int, width: int, groups: int, linear: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        # Stable Diffusion 1 has convolutions of one pixel, which are the same.
        projections = [
            nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
            for _ in range(2)
        ]
        self.proj_in, self.proj_out = projections
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, width)])

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x).flatten(2).transpose(1, 2)
        rows = F.linear(rows, self.proj_in.weight.flatten(1), self.proj_in.bias)
        rows = self.transformer_blocks[0](rows)
        rows = F.linear(rows, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + rows.transpose(1, 2).unflatten(2, x.shape[2:])  # in the layout of x


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = PromptAttention(channels, heads, width)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.attn1(self.norm1(rows))
        rows = rows + self.attn2(self.norm2(rows))
        return rows + self.ff(self.norm3(rows))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two layers, the first with a gate (GEGLU)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        gated: Any = nn.Module()
        gated.proj = nn.Linear(channels, 8 * channels)
        self.net: Any = nn.ModuleList([gated, nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, rows: Tensor) -> Tensor:
        values, gate = self.net[0].proj(rows).chunk(2, -1)
        return self.net[2](values * F.gelu(gate))  # type: ignore[no-any-return]
