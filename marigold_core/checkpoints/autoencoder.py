"""Stable Diffusion's autoencoder, for inference, in torch alone.

It takes the weights of diffusers' AutoencoderKL and computes the same; see `layers.py`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor, nn

from .layers import Downsample, Layer, Network, Resnet, SelfAttention, Upsample, normal_silu

# diffusers' defaults of the fields that are read here.
DEFAULTS: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
EPS = 1e-6


def is_known(config: dict[str, Any]) -> bool:
    """Whether `Autoencoder` implements the configuration; if not, diffusers' network does."""
    used = DEFAULTS | config
    levels = len(used["block_out_channels"])
    return (
        used["act_fn"] == "silu"
        and used["down_block_types"] == ["DownEncoderBlock2D"] * levels
        and used["up_block_types"] == ["UpDecoderBlock2D"] * levels
    )


class Encoded(NamedTuple):
    latents: Tensor


class Decoded(NamedTuple):
    sample: Tensor


class Autoencoder(Network):
    """config: the checked fields of vae/config.json, for which `is_known` is true.

    `fold` must be called before the first use.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = used = SimpleNamespace(**DEFAULTS | config)
        latent = used.latent_channels
        self.encoder = Encoder(used)
        self.decoder = Decoder(used)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if used.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if used.use_post_quant_conv else None

    def encode(self, x: Tensor) -> Encoded:
        """(B, 3, H, W) -> the posterior's mean (B, 4, h, w), not scaled."""
        h = self.encoder.conv_in(x)
        for block in self.encoder.down_blocks:
            h = self.through(block, h)
        h = self.through(self.encoder.mid_block, h)
        h = self.encoder.conv_out(normal_silu(self.encoder.conv_norm_out, h))
        h = h if self.quant_conv is None else self.quant_conv(h)
        return Encoded(h.chunk(2, 1)[0])

    def decode(self, z: Tensor, return_dict: bool = False) -> Decoded:
        """(B, 4, h, w), not scaled -> (B, 3, H, W)."""
        h = z if self.post_quant_conv is None else self.post_quant_conv(z)
        h = self.through(self.decoder.mid_block, self.decoder.conv_in(h))
        # Layer by layer: the activations of the whole last block are the most of all networks'.
        block: Any
        for block in self.decoder.up_blocks:
            for layer in block.layers():
                h = self.through(layer, h)
        return Decoded(self.through(self.decoder.output, h))


class Encoder(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        width = widths[0]
        for level, out in enumerate(widths):
            block = Block(width, out, config.layers_per_block, groups)
            if level < len(widths) - 1:
                block.downsamplers = nn.ModuleList([Downsample(out, padding=0)])
            self.down_blocks.append(block)
            width = out
        self.mid_block = MiddleBlock(width, groups, config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, width, EPS)
        self.conv_out = nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)


class Decoder(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        width = widths[0]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid_block = MiddleBlock(width, groups, config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList()
        for level, out in enumerate(widths):
            block = Block(width, out, config.layers_per_block + 1, groups)
            if level < len(widths) - 1:
                block.upsamplers = nn.ModuleList([Upsample(out)])
            self.up_blocks.append(block)
            width = out
        self.conv_norm_out = nn.GroupNorm(groups, width, EPS)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def output(self, h: Tensor) -> Tensor:
        return self.conv_out(normal_silu(self.conv_norm_out, h))  # type: ignore[no-any-return]


class Block(nn.Module):
    """The ResNets of one size, and the way to the next."""

    def __init__(self, channels: int, out: int, layers: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            Resnet(channels if layer == 0 else out, out, groups, EPS) for layer in range(layers)
        )
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def layers(self) -> list[Layer]:
        return [*self.resnets, *self.downsamplers, *self.upsamplers]

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers():
            h = layer(h)
        return h


class MiddleBlock(nn.Module):
    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups, EPS) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])

    def forward(self, h: Tensor) -> Tensor:
        first, second = self.resnets
        h = first(h)
        for attention in self.attentions:
            h = attention(h)
        return second(h)  # type: ignore[no-any-return]


class Attention(SelfAttention):
    """Attention with one head among the pixels of (B, C, h, w), beside a shortcut."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        rows = super().forward(self.group_norm(x).flatten(2).transpose(1, 2))
        return x + rows.transpose(1, 2).unflatten(2, x.shape[2:])  # in the layout of x
