"""What the nodes that save files share: the name, and the workflow inside the file."""

from __future__ import annotations

import json
from typing import Any

from comfy.cli_args import args
from comfy_api.latest import io


def prefix_input(default: str) -> io.String.Input:
    """Where the files go, in ComfyUI's output folder."""
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Folder and name inside ComfyUI's output folder. %year%, %month%, %day%, %width% "
        "and %height% are replaced.",
    )


def saved_workflow(node: type[Any]) -> dict[str, str]:
    """Name -> JSON of the running graph, for the metadata of a file; dragged into ComfyUI, such a
    file opens its workflow, as those of ComfyUI's own nodes do. Empty where the user has switched
    that off (--disable-metadata)."""
    hidden = getattr(node, "hidden", None)
    if args.disable_metadata or not hidden:
        return {}
    parts = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(part) for name, part in parts.items() if part}
