"""What a caller chooses about one run, checked once. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from .errors import MarigoldError

SPACINGS = ("trailing", "leading", "linspace")
METHODS = ("closed_form", "paper")
REDUCTIONS = ("median", "mean", "closest")
MOST_STEPS = 1000
MOST_MEMBERS = 1024
MOST_PIXELS = 16384  # of a side; a U-Net of this size needs more memory than any device has
MOST_SEED = 2**64 - 1  # torch takes 64 bits


@dataclass(frozen=True)
class Options:
    """The settings of one run; None is the checkpoint's own value.

    num_inference_steps: denoising steps, 1 to 1000. ensemble_size: members to denoise and merge,
    1 to 1024; with `latents`, as many as there are. processing_resolution: pixels of the longer
    side while processing, smaller or larger than the picture's; 0 is the picture's own size.

    seed: of a generator on the CPU, 0 to 2**64 - 1, which gives the same noise on every device;
    or generator: a torch.Generator, or one for each member, as in diffusers; or latents: the
    initial noise itself, of `Marigold.latent_shape`. None of them: noise that differs every time.
    A member's noise does not depend on batch_size: the members to denoise at once, None is what
    fits in memory, and is halved where that was too many.

    timestep_spacing: "trailing" (None), "leading" (to reproduce old results) or "linspace".

    match_input_resolution: False leaves the result at the processing resolution.
    reduction: how members are merged, None is the target's own: "median" or "mean" for depth and
    intrinsic images, "closest" or "mean" for normals; see `ensemble_depth`, `ensemble_normals` and
    `ensemble_intrinsics`. ensemble_method: how depth is aligned, see `ensemble_depth`.

    Raises MarigoldError that names the field.
    """

    num_inference_steps: int | None = None
    ensemble_size: int | None = None
    processing_resolution: int | None = None
    seed: int | None = None
    generator: Any = None
    latents: Any = None
    batch_size: int | None = None
    timestep_spacing: str | None = None
    match_input_resolution: bool = True
    ensemble_method: str = "closed_form"
    reduction: str | None = None

    def __post_init__(self) -> None:
        _whole_number("num_inference_steps", self.num_inference_steps, 1, MOST_STEPS)
        _whole_number("ensemble_size", self.ensemble_size, 1, MOST_MEMBERS)
        _whole_number("processing_resolution", self.processing_resolution, 0, MOST_PIXELS)
        _whole_number("seed", self.seed, 0, MOST_SEED)
        _whole_number("batch_size", self.batch_size, 1, MOST_MEMBERS)
        if self.seed is not None and self.generator is not None:
            raise MarigoldError("seed and generator are both given; give one of them.")
        if not isinstance(self.match_input_resolution, bool):
            raise MarigoldError(
                f"match_input_resolution is {self.match_input_resolution!r}; use True or False."
            )
        for name, words in (
            ("timestep_spacing", (None, *SPACINGS)),
            ("ensemble_method", METHODS),
            ("reduction", (None, *REDUCTIONS)),
        ):
            value = getattr(self, name)
            if value not in words:
                raise MarigoldError(
                    f"{name} is {value!r}; use one of {', '.join(filter(None, words))}."
                )


def _whole_number(name: str, value: Any, least: int, most: int) -> None:
    if value is None:
        return
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not least <= value <= most:
        raise MarigoldError(f"{name} is {value!r}; use a whole number from {least} to {most}.")
