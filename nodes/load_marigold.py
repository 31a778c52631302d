"""Load Marigold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
from comfy_api.latest import io

from ..marigold_core import MarigoldError, load_checkpoint
from .managed_model import PRECISIONS, ManagedModel, precision
from .model_folders import choices, resolve
from .sockets import Model, schema


class LoadMarigold(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_LoadMarigold",
            display_name="Load Marigold (depth)",
            category="model/loaders",
            description="Loads a Marigold depth checkpoint. ComfyUI decides when it lies on the "
            "graphics card.",
            search_aliases=["marigold", "depth", "depth model"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=choices(),
                    default="nano",
                    tooltip="nano is bundled, small, and for trying out. Folders in "
                    "models/marigold and models/diffusers are listed by name. v1-1, v1-0, lcm "
                    "and e2e are the published ones: about 5 GB (2.6 GB in fp16), downloaded when "
                    "the node first runs with one chosen.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", *PRECISIONS],
                    default="auto",
                    tooltip="auto is what ComfyUI uses on this card. fp32 repeats exactly "
                    "everywhere, and takes twice the memory.",
                ),
                io.Combo.Input(
                    "vae",
                    options=["standard", "tiny"],
                    default="standard",
                    tooltip="tiny (TAESD, 10 MB, downloaded when first used) is faster and takes "
                    "less memory, with softer edges. For Stable Diffusion sized checkpoints.",
                ),
            ],
            outputs=[
                Model.Output("model", display_name="model", tooltip="For Estimate Depth."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        # Taking this argument also replaces ComfyUI's "value not in list".
        try:
            resolve(checkpoint)
        except MarigoldError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> Any:
        """A checkpoint that was trained on, or replaced, is another one."""
        try:
            folder = Path(resolve(checkpoint))
        except MarigoldError:
            return checkpoint
        files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
        return checkpoint, [file.stat().st_mtime_ns for file in files]

    @classmethod
    def execute(cls, checkpoint: str, precision: str, vae: str) -> io.NodeOutput:
        return io.NodeOutput(load(checkpoint, precision, vae))


def load(checkpoint: str, chosen: str, vae: str) -> ManagedModel:
    """Read a checkpoint into main memory; nothing goes to the graphics card here."""
    loaded = load_checkpoint(
        resolve(checkpoint),
        dtype=precision(chosen),
        device=comfy.model_management.unet_offload_device(),
        vae="tiny" if vae == "tiny" else None,
    )
    return ManagedModel.of(checkpoint, loaded)
