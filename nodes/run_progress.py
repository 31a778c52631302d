"""Passes the engine's progress on to ComfyUI, with previews, and Cancel to the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
from comfy.cli_args import LatentPreviewMethod
from PIL import Image
from torch import nn

from ..marigold_core import Progress, colorize
from .tensors import eight_bit

PREVIEW_PIXELS = 256


@contextmanager
def interruptible(networks: nn.Module) -> Iterator[None]:
    """Cancel takes effect at the next block of the networks, not only after a step of all members:
    on a CPU one network call can take minutes."""
    hooks = [
        module.register_forward_pre_hook(check_cancel)
        for module in networks.modules()
        if next(module.children(), None) is not None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_cancel(*_: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


class RunProgress:
    """A callback for a run, or for `count` of them with one bar: `picture` is the current one."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.picture = 0
        self.bar = comfy.utils.ProgressBar(1)

    def __call__(self, progress: Progress) -> None:
        check_cancel()
        preview = None
        # Decoding a preview costs time, so only where the user has switched previews on.
        if progress.stage == "denoise" and previews_wanted():
            shown = progress.preview()
            pixels = colorize(shown) if shown.ndim == 2 else eight_bit(shown)
            preview = ("JPEG", Image.fromarray(pixels), PREVIEW_PIXELS)
        done = self.picture * progress.total + progress.step
        self.bar.update_absolute(done, self.count * progress.total, preview)


def previews_wanted() -> bool:
    """ComfyUI's own switch (--preview-method, and in later versions the settings)."""
    method = getattr(latent_preview, "default_preview_method", LatentPreviewMethod.NoPreviews)
    chosen = getattr(comfy.cli_args.args, "preview_method", method)
    return chosen != LatentPreviewMethod.NoPreviews
