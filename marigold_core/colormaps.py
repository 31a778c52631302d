"""Colour maps for looking at depth, without matplotlib."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MarigoldError

# Anchors, evenly spaced from 0 to 1, as RGB hex; levels between them are linear.
# Spectral: the 11 colours of ColorBrewer's (Cynthia Brewer, Mark Harrower, Penn State;
#   Apache-2.0), which makes its 256 levels the same as matplotlib's.
# magma, viridis: Nathaniel Smith, Stefan van der Walt, Eric Firing (CC0). turbo: Anton Mikhailov,
#   Google (Apache-2.0). Every fifth of their 256 levels, which is within 1/255 of all of them.
_ANCHORS = {
    "Spectral": "9e0142d53e4ff46d43fdae61fee08bffffbfe6f598abdda466c2a53288bd5e4fa2",
    "gray": "000000ffffff",
    "magma": (
        "00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f754a107952137c"
        "5a167e6219806a1c81721f81792282812581892881912b81992d80a1307eaa337db2357bba3878c23b75ca3e"
        "72d2426fd9466be04c67e75263ec5860f1605df4695cf7725cf97b5dfb8560fc8e64fd9869fea16efeaa74fe"
        "b47bfebd82fec68afecf92fed89afde2a3fdebacfcf4b6fcfdbf"
    ),
    "viridis": (
        "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b3859"
        "8c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891f"
        "a18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac86465cb5e70cf577cd25089d54895d840"
        "a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
    ),
    "turbo": (
        "30123b36215f3b2f803f3e9c424bb54559cb4666dd4773eb4680f6458cfd4099ff38a5fb2fb2f427bee91fc9"
        "dd1ad4d018ddc21ae4b622ebaa2ff19b3ff68a52fa7a65fd6979fe598bff4b9cfe40a9fb39b7f735c3f134d0"
        "ea34dbe236e5d938eecf3af5c53afaba39fdae35fea130fe932afc8423f9751df46617ef5811e84b0ce14109"
        "d83706ce2d04c32503b71d02a916019b0f018b09027a0403"
    ),
}
COLORMAPS = tuple(_ANCHORS)


def colorize(values: NDArray[np.floating[Any]], colormap: str = "Spectral") -> NDArray[np.uint8]:
    """(H, W) in [0, 1] -> uint8 (H, W, 3), RGB.

    "Spectral" is Marigold's own: 0 (near) = red, 1 (far) = blue. Values outside [0, 1] take the
    end colours, those that are not numbers black. Raises MarigoldError for an unknown `colormap`.
    """
    if colormap not in _ANCHORS:
        raise MarigoldError(
            f"There is no colour map {colormap!r}; choose from {', '.join(COLORMAPS)}."
        )
    values = np.asarray(values, dtype=np.float32)
    missing = np.isnan(values)
    # As matplotlib does: level n of 256 covers [n/256, (n + 1)/256).
    levels = (np.where(missing, 0, values).clip(0, 1) * 256).clip(max=255).astype(np.uint8)
    picture = _levels(colormap)[levels]
    picture[missing] = 0
    return picture


@cache
def _levels(colormap: str) -> NDArray[np.uint8]:
    """(256, 3) uint8. Cut down, not rounded, and in this order of operations: matplotlib's."""
    anchors = np.frombuffer(bytes.fromhex(_ANCHORS[colormap]), dtype=np.uint8).reshape(-1, 3) / 255
    at = np.linspace(0, 1, len(anchors))
    levels = [np.interp(np.linspace(0, 1, 256), at, channel) for channel in anchors.T]
    return (np.stack(levels, axis=1) * 255).astype(np.uint8)
