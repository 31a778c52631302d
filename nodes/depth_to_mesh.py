"""Depth to Mesh."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ..marigold_core import DepthMap, MarigoldError, Mesh
from ..marigold_core.geometry import FAR, FOV_DEGREES, MAX_VERTICES, NEAR, intrinsics
from .sockets import CATEGORY, Depth, DepthBatch, Geometry, schema
from .tensors import full, pictures

# OpenCV's camera (y down, z forward) to glTF's (Y up, -Z forward).
TO_GLTF = np.array([1, -1, -1], np.float32)


class DepthToMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_DepthToMesh",
            display_name="Depth to Mesh (Marigold)",
            category=CATEGORY,
            description="Depth to a mesh in front of a camera, torn at the edges of things, with "
            "the picture as its texture. Writes a file into the output folder.",
            search_aliases=["marigold", "3d", "glb", "ply", "unproject", "displacement"],
            is_output_node=True,
            inputs=[
                Depth.Input("depth", tooltip="From Ensemble Depth or Depth from Image."),
                io.Image.Input("image", tooltip="The picture: the mesh's texture."),
                io.Float.Input(
                    "field_of_view",
                    default=FOV_DEGREES,
                    min=1.0,
                    max=170.0,
                    step=0.5,
                    tooltip="The camera's, in degrees across the longer side. 50 is a phone at 1x "
                    "or a 39 mm lens on 35 mm film.",
                ),
                io.Float.Input(
                    "near",
                    default=NEAR,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="Distance of depth 0, in the mesh's units. The picture alone does not "
                    "tell: near and far decide how deep the relief is.",
                ),
                io.Float.Input(
                    "far",
                    default=FAR,
                    min=0.001,
                    max=100000.0,
                    step=0.1,
                    tooltip="Distance of depth 1, beyond near.",
                ),
                io.Float.Input(
                    "tear",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Leave out a face when its far end is more than so many times as far "
                    "as its near end. 0 chooses by the size of the map; 100 tears nothing.",
                ),
                io.Int.Input(
                    "max_vertices",
                    default=MAX_VERTICES,
                    min=4,
                    max=16_000_000,
                    tooltip="Larger maps are thinned to about this many vertices.",
                ),
                io.Int.Input(
                    "image_index",
                    default=0,
                    min=0,
                    max=4095,
                    tooltip="Which one of a batch becomes the mesh.",
                ),
                io.Combo.Input(
                    "file_format",
                    options=["glb", "ply"],
                    default="glb",
                    tooltip="glb has the texture and a camera; ply has a colour a vertex.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="mesh/Marigold",
                    tooltip="Folder and name inside ComfyUI's output folder.",
                ),
            ],
            outputs=[
                io.Mesh.Output("mesh", display_name="mesh", tooltip="For Save GLB."),
                io.String.Output(
                    "model_file",
                    display_name="model_file",
                    tooltip="The file that was written, for Preview 3D.",
                ),
                Geometry.Output(
                    "geometry",
                    display_name="geometry",
                    tooltip="For ComfyUI's own geometry nodes (newer versions): depth between near "
                    "and far, mask, image, intrinsics.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, near: float, far: float) -> bool | str:
        if not near < far:
            return f"far ({far:g}) must be beyond near ({near:g})."
        return True

    @classmethod
    def execute(
        cls,
        depth: DepthBatch,
        image: Tensor,
        field_of_view: float,
        near: float,
        far: float,
        tear: float,
        max_vertices: int,
        image_index: int,
        file_format: str,
        filename_prefix: str,
    ) -> io.NodeOutput:
        images = pictures(image)
        if image_index >= len(depth):
            raise MarigoldError(
                f"image_index is {image_index} and the batch has {len(depth)}; the first is 0."
            )
        if len(images) not in (1, len(depth)):
            raise MarigoldError(
                f"There are {len(images)} images for {len(depth)} depth maps; connect the batch "
                "that the depth came from."
            )
        picture = images[image_index if len(images) > 1 else 0]
        chosen = depth[image_index]
        mesh = chosen.mesh(
            picture,
            fov_degrees=field_of_view,
            near=near,
            far=far,
            tear_ratio=None if tear == 0 else np.inf if tear >= 100 else tear,
            max_vertices=max_vertices,
        )
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_.{file_format}"
        mesh.save(Path(folder) / file)
        model_file = (Path(subfolder) / file).as_posix()
        saved = {"filename": file, "subfolder": subfolder, "type": "output"}
        return io.NodeOutput(
            core_mesh(mesh),
            model_file,
            core_geometry(chosen, picture, field_of_view, near, far),
            ui={"3d": [saved]},
        )


def core_mesh(mesh: Mesh) -> Any:
    """ComfyUI's MESH: vertices, faces; where it has them, texture coordinates and the texture."""
    parts: dict[str, Any] = {
        "vertices": torch.from_numpy(mesh.vertices * TO_GLTF)[None],
        "faces": torch.from_numpy(mesh.triangles.astype(np.int64))[None],
    }
    known = inspect.signature(Types.MESH.__init__).parameters
    if "uvs" in known:
        # glTF counts v downwards.
        parts["uvs"] = torch.from_numpy(
            mesh.uvs * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
        )[None]
    if "texture" in known and mesh.texture is not None:
        parts["texture"] = torch.from_numpy(mesh.texture.astype(np.float32) / 255)[None]
    return Types.MESH(**parts)


def core_geometry(
    depth: DepthMap, picture: np.ndarray, field_of_view: float, near: float, far: float
) -> dict[str, Any]:
    """The dictionary of ComfyUI's geometry nodes, a batch of one."""
    height, width = depth.depth.shape
    camera = intrinsics(height, width, field_of_view).astype(np.float32)
    return {
        "depth": torch.from_numpy(near + depth.depth * np.float32(far - near))[None],
        "mask": torch.from_numpy(full(depth))[None],
        "image": torch.from_numpy(np.ascontiguousarray(picture))[None],
        "intrinsics": torch.from_numpy(camera)[None],
        "mode": "mono",
    }
