"""The ComfyUI entry: the nodes are in nodes/, the engine in marigold_core/."""

from importlib.util import find_spec

# pytest and other tools import this file too, without ComfyUI or outside of a package.
if __package__ and find_spec("comfy_api"):
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
