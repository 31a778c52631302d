"""What the worker's methods do: parameters and arrays in, a JSON result and arrays out.

A `model` names the checkpoint and how to load it: {checkpoint, device, dtype, variant, vae, base,
cache_dir, allow_download}, all but the first optional. It comes with every request that needs
networks, so that a request stands alone after a restart; equal to the loaded one, it costs nothing.
"""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..checkpoints.hub import download, list_known
from ..engine import Marigold
from ..ensemble.depth import ensemble_depth
from ..ensemble.sequence import align_sequence
from ..errors import MarigoldError
from ..memory import release_memory
from ..progress import Progress

Report = Callable[..., None]
Arrays = Mapping[str, Any]
Answer = tuple[dict[str, Any], dict[str, Any]]
MODEL_WORDS = ("device", "dtype", "variant", "vae", "base", "cache_dir")


class Session:
    """The loaded networks, and the methods by their names.

    loaded: what `load` answered, None without networks.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, Any] | None = None
        self._marigold: Marigold | None = None
        self._model: dict[str, Any] = {}

    def call(self, method: str, params: dict[str, Any], arrays: Arrays, report: Report) -> Answer:
        """Run one method. report(stage, step, total) raises Cancelled to stop it.

        What the engine warns of is in the result, as a list of sentences. Raises MarigoldError
        for unknown parameters and as the engine does.
        """
        run = getattr(self, method)
        try:
            inspect.signature(run).bind(arrays, report, **params)
        except TypeError as error:
            raise MarigoldError(f"{method}: {error}.") from None
        # A received array looks into the message, read-only; torch wants memory of its own.
        own = {name: np.array(array) for name, array in arrays.items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            result, made = run(own, report, **params)
        # The engine warns as from its caller, which is here; what libraries warn of is not for
        # the user.
        told = [str(one.message) for one in caught if one.filename == __file__]
        return ({**result, "warnings": told} if told else result), made

    def load(self, arrays: Arrays, report: Report, *, model: Any) -> Answer:
        self._load(model, report)
        return dict(self.loaded or {}), {}

    def free(self) -> None:
        """Let go of the networks and of the memory that they took."""
        self._marigold, self.loaded = None, None
        gc.collect()
        release_memory()

    def unload(self, arrays: Arrays, report: Report) -> Answer:
        self.free()
        return {}, {}

    def depth(
        self,
        arrays: Arrays,
        report: Report,
        *,
        model: Any,
        image: str | None = None,
        mask: str | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Answer:
        """The whole run, `Marigold.__call__`: arrays depth, uncertainty, mask; see DepthMap."""
        marigold = self._load(model, report)
        report("encode")
        depth_map = marigold(
            _given("image", image, arrays),
            mask=_given("mask", mask, arrays) if mask or "mask" in arrays else None,
            generator=_generator(seed),
            callback=_callback(report, merges=True),
            **_options(marigold.__call__, options),
        )
        made = {
            "depth": depth_map.depth,
            "uncertainty": depth_map.uncertainty,
            "mask": depth_map.mask,
        }
        result = {
            "width": depth_map.depth.shape[1],
            "height": depth_map.depth.shape[0],
            "scale_invariant": depth_map.scale_invariant,
            "shift_invariant": depth_map.shift_invariant,
            "seconds": depth_map.seconds,
            "model": self.loaded,
        }
        return result, {name: array for name, array in made.items() if array is not None}

    def predict(
        self,
        arrays: Arrays,
        report: Report,
        *,
        model: Any,
        image: str | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Answer:
        """`Marigold.predict`: array predictions (N, h, w)."""
        marigold = self._load(model, report)
        report("encode")
        predictions = marigold.predict(
            _given("image", image, arrays),
            generator=_generator(seed),
            callback=_callback(report),
            **_options(marigold.predict, options),
        )
        return {"model": self.loaded}, {"predictions": predictions.cpu().numpy()}

    def ensemble(self, arrays: Arrays, report: Report, **options: Any) -> Answer:
        """`ensemble_depth` of the arrays predictions and mask: arrays depth, uncertainty."""
        report("merge")
        predictions = _given("predictions", None, arrays)
        depth, uncertainty = ensemble_depth(
            predictions, mask=_mask(arrays), **_options(ensemble_depth, options)
        )
        return {}, {"depth": depth} | ({} if uncertainty is None else {"uncertainty": uncertainty})

    def align(self, arrays: Arrays, report: Report, **options: Any) -> Answer:
        """`align_sequence` of the arrays frames (T, h, w) and mask: array frames."""
        report("merge")
        frames = _given("frames", None, arrays)
        aligned = align_sequence(frames, mask=_mask(arrays), **_options(align_sequence, options))
        return {}, {"frames": aligned}

    def checkpoints(
        self, arrays: Arrays, report: Report, *, cache_dir: str | None = None
    ) -> Answer:
        """What can be named, and where it is on this machine; no network."""
        known = [
            {
                "name": one.name,
                "repo_id": one.repo_id,
                "folder": None if one.folder is None else str(one.folder),
                "size_bytes": one.size_bytes,
            }
            for one in list_known(cache_dir)
        ]
        return {"checkpoints": known}, {}

    def download(
        self,
        arrays: Arrays,
        report: Report,
        *,
        checkpoint: str,
        variant: str | None = None,
        cache_dir: str | None = None,
    ) -> Answer:
        report("download")
        folder = download(checkpoint, variant=variant, cache_dir=cache_dir)
        return {"folder": str(folder)}, {}

    def _load(self, model: Any, report: Report) -> Marigold:
        model = _checked_model(model)
        if self._marigold is not None and model == self._model:
            return self._marigold
        # First, so that two models need never fit at once.
        self.free()
        report("load")
        self._marigold = Marigold.from_pretrained(
            model["checkpoint"],
            local_files_only=not model["allow_download"],
            **{word: model[word] for word in MODEL_WORDS},
        )
        self._model = model
        self.loaded = {
            "checkpoint": model["checkpoint"],
            "device": str(self._marigold.device),
            "dtype": str(self._marigold.dtype).removeprefix("torch."),
            "family": self._marigold.family,
            "num_inference_steps": self._marigold.num_inference_steps,
            "processing_resolution": self._marigold.processing_resolution,
            "ensemble_size": self._marigold.ensemble_size,
            "scale_invariant": self._marigold.scale_invariant,
            "shift_invariant": self._marigold.shift_invariant,
        }
        return self._marigold


def _checked_model(model: Any) -> dict[str, Any]:
    words = ("checkpoint", *MODEL_WORDS, "allow_download")
    if not isinstance(model, dict) or not model.get("checkpoint") or model.keys() - set(words):
        raise MarigoldError(f"model is {model!r}; give checkpoint and, of {words}, what differs.")
    device = model.get("device")
    if device is not None:
        _check_device(device)
    return {word: model.get(word) for word in words}


def _check_device(name: Any) -> None:
    try:
        kind = torch.device(name).type
    except (RuntimeError, TypeError):
        raise MarigoldError(f"There is no device {name!r}; use cpu, cuda, cuda:1 or mps.") from None
    lacks_cuda = kind == "cuda" and not torch.cuda.is_available()
    if lacks_cuda or (kind == "mps" and not torch.backends.mps.is_available()):
        raise MarigoldError(
            f"torch {torch.__version__} finds no {kind} device here; choose cpu or another Python."
        )


def _options(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options that are JSON values of the function's own; the others are arrays or ours."""
    ours = {"image", "mask", "generator", "latents", "callback", "predictions", "frames"}
    known = inspect.signature(function).parameters.keys() - ours
    for name in options:
        if name not in known:
            raise MarigoldError(f"There is no option {name!r}; there are {sorted(known)}.")
    return options


def _given(name: str, path: str | None, arrays: Arrays) -> Any:
    if path is not None and name in arrays:
        raise MarigoldError(f"There are two of {name}: the file {path} and an array; give one.")
    if path is None and name not in arrays:
        raise MarigoldError(f"There is no {name}; give a file or an array.")
    return arrays[name] if path is None else path


def _mask(arrays: Arrays) -> Any:
    return arrays["mask"] != 0 if "mask" in arrays else None


def _generator(seed: int | None) -> torch.Generator | None:
    if seed is None:
        return None
    # On the CPU: the same noise on every device. torch takes 64 bits.
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise MarigoldError(f"seed is {seed!r}; give a whole number from 0 on, or None for chance.")
    return torch.Generator().manual_seed(seed)


def _callback(report: Report, merges: bool = False) -> Callable[[Progress], None]:
    """merges: two members or more are merged after the last step, which tells nothing itself."""
    denoised = 0

    def tell(progress: Progress) -> None:
        nonlocal denoised
        report(progress.stage, progress.step, progress.total)
        if progress.stage == "denoise":
            denoised = progress.step
        elif merges and denoised + 1 < progress.step == progress.total:
            report("merge", progress.step, progress.total)

    return tell
