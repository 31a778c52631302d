"""The workflow that a file was made with, in the form in which ComfyUI's own nodes save it."""

from __future__ import annotations

import json
from typing import Any

from comfy.cli_args import args


def saved_workflow(node: type[Any]) -> dict[str, str]:
    """Name -> JSON of the running graph, for the metadata of a file; dragged into ComfyUI, such a
    file opens its workflow. Empty where the user has switched that off (--disable-metadata)."""
    hidden = getattr(node, "hidden", None)
    if args.disable_metadata or not hidden:
        return {}
    parts = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(part) for name, part in parts.items() if part}
