"""The engine's reports to ComfyUI's progress bar, with a preview of each step; and its Cancel."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import latent_preview
from comfy.cli_args import LatentPreviewMethod
from PIL import Image

from ..marigold_core import Progress, colorize

PREVIEW_PIXELS = 256


class RunProgress:
    """A callback for the pictures of one batch, one bar for them all."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.picture = 0
        self.bar = comfy.utils.ProgressBar(1)

    def __call__(self, progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        # Decoding a preview costs time, so only where somebody has asked for previews.
        if progress.stage == "denoise" and previews_wanted():
            shown = Image.fromarray(colorize(progress.preview()))
            preview = ("JPEG", shown, PREVIEW_PIXELS)
        done = self.picture * progress.total + progress.step
        self.bar.update_absolute(done, self.count * progress.total, preview)


def previews_wanted() -> bool:
    """ComfyUI's own switch (--preview-method, and in later versions the settings)."""
    method = getattr(latent_preview, "default_preview_method", LatentPreviewMethod.NoPreviews)
    chosen = getattr(comfy.cli_args.args, "preview_method", method)
    return chosen != LatentPreviewMethod.NoPreviews
