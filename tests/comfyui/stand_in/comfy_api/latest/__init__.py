from __future__ import annotations

from abc import ABC, abstractmethod

from . import io, ui


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[io.ComfyNode]]: ...


class MESH:
    def __init__(self, vertices, faces):
        self.vertices = vertices
        self.faces = faces


class Types:
    MESH = MESH


__all__ = ["ComfyExtension", "Types", "io", "ui"]
