"""Points from Depth."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..marigold_core import PointCloud
from ..marigold_core.geometry.mesh import Y_UP
from .depth_to_mesh import (
    FAR_DISTANCE,
    FIELD_OF_VIEW,
    IMAGE_INDEX,
    NEAR_DISTANCE,
    chosen,
    in_order,
    placed,
    viewer_camera,
)
from .sockets import CATEGORY, Depth, DepthBatch, PointFile, file_3d, schema


class DepthToPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MarigoldKit_DepthToPoints",
            display_name="Points from Depth (Marigold)",
            category=CATEGORY,
            description="Makes every pixel a colored point in space. Writes a PLY file into the "
            "output folder.",
            search_aliases=["marigold", "point cloud", "ply", "unproject"],
            is_output_node=True,
            inputs=[
                Depth.Input("depth", tooltip="A depth map, or a batch of them."),
                io.Image.Input("image", tooltip="The picture: the colors of the points."),
                FIELD_OF_VIEW,
                NEAR_DISTANCE,
                FAR_DISTANCE,
                IMAGE_INDEX,
                io.String.Input(
                    "filename_prefix",
                    default="points/Marigold",
                    tooltip="Folder and name inside ComfyUI's output folder.",
                ),
            ],
            outputs=[
                PointFile.Output(
                    "model_3d",
                    display_name="model_3d",
                    tooltip="The written file, for Preview Point Cloud of newer ComfyUI versions.",
                ),
                io.Load3DCamera.Output(
                    "camera_info",
                    display_name="camera_info",
                    tooltip="The camera of the picture, from which a 3D viewer then opens.",
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
        image_index: int,
        filename_prefix: str,
    ) -> io.NodeOutput:
        one, picture = chosen(depth, image, image_index)
        unit, near, far = placed(one, near, far)
        cloud = unit.points(picture, fov_degrees=field_of_view, near=near, far=far)
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.ply"
        # ComfyUI's viewers have y up, as its meshes.
        PointCloud(cloud.points * Y_UP, cloud.colors).save(path)
        height, width = unit.depth.shape
        camera = viewer_camera(cloud.points, (height, width), field_of_view)
        return io.NodeOutput(file_3d(path), camera)
