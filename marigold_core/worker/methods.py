"""What the worker's methods do: parameters and arrays in, a JSON result and arrays out.

A `model` names the checkpoint and how to load it: {checkpoint, device, dtype, variant, revision,
vae, base, cache_dir, allow_download}, all but the first optional. It comes with every request that
needs networks, so that a request stands alone after a restart; equal to the loaded one, it costs
nothing.
"""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..checkpoints.hub import download
from ..checkpoints.loading import checked_device
from ..depth import DepthMap
from ..engine import Marigold
from ..ensemble.sequence import align_sequence
from ..errors import MarigoldError, MarigoldWarning
from ..intrinsics import IntrinsicImages
from ..memory import release_memory
from ..metric.fit import fit_metric
from ..metric.guided import guided_depth
from ..metric.hints import KnownDepths
from ..normals import NormalMap
from ..options import Options
from ..panorama import panorama_depth
from ..progress import Progress
from ..resize import checked_mask

Report = Callable[..., None]
Arrays = Mapping[str, Any]
Answer = tuple[dict[str, Any], dict[str, Any]]
# Of the engine's options, those that are JSON values.
OPTIONS = tuple(f.name for f in fields(Options) if f.name not in ("generator", "latents"))
MODEL_WORDS = ("device", "dtype", "variant", "revision", "vae", "base", "cache_dir")


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

        The engine's warnings are in the result, as a list of lines. Raises MarigoldError for
        unknown parameters and as the engine does.
        """
        run = getattr(self, method)
        try:
            inspect.signature(run).bind(arrays, report, **params)
        except TypeError as error:
            raise MarigoldError(f"{method}: {error}.") from None
        # A received array looks into the message, read-only; torch wants memory of its own.
        own = {name: np.array(array) for name, array in arrays.items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MarigoldWarning)
            result, made = run(own, report, **params)
        # Warnings of libraries are not for the user.
        ours = [str(one.message) for one in caught if issubclass(one.category, MarigoldWarning)]
        return ({**result, "warnings": ours} if ours else result), made

    def load(self, arrays: Arrays, report: Report, *, model: Any) -> Answer:
        self._load(model, report)
        return dict(self.loaded or {}), {}

    def free(self) -> None:
        """Free the networks and the memory that they took."""
        self._marigold, self.loaded = None, None
        gc.collect()
        release_memory()

    def unload(self, arrays: Arrays, report: Report) -> Answer:
        self.free()
        return {}, {}

    def depth(self, arrays: Arrays, report: Report, **request: Any) -> Answer:
        """The whole run, `Marigold.__call__`: arrays depth, uncertainty, mask; see DepthMap.

        request: model; image and mask, a file each unless they are arrays; and the JSON values
        among the fields of `Options`.
        """
        return self._depth_answer(self._run("depth", arrays, report, **request))

    def panorama(self, arrays: Arrays, report: Report, **request: Any) -> Answer:
        """As `depth`, of an equirectangular picture; see `panorama_depth`."""
        return self._depth_answer(self._run("depth", arrays, report, _panorama, **request))

    def normals(self, arrays: Arrays, report: Report, **request: Any) -> Answer:
        """As `depth`, with a checkpoint for normals: arrays normals, uncertainty; see NormalMap."""
        made: NormalMap = self._run("normals", arrays, report, **request)
        result = {"seconds": made.seconds, "model": self.loaded}
        return result, _present({"normals": made.normals, "uncertainty": made.uncertainty})

    def intrinsics(self, arrays: Arrays, report: Report, **request: Any) -> Answer:
        """As `depth`, with a checkpoint for intrinsic images: its maps by name, in linear light."""
        made: IntrinsicImages = self._run("intrinsics", arrays, report, **request)
        result = {
            "up_to_scale": sorted(made.up_to_scale),
            "seconds": made.seconds,
            "model": self.loaded,
        }
        return result, {name: made.linear(name) for name in made.maps}

    def _run(
        self,
        target: str,
        arrays: Arrays,
        report: Report,
        estimate: Callable[..., Any] = Marigold.__call__,
        /,
        *,
        model: Any = None,
        image: str | None = None,
        mask: str | None = None,
        **settings: Any,
    ) -> Any:
        """The engine's result; the checkpoint must be one for `target`."""
        _check_names(settings, OPTIONS)
        options = Options(**settings)
        picture, used = self._inputs(arrays, image, mask)
        marigold = self._load(model, report)
        marigold.expect(target)
        report("encode")
        return estimate(marigold, picture, options, mask=used, callback=_callback(report))

    def _inputs(self, arrays: Arrays, image: str | None, mask: str | None) -> tuple[Any, Any]:
        """The picture, and the mask or None: a file or an array each."""
        _check_text("image", image)
        _check_text("mask", mask)
        used = _given("mask", mask, arrays) if mask or "mask" in arrays else None
        return _given("image", image, arrays), used

    def _depth_answer(self, depth_map: DepthMap) -> Answer:
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
        return result, _present(made)

    def guided(
        self,
        arrays: Arrays,
        report: Report,
        *,
        model: Any,
        image: str | None = None,
        mask: str | None = None,
        size: Any = None,
        **settings: Any,
    ) -> Answer:
        """`guided_depth`, otherwise as `depth`: depth and uncertainty in metres.

        The array known, (N, 3): x and y in pixels of a picture of `size` [height, width], and
        metres along the camera's axis. The sampling starts from the fit of an unguided run.
        """
        _check_names(settings, OPTIONS)
        known = _known(arrays, size)
        options = Options(**settings)
        picture, used = self._inputs(arrays, image, mask)
        marigold = self._load(model, report)
        marigold.expect("depth")
        report("encode")
        callback = _callback(report)
        plain = replace(options, num_inference_steps=None)
        before = fit_metric(marigold(picture, plain, mask=used), known)
        guided = guided_depth(
            marigold, picture, known, options, before=before, mask=used, callback=callback
        )
        return self._depth_answer(guided)

    def align(self, arrays: Arrays, report: Report, **options: Any) -> Answer:
        """`align_sequence` of the arrays frames (T, h, w) and mask: array frames."""
        report("merge")
        frames = _given("frames", None, arrays)
        _check_names(options, ("scale_invariant", "shift_invariant"))
        for name, value in options.items():
            if not isinstance(value, bool):
                raise MarigoldError(f"{name} is {str(value)[:40]!r}; use true or false.")
        aligned = align_sequence(frames, mask=_mask(arrays), **options)
        return {}, {"frames": aligned}

    def download(
        self,
        arrays: Arrays,
        report: Report,
        *,
        checkpoint: str,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
    ) -> Answer:
        for name, value in (("variant", variant), ("revision", revision), ("cache_dir", cache_dir)):
            _check_text(name, value)
        if not isinstance(checkpoint, str):
            raise MarigoldError(f"checkpoint is {str(checkpoint)[:40]!r}; give a name.")
        report("download")
        folder = download(checkpoint, variant=variant, revision=revision, cache_dir=cache_dir)
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
            "target": self._marigold.target.name,
            "family": self._marigold.family,
            "num_inference_steps": self._marigold.num_inference_steps,
            "processing_resolution": self._marigold.processing_resolution,
            "ensemble_size": self._marigold.ensemble_size,
            "scale_invariant": self._marigold.scale_invariant,
            "shift_invariant": self._marigold.shift_invariant,
        }
        return self._marigold


def _panorama(
    marigold: Marigold, picture: Any, options: Options, *, mask: Any, callback: Any
) -> DepthMap:
    """The mask has no part in the estimate, and is part of the result."""
    depth_map = panorama_depth(marigold, picture, options, callback=callback)
    used = None if mask is None else checked_mask(mask, depth_map.depth.shape)
    return replace(depth_map, mask=used)


def _present(arrays: Arrays) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if array is not None}


def _checked_model(model: Any) -> dict[str, Any]:
    words = ("checkpoint", *MODEL_WORDS, "allow_download")
    if not isinstance(model, dict) or not model.get("checkpoint") or model.keys() - set(words):
        shown = str(model)[:200]
        raise MarigoldError(f"model is {shown}; give checkpoint and, of {words}, what differs.")
    for word in ("checkpoint", *MODEL_WORDS):
        _check_text(f"model's {word}", model.get(word))
    if model.get("allow_download") not in (None, True, False):
        raise MarigoldError(
            f"model's allow_download is {model['allow_download']!r}; use a boolean."
        )
    checked_device(model.get("device"))
    return {word: model.get(word) for word in words}


def _check_text(name: str, value: Any) -> None:
    """Names and paths come as text, or not at all."""
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise MarigoldError(f"{name} is {str(value)[:40]!r}; give a text.")


def _check_names(given: dict[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise MarigoldError(f"There is no option {name!r}; there are {', '.join(known)}.")


def _given(name: str, path: str | None, arrays: Arrays) -> Any:
    if path is not None and name in arrays:
        raise MarigoldError(f"There are two of {name}: the file {path} and an array; give one.")
    if path is None and name not in arrays:
        raise MarigoldError(f"There is no {name}; give a file or an array.")
    return arrays[name] if path is None else path


def _known(arrays: Arrays, size: Any) -> KnownDepths:
    points = arrays.get("known")
    if points is None or points.ndim != 2 or points.shape[1] != 3:
        raise MarigoldError("There are no known points; give an array (N, 3) of x, y and metres.")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
        raise MarigoldError(f"size is {str(size)[:40]!r}; give [height, width] of the picture.")
    if min(size) < 1:
        raise MarigoldError(f"A picture of {size[1]}x{size[0]} pixels has no points.")
    return KnownDepths(points[:, :2], points[:, 2], size=(size[0], size[1]))


def _mask(arrays: Arrays) -> Any:
    return arrays["mask"] != 0 if "mask" in arrays else None


def _callback(report: Report) -> Callable[[Progress], None]:
    """Two members or more are merged after the last step, which reports nothing itself."""
    denoised = 0

    def step_done(progress: Progress) -> None:
        nonlocal denoised
        report(progress.stage, progress.step, progress.total)
        if progress.stage == "denoise":
            denoised = progress.step
        elif denoised + 1 < progress.step == progress.total:
            report("merge", progress.step, progress.total)

    return step_done
