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


class VideoFromFile:
    def __init__(self, file):
        self.file = file

    def get_stream_source(self): ...

    def get_frame_count(self): ...

    def get_frame_rate(self): ...


class InputImpl:
    VideoFromFile = VideoFromFile


__all__ = ["ComfyExtension", "InputImpl", "Types", "io", "ui"]
