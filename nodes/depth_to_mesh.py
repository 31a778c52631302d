"""Mesh from Depth."""

from __future__ import annotations

import inspect
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import Types, io
from numpy.typing import NDArray
from torch import Tensor

from ..marigold_core import DepthMap, MarigoldError, Mesh
from ..marigold_core.geometry.mesh import Y_UP
from ..marigold_core.geometry.points import FAR, FOV_DEGREES, MAX_VERTICES, NEAR, intrinsics
from .saved_files import saved_workflow
from .sockets import CATEGORY, Depth, DepthBatch, File3D, Geometry, file_3d, schema
from .tensors import full, pictures

# The vertical angle of the frontend's 3D viewer, in degrees. Only its newest versions read an
# angle, all read a zoom.
VIEWER_DEGREES = 35.0
# The frontend before this version scales and moves every model to fit its viewer.
FITS_NO_MODEL = (1, 44)
FITTED_SIZE = 5.0
FIELD_OF_VIEW = io.Float.Input(
    "field_of_view",
    default=FOV_DEGREES,
    min=1.0,
    max=170.0,
    step=0.5,
    tooltip="The camera's, in degrees across the longer side. 50 is a phone at 1x or a 39 mm lens "
    "on 35 mm film. Camera from Depth finds it.",
)
NEAR_DISTANCE = io.Float.Input(
    "near",
    default=NEAR,
    min=0.001,
    max=100000.0,
    step=0.1,
    tooltip="Distance of the nearest depth (0), in any unit. Relative depth does not contain it: "
    "near and far decide how deep the scene is. Ignored for depth in metres.",
)
FAR_DISTANCE = io.Float.Input(
    "far",
    default=FAR,
    min=0.001,
    max=100000.0,
    step=0.1,
    tooltip="Distance of the farthest depth (1), greater than near. Ignored for depth in metres.",
)
IMAGE_INDEX = io.Int.Input(
    "image_index",
    default=0,
    min=0,
    max=4095,
    tooltip="Which image of a batch is used; the first is 0.",
)


class DepthToMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_DepthToMesh",
            display_name="Mesh from Depth (Marigold)",
            category=CATEGORY,
            description="Builds a mesh from depth, torn at the edges of objects, with the picture "
            "as its texture. Writes a file into the output folder.",
            search_aliases=["marigold", "depth to mesh", "3d", "glb", "ply", "unproject"],
            is_output_node=True,
            inputs=[
                Depth.Input("depth", tooltip="A depth map, or a batch of them."),
                io.Image.Input("image", tooltip="The picture: the mesh's texture."),
                FIELD_OF_VIEW,
                NEAR_DISTANCE,
                FAR_DISTANCE,
                io.Float.Input(
                    "tear",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Leaves out faces whose far end is more than this many times as far "
                    "away as their near end. 0: chosen by the size of the map. 100: nothing is "
                    "left out.",
                ),
                io.Int.Input(
                    "max_vertices",
                    default=MAX_VERTICES,
                    min=4,
                    max=16_000_000,
                    tooltip="Larger maps are reduced to about this many vertices.",
                ),
                IMAGE_INDEX,
                io.Combo.Input(
                    "file_format",
                    options=["glb", "ply"],
                    default="glb",
                    tooltip="glb: with texture and camera, for 3D programs and viewers. ply: with "
                    "a color per vertex.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="mesh/Marigold",
                    tooltip="Folder and name inside ComfyUI's output folder.",
                ),
                io.Boolean.Input(
                    "fill",
                    default=True,
                    tooltip="Continues the background behind objects, in depth and color, so that "
                    "a camera that moves a little sees no holes.",
                ),
            ],
            outputs=[
                io.Mesh.Output("mesh", display_name="mesh", tooltip="For ComfyUI's mesh nodes."),
                io.String.Output(
                    "model_file",
                    display_name="model_file",
                    tooltip="The written file, for Preview 3D.",
                ),
                Geometry.Output(
                    "geometry",
                    display_name="geometry",
                    tooltip="For the Depth Anything 3 nodes of newer ComfyUI versions: depth "
                    "between near and far, sky, image, intrinsics.",
                ),
                io.Load3DCamera.Output(
                    "camera_info",
                    display_name="camera_info",
                    tooltip="The camera of the picture, from which Preview 3D then opens; for "
                    "Camera Path.",
                ),
                File3D.Output(
                    "model_3d",
                    display_name="model_3d",
                    tooltip="The written file, for the 3D nodes of newer ComfyUI versions.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, near: float | None, far: float | None) -> bool | str:
        return in_order(near, far)

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
        fill: bool,
    ) -> io.NodeOutput:
        one, picture = chosen(depth, image, image_index)
        unit, near, far = placed(one, near, far)
        mesh = unit.mesh(
            picture,
            fov_degrees=field_of_view,
            near=near,
            far=far,
            tear_ratio=None if tear == 0 else np.inf if tear >= 100 else tear,
            max_vertices=max_vertices,
            fill=fill,
        )
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_.{file_format}"
        mesh.save(Path(folder) / file, metadata=saved_workflow(cls))
        model_file = (Path(subfolder) / file).as_posix()
        saved = {"filename": file, "subfolder": subfolder, "type": "output"}
        return io.NodeOutput(
            core_mesh(mesh),
            model_file,
            core_geometry(unit, picture, field_of_view, near, far),
            viewer_camera(mesh.vertices, mesh.size, mesh.fov_degrees),
            file_3d(Path(folder) / file),
            ui={"3d": [saved]},
        )


def in_order(near: float | None, far: float | None) -> bool | str:
    """What is wrong with the two distances, or True. None: connected, so not known yet."""
    if near is not None and far is not None and not near < far:
        return f"far ({far:g}) must be greater than near ({near:g})."
    return True


def chosen(depth: DepthBatch, image: Tensor, number: int) -> tuple[DepthMap, NDArray[np.float32]]:
    """The depth map of that number in the batch, from 0, and its picture."""
    images = pictures(image)
    if number >= len(depth):
        raise MarigoldError(
            f"image_index is {number} and the batch has {len(depth)}; the first is 0."
        )
    if len(images) not in (1, len(depth)):
        raise MarigoldError(
            f"There are {len(images)} images for {len(depth)} depth maps; connect the batch "
            "that the depth was estimated from."
        )
    return depth[number], images[number if len(images) > 1 else 0]


def placed(depth: DepthMap, near: float, far: float) -> tuple[DepthMap, float, float]:
    """The map with values in [0, 1], and the distances of 0 and 1: depth whose shift is known has
    its own, in metres or up to a scale."""
    if depth.shift_invariant:
        return depth, near, far
    positive = full(depth) & (depth.depth > 0) & np.isfinite(depth.depth)
    if not positive.any():
        raise MarigoldError("The depth has no value above 0, so there is nothing to mesh.")
    low, high = (float(end(depth.depth[positive])) for end in (np.min, np.max))
    high = max(high, low * 1.001)  # a wall that faces the camera
    unit = (np.where(positive, depth.depth, low) - low) / (high - low)
    return DepthMap(unit.astype(np.float32), mask=positive), low, high


def core_mesh(mesh: Mesh) -> Any:
    """ComfyUI's MESH: vertices and faces, and what newer versions add to them."""
    parts: dict[str, Any] = {
        "vertices": torch.from_numpy(mesh.vertices * Y_UP)[None],
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
    if "unlit" in known:
        parts["unlit"] = True  # a photograph contains its light
    return Types.MESH(**parts)


def core_geometry(
    depth: DepthMap, picture: np.ndarray, field_of_view: float, near: float, far: float
) -> dict[str, Any]:
    """DA3_GEOMETRY as ComfyUI's nodes take it, with one view: depth, sky, mask (1, H, W), image
    (1, H, W, 3), intrinsics (1, 1, 3, 3) in pixels."""
    height, width = depth.depth.shape
    camera = intrinsics(height, width, field_of_view).astype(np.float32)
    # Their pixel centers are at whole numbers, ours at halves.
    camera[:2, 2] -= 0.5
    used = torch.from_numpy(full(depth))
    return {
        "depth": torch.from_numpy(near + depth.depth * np.float32(far - near))[None],
        "sky": (~used).float()[None],
        "mask": used[None],
        "image": torch.from_numpy(np.ascontiguousarray(picture))[None],
        "intrinsics": torch.from_numpy(camera)[None, None],
        "mode": "mono",
    }


def viewer_camera(
    points: NDArray[np.float32], size: tuple[int, int], fov_degrees: float
) -> dict[str, Any]:
    """The picture's camera as LOAD3D_CAMERA: right-handed, Y up, looking along -Z.

    points: (N, 3) of the scene, in OpenCV axes. size: (height, width) of the picture.
    """
    vertices = points * Y_UP
    eye, scale = np.zeros(3), 1.0
    if frontend_version() < FITS_NO_MODEL:
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        scale = FITTED_SIZE / float((high - low).max())
        eye = -scale * np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    target = eye + scale * np.array([0, 0, float(np.median(vertices[:, 2]))])
    height, width = size
    half = math.tan(math.radians(fov_degrees) / 2) * height / max(height, width)
    zoom = math.tan(math.radians(VIEWER_DEGREES) / 2) / half
    return {
        "position": dict(zip("xyz", eye.tolist(), strict=True)),
        "target": dict(zip("xyz", target.tolist(), strict=True)),
        "zoom": zoom,
        "fov": VIEWER_DEGREES,
        "cameraType": "perspective",
    }


def frontend_version() -> tuple[int, ...]:
    """Of the installed frontend; (0,) where the package does not say."""
    try:
        return tuple(map(int, version("comfyui-frontend-package").split(".")[:2]))
    except (PackageNotFoundError, ValueError):
        return (0,)
