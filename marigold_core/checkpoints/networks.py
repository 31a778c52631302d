"""Networks: from a component folder's files to a model with exactly those weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, MarigoldError
from . import autoencoder, unet
from . import config as schemas
from .config import checked, read_json, short_name
from .weights import Weights, find_weights

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float16": torch.float16,
    "fp16": torch.float16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip
# The attention layers' names in files from before diffusers 0.12, which some VAEs still carry.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SCHEMAS = {
    "UNet2DConditionModel": schemas.UNET,
    "AutoencoderKL": schemas.AUTOENCODER,
    "AutoencoderTiny": schemas.TINY_AUTOENCODER,
    "CLIPTextModel": schemas.TEXT_ENCODER,
}
UNETS = ("UNet2DConditionModel",)
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


@dataclass(frozen=True)
class Component:
    """One network on the disk: its class, the checked fields of its config.json, its weights."""

    folder: Path
    class_name: str
    config: dict[str, Any]
    weights: Weights

    @property
    def label(self) -> str:
        """How an error names the configuration: "unet/config.json"."""
        return short_name(self.folder / "config.json")


def find_component(
    folder: Path,
    classes: tuple[str, ...],
    *,
    variant: str | None = None,
    prefer_half: bool = False,
    content: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> Component:
    """Describe a component folder. classes: those accepted, the first where the file names none.

    content, weights: what was read of the folder already. See `find_weights` for variant and
    prefer_half. Raises CheckpointError that names the file and the fact.
    """
    label = short_name(folder / "config.json")
    content = read_json(folder / "config.json") if content is None else content
    named = content.get("_class_name", content.get("architectures"))
    class_name = named[0] if isinstance(named, list) and named else named or classes[0]
    if class_name not in classes:
        raise CheckpointError(f"{label} describes a {class_name}; use an {' or '.join(classes)}.")
    config = checked(content, SCHEMAS[class_name], label)
    weights = weights or find_weights(folder, variant, prefer_half)
    component = Component(folder, class_name, config, weights)
    check_layers(component)
    return component


def check_layers(component: Component) -> None:
    """Check how many blocks and layers there are against the names of the tensors.

    Describing a network takes time for every layer, even before any memory is allocated.
    """
    stored = count_layers(component.weights.tensors)
    for option, place, said in described_layers(component):
        found = stored.get(place, 0)
        if said != found:
            raise CheckpointError(
                f"{component.label} says {option} {said} and {component.weights.label} has {found} "
                f"in {place}; the files are damaged or belong to different models."
            )


def count_layers(names: Iterable[str]) -> dict[str, int]:
    """{"down_blocks": 4, "down_blocks.0.resnets": 2}: the numbered parts below each name."""
    indices: dict[str, set[str]] = {}
    for name in names:
        parts = name.removeprefix("text_model.").split(".")
        for position, part in enumerate(parts):
            if part.isdecimal():
                indices.setdefault(".".join(parts[:position]), set()).add(part)
    return {place: len(found) for place, found in indices.items()}


def described_layers(component: Component) -> Iterator[tuple[str, str, int]]:
    """Yield (field of the configuration, place among the tensors, how many it says are there)."""
    config = component.config
    if component.class_name == "CLIPTextModel":
        yield "num_hidden_layers", "encoder.layers", config.get("num_hidden_layers", 12)
    kinds = config.get("down_block_types")
    if kinds is None or component.class_name not in ("UNet2DConditionModel", "AutoencoderKL"):
        return
    place = "" if component.class_name == "UNet2DConditionModel" else "encoder."
    yield "a number of down_block_types that is", f"{place}down_blocks", len(kinds)
    for option, part, default in (
        ("layers_per_block", "resnets", 2),
        ("transformer_layers_per_block", "attentions.0.transformer_blocks", 1),
    ):
        said = config.get(option, default)
        for block, kind in enumerate(kinds):
            if part == "resnets" or kind == "CrossAttnDownBlock2D":
                layers = said if isinstance(said, int) else (said + [0] * len(kinds))[block]
                yield option, f"{place}down_blocks.{block}.{part}", layers


def torch_dtype(dtype: torch.dtype | str | None, device: torch.device | str) -> torch.dtype:
    """A dtype from its name; None and "auto" by device."""
    if dtype is None or dtype == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.float16
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise MarigoldError(f"The dtype is {dtype!r}; use float32, float16, bfloat16 or auto.")
    return found


# Parameters. Smaller networks gain little, and nano's results are to be the same everywhere.
LARGE = 100_000_000


def default_dtype(device: torch.device, parameters: int) -> torch.dtype:
    """What "auto" is for a U-Net of so many parameters: float16, on the CPU bfloat16 if faster."""
    if device.type == "cpu" and parameters >= LARGE and bfloat16_is_faster():
        return torch.bfloat16
    return torch_dtype("auto", device)


@cache
def bfloat16_is_faster() -> bool:
    """Whether this CPU multiplies in bfloat16 clearly faster than in float32.

    Measured, in some 10 ms, because its flags do not say so: of two chips with AVX512-BF16 one was
    1.7 times as fast and the other took 1.8 times as long (docs/performance.md). Clearly: float32
    has convolutions of fewer products (`convolution.py`). Of several runs in turn the shortest
    counts, so that other work on the machine hardly matters.
    """
    exact = torch.ones(256, 256)
    pair = exact, exact.bfloat16()
    shortest = [math.inf, math.inf]
    with torch.inference_mode():
        for _ in range(10):
            for number, matrix in enumerate(pair):
                began = perf_counter()
                matrix @ matrix
                shortest[number] = min(shortest[number], perf_counter() - began)
    return shortest[0] > 1.6 * shortest[1]


def load_network(component: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """Build the library's model of a component and give it exactly the weights of its files.

    Not `from_pretrained`: that warns where weights are missing and continues with random ones, and
    without accelerate it fills the network with random numbers first. Raises CheckpointError where
    names or shapes differ, before anything is allocated.
    """
    return filled(describe_network(component), component, device, dtype)


def load_for_inference(
    component: Component, device: torch.device, dtype: torch.dtype, prompt: Tensor
) -> Any:
    """As `load_network`, but where the architecture is Stable Diffusion's, a network that is
    faster, that needs no diffusers, and that has the prompt (1, L, D) in its weights."""
    with described(component), torch.device("meta"):
        if component.class_name == "UNet2DConditionModel" and unet.is_known(component.config):
            network: Any = unet.UNet(component.config)
        elif component.class_name == "AutoencoderKL" and autoencoder.is_known(component.config):
            network = autoencoder.Autoencoder(component.config)
        else:
            network = None
    if network is None:
        return load_network(component, device, dtype)
    filled(network, component, device, dtype).fold(prompt)
    # The layout of fast convolutions, but for the U-Net in float32 on the CPU, where it gains
    # nothing. ComfyUI moves networks to MPS later.
    plain = component.class_name == "UNet2DConditionModel" and dtype == torch.float32
    if not plain and not torch.backends.mps.is_available():
        network.to(memory_format=torch.channels_last)
    return network.requires_grad_(False)


def filled(model: nn.Module, component: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with the weights. Raises CheckpointError where names or shapes differ."""
    weights = component.weights
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    bare = {name.removeprefix("text_model."): name for name in expected}
    names = {
        name: current_name(name, expected, bare)
        for name in weights.tensors
        # A buffer 0, 1, 2, ... that older versions of transformers saved as if it were a weight.
        if not name.endswith(".position_ids")
    }
    stored = {now: weights.tensors[name].shape for name, now in names.items()}
    for problem, found in (
        ("lacks", sorted(expected.keys() - stored.keys())),
        ("has, and the network has no place for,", sorted(stored.keys() - expected.keys())),
        ("has in another shape", sorted(n for n in expected if stored.get(n) != expected[n])),
    ):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise CheckpointError(
                f"{weights.label} {problem} {found[0]}{more}, by {component.label}; "
                "the files are damaged or belong to a different model."
            )
    state = {names[name]: tensor for name, tensor in weights.load(device, dtype) if name in names}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def describe_network(component: Component) -> nn.Module:
    """The model without memory for its weights (on torch's "meta" device)."""
    with described(component), torch.device("meta"):
        if component.class_name == "CLIPTextModel":
            from transformers import CLIPTextConfig, CLIPTextModel

            # Ours, as the name of an attention may be that of a hub repository with code.
            config = CLIPTextConfig(**component.config, attn_implementation="eager")
            return CLIPTextModel(config)
        import diffusers

        network: nn.Module = getattr(diffusers, component.class_name)(**component.config)
        return network


@contextmanager
def described(component: Component) -> Iterator[None]:
    """Raises CheckpointError where a network cannot be built as described."""
    try:
        yield
    except Exception as error:  # whatever the constructors make of values that do not go together
        raise CheckpointError(
            f"{component.label} describes a network that cannot be built: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def current_name(name: str, expected: Mapping[str, Any], bare: Mapping[str, str]) -> str:
    """A weight's name as the installed library has it.

    transformers 4 puts `text_model.` before CLIP's weights and 5 does not; see OLD_ATTENTION.
    """
    name = bare.get(name.removeprefix("text_model."), name)
    if name in expected:
        return name
    return re.sub(
        r"\.(query|key|value|proj_attn)\.(weight|bias)$",
        lambda match: f".{OLD_ATTENTION[match[1]]}.{match[2]}",
        name,
    )
