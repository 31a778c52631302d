"""3 x 3 convolutions in fewer operations, for inference in float32 on x86 CPUs.

There torch's own (oneDNN's) run at the speed of the processor's matrix products where the picture
is large, so that only an algorithm with fewer products is faster. Everywhere else, and where
gradients are wanted, `convolve` is torch's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

# Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray 2015, arXiv 1509.09308, section 4.2):
# a tile of 6 x 6 pixels, enlarged by its neighbours, gives 4 x 4 results with 36 products where the
# definition has 144. One side of a tile: 6 pixels in, 3 weights, 4 results.
_PIXELS = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_WEIGHTS = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_RESULTS = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
# Both sides of a tile in one matrix: a product with it is faster than sums of strided slices.
PIXELS, WEIGHTS, RESULTS = (torch.kron(one, one) for one in (_PIXELS, _WEIGHTS, _RESULTS))
TILE, SIDE = 4, 6
# Fewer channels or pixels do not earn what the transforms cost.
LEAST_CHANNELS = 128
LEAST_PIXELS = 640
# Where weights outnumber pixels, torch spends its time on bringing the weights into another order.
MANY_WEIGHTS = 1280**2
FEW_PIXELS = range(32, 257)
# Tiles that are transformed and multiplied together: enough for an efficient product, and few
# enough to stay in the processor's cache meanwhile.
TILES_AT_ONCE = 128
# Of filters that are transformed together. Beyond 32 MB glibc asks the system for fresh memory each
# time, which takes longer than the arithmetic.
FILTER_BYTES = 2**23


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What F.conv2d(x, weight, bias, padding=1) returns, up to rounding.

    x: (B, C, H, W). weight: (O, C, 3, 3).
    """
    out, channels = weight.shape[:2]
    if (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkl.is_available()
    ):
        pixels = len(x) * x.shape[2] * x.shape[3]
        if min(out, channels) >= LEAST_CHANNELS and pixels >= LEAST_PIXELS:
            return _winograd(x, weight, bias)
        if out * channels >= MANY_WEIGHTS and pixels in FEW_PIXELS:
            return _product(x, weight, bias)
    return F.conv2d(laid_out(x, weight), weight, bias, padding=1)


def laid_out(x: Tensor, weight: Tensor) -> Tensor:
    """x in the order of the weights, where these are larger than it.

    Torch brings weights into the order of x (channels last or not) at every call. Deep in the
    U-Net that took half of the time, with ten members of a small picture.
    """
    return x.contiguous() if weight.is_contiguous() and weight.numel() > x.numel() else x


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One matrix product: all weights with every pixel's 3 x 3 neighbours."""
    neighbours = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
    values = weight.flatten(1) @ neighbours
    if bias is not None:
        values += bias[:, None]
    return values.view(len(weight), len(x), *x.shape[2:]).transpose(0, 1)


def _winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    batch, channels, height, width = x.shape
    out = len(weight)
    high, wide = -(-height // TILE), -(-width // TILE)  # tiles
    padded = x.new_empty(batch, high * TILE + 2, wide * TILE + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    for border in (
        padded[:, :1],
        padded[:, height + 1 :],
        padded[:, :, :1],
        padded[:, :, width + 1 :],
    ):
        border.zero_()
    tiles = padded.unfold(1, SIDE, TILE).unfold(2, SIDE, TILE).permute(4, 5, 0, 1, 2, 3)
    result = x.new_empty(batch, high, TILE, wide, TILE, out)

    size = max(64, FILTER_BYTES // (4 * SIDE**2 * channels))
    blocks = [slice(start, start + size) for start in range(0, out, size)]
    filters: Iterable[Tensor] = (_filters(weight[block]) for block in blocks)
    rows = max(1, TILES_AT_ONCE // wide)
    pictures = max(1, rows // high)
    if pictures < batch or rows < high:
        filters = list(filters)
    for first in range(0, batch, pictures):
        for top in range(0, high, rows):
            part = tiles[:, :, first : first + pictures, top : top + rows]
            pixels = (PIXELS @ part.reshape(SIDE**2, -1)).view(SIDE**2, -1, channels)
            into = result[first : first + pictures, top : top + rows].permute(2, 4, 0, 1, 3, 5)
            for block, filter in zip(blocks, filters, strict=True):
                products = torch.bmm(pixels, filter).view(SIDE**2, -1)
                target = into[..., block]
                values = (RESULTS @ products).view(target.shape)
                if bias is None:
                    target.copy_(values)
                else:
                    torch.add(values, bias[block], out=target)
    return result.view(batch, high * TILE, wide * TILE, out)[:, :height, :width].permute(0, 3, 1, 2)


def _filters(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (36, C, O), transformed."""
    rows = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (WEIGHTS @ rows).view(SIDE**2, len(weight), -1).transpose(1, 2)
