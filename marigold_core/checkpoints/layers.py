"""Layers of Stable Diffusion's networks, for inference with one prompt and one timestep.

Modules and weights have diffusers' names. Arithmetic that is the same in every run is done once,
by `fold`, when the weights are loaded. Pictures are (B, C, H, W), rows of pixels (B, H * W, C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .convolution import convolve, laid_out

Layer = Callable[..., Tensor]


def normal_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.silu(norm(x), inplace=True)


class Network(nn.Module):
    """A network with diffusers' switch for gradient checkpointing."""

    is_gradient_checkpointing = False

    def enable_gradient_checkpointing(self) -> None:
        self.is_gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        self.is_gradient_checkpointing = False

    def through(self, block: Layer, *inputs: Tensor) -> Tensor:
        """block(*inputs), whose activations are computed again for gradients where asked."""
        if self.is_gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*inputs)

    def fold(self, prompt: Tensor) -> None:
        """Do the arithmetic that no input changes, in place. prompt: (1, L, D)."""
        for module in self.modules():
            if isinstance(module, Upsample):
                module.fold()
            elif isinstance(module, PromptAttention):
                module.fold(prompt)


class Resnet(nn.Module):
    """Two convolutions beside a shortcut. time_width: None has no timestep (in the VAE)."""

    def __init__(
        self, channels: int, out: int, groups: int, eps: float, time_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, out)
        self.norm2 = nn.GroupNorm(groups, out, eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = None if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """time: (1, time_width), after its SiLU."""
        bias = self.conv1.bias
        if self.time_emb_proj is not None and bias is not None:
            # All members are at one timestep, so that its embedding is part of the bias.
            bias = bias + self.time_emb_proj(time)[0]
        h = convolve(normal_silu(self.norm1, x), self.conv1.weight, bias)
        h = convolve(normal_silu(self.norm2, h), self.conv2.weight, self.conv2.bias)
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Downsample(nn.Module):
    """Half the size. The VAE pads on the right and below alone (padding 0), the U-Net around."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.padding == (0, 0):
            x = F.pad(x, (0, 1, 0, 1))
        return self.conv(laid_out(x, self.conv.weight))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Twice the size: each pixel four times, then a convolution.

    Folded into one transposed convolution with stride 2: a 3 x 3 kernel sees only 2 x 2 different
    pixels of an enlarged picture, so 4 products for each output do what 9 did.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv: Any = nn.Conv2d(channels, channels, 3, padding=1)

    @torch.no_grad()
    def fold(self) -> None:
        old = self.conv
        weight: Tensor = old.weight.float().flip(2, 3).transpose(0, 1)
        shifted = [F.pad(weight, (a, 1 - a, b, 1 - b)) for a in (0, 1) for b in (0, 1)]
        with torch.device("meta"):
            self.conv = nn.ConvTranspose2d(
                old.in_channels, old.out_channels, 4, stride=2, padding=1
            )
        self.conv.weight = frozen(torch.stack(shifted).sum(0).to(old.weight.dtype))
        self.conv.bias = old.bias

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """size: of the result, where a side is 2 h - 1 because 2 h - 1 was halved to h."""
        x = laid_out(x, self.conv.weight)
        y: Tensor = self.conv(x)
        if size is None or size == tuple(y.shape[2:]):
            return y
        # The picture ends within a pixel that was repeated, where the folded kernel takes what lies
        # outside for that pixel again. Its own weights for there are the first row and column.
        height, width = size
        y = y[:, :, :height, :width]
        first = self.conv.weight
        if height % 2:
            beyond = F.conv_transpose2d(x[:, :, -1:], first[:, :, :1], stride=2, padding=(0, 1))
            y[:, :, -1:] -= beyond[..., :width]
        if width % 2:
            beyond = F.conv_transpose2d(x[..., -1:], first[..., :1], stride=2, padding=(1, 0))
            y[..., -1:] -= beyond[:, :, :height]
        if height % 2 and width % 2:
            corner = first[:, :, 0, 0]
            y[..., -1, -1] += x[..., -1, -1] @ corner  # subtracted twice
        return y


def frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


class SelfAttention(nn.Module):
    """Softmax attention among the rows (B, P, C). bias: of the three projections."""

    def __init__(self, channels: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias)
        self.to_k = nn.Linear(channels, channels, bias)
        self.to_v = nn.Linear(channels, channels, bias)
        self.to_out: Any = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, rows: Tensor) -> Tensor:
        q, k, v = (
            to(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class PromptAttention(nn.Module):
    """Softmax attention of rows (B, P, C) to the prompt's L tokens.

    With a constant prompt it is two thin matrices, C x heads L and back, instead of two of C x C
    and two of D x C: q . k = x (Wq' k), and Wo (p v) = p (Wo v) for each head and token.
    """

    def __init__(self, channels: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(width, channels, bias=False)
        self.to_v = nn.Linear(width, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    @torch.no_grad()
    def fold(self, prompt: Tensor) -> None:
        text = prompt[0].to(self.to_k.weight.device, torch.float32)
        output: Any = self.to_out[0]
        out = output.weight.float().unflatten(1, (self.heads, -1))
        query = self.to_q.weight.float().unflatten(0, (self.heads, -1))
        key, value = (
            F.linear(text, to.weight.float()).unflatten(1, (self.heads, -1))
            for to in (self.to_k, self.to_v)
        )
        scale = query.shape[1] ** -0.5
        logits = torch.einsum("hdc,lhd->hlc", query, key).flatten(0, 1) * scale
        values = torch.einsum("chd,lhd->chl", out, value).flatten(1)
        dtype = self.to_q.weight.dtype
        self.logits, self.values = frozen(logits.to(dtype)), frozen(values.to(dtype))
        self.bias: Any = output.bias
        del self.to_q, self.to_k, self.to_v, self.to_out

    def forward(self, rows: Tensor) -> Tensor:
        logits = F.linear(rows, self.logits).unflatten(-1, (self.heads, -1))
        return F.linear(logits.softmax(-1).flatten(-2), self.values, self.bias)
