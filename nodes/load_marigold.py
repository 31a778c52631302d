"""Load Marigold."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..marigold_core import MarigoldError, inspect_checkpoint, load_checkpoint
from ..marigold_core.checkpoints.hub import cached_folder, is_complete
from ..marigold_core.checkpoints.published import TINY_VAE
from .managed_model import PRECISIONS, ManagedModel, precision
from .model_download import PACK, download
from .model_folders import choices, download_folder, resolve
from .sockets import Model, schema

# Parameters of Stable Diffusion's VAE, whose latents TAESD encodes and decodes; nano's has 2 M.
STABLE_DIFFUSION_VAE = 80_000_000
INSTALL = (
    "The package diffusers is missing. Run this command, then start ComfyUI again: "
    f'"{sys.executable}" "{PACK / "install.py"}"'
)


class LoadMarigold(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_LoadMarigold",
            display_name="Load Marigold",
            category="model/loaders",
            description="Loads a Marigold checkpoint: for depth, normals or intrinsic images. "
            "ComfyUI manages its memory.",
            search_aliases=["marigold", "depth", "depth model", "normals model", "iid"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=choices(),
                    default="nano",
                    tooltip="nano is bundled, small, estimates depth, and is for trying out. The "
                    "published checkpoints are v1-1, v1-0, lcm and e2e for depth, those that begin "
                    "with normals, and those that begin with iid for intrinsic images: about 5 GB "
                    "each, downloaded to models/marigold when the node runs. Checkpoint folders in "
                    "models/marigold and models/diffusers are listed by name.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", *PRECISIONS],
                    default="auto",
                    tooltip="auto: what ComfyUI uses on this device. fp32 gives the same result "
                    "everywhere and takes twice the memory.",
                ),
                io.Combo.Input(
                    "vae",
                    options=["standard", "tiny"],
                    default="standard",
                    tooltip="tiny (TAESD, 10 MB, downloaded when first used) is faster and takes "
                    "less memory, with softer edges. Not for nano.",
                ),
            ],
            outputs=[
                Model.Output(
                    "model",
                    display_name="model",
                    tooltip="For Estimate Depth, Estimate Normals or Intrinsic Images, by what the "
                    "checkpoint estimates.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        # Taking this argument also replaces ComfyUI's "value not in list".
        if not find_spec("diffusers"):
            return INSTALL
        try:
            resolve(checkpoint)
        except MarigoldError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> Any:
        """Changes when the files of the checkpoint do: after training, or another download."""
        try:
            folder = resolve(checkpoint)
        except MarigoldError:
            return checkpoint
        files = sorted(folder.rglob("*.safetensors")) if folder else []
        return checkpoint, [file.stat().st_mtime_ns for file in files]

    @classmethod
    def execute(cls, checkpoint: str, precision: str, vae: str) -> io.NodeOutput:
        return io.NodeOutput(load(checkpoint, precision, vae))


def load(checkpoint: str, chosen: str, vae: str) -> ManagedModel:
    """Read a checkpoint into main memory; nothing goes to the graphics card here."""
    folder = resolve(checkpoint) or download(checkpoint, download_folder(checkpoint))
    # Weights made in ComfyUI's inference mode could take no part in gradients (guided depth).
    with torch.inference_mode(False):
        loaded = load_checkpoint(
            folder,
            dtype=precision(chosen),
            device=comfy.model_management.unet_offload_device(),
            vae=tiny_vae(checkpoint, folder) if vae == "tiny" else None,
            local_files_only=True,
        )
    return ManagedModel.of(checkpoint, loaded)


def tiny_vae(checkpoint: str, folder: Path) -> Path:
    """TAESD's folder, downloaded if need be. Raises MarigoldError where it does not fit."""
    if inspect_checkpoint(folder).parameters["vae"] < STABLE_DIFFUSION_VAE:
        raise MarigoldError(
            f"{checkpoint} has a small VAE of its own, which the tiny VAE cannot replace; set vae "
            "to standard."
        )
    for place in (download_folder("taesd"), cached_folder(TINY_VAE["tiny"].repo_id)):
        if place is not None and place.is_dir() and is_complete(place):
            return place
    return download("tiny", download_folder("taesd"))
