"""The ComfyUI front end: one node per file, and the parts that they share. The nodes translate
between ComfyUI and the engine; the engine computes."""

from comfy_api.latest import ComfyExtension, io

from ..marigold_core import Cancelled, CheckpointError, MarigoldError
from ..marigold_core.memory import OutOfMemory
from .camera_from_depth import CameraFromDepth
from .camera_path import CameraPath
from .colorize_depth import ColorizeDepth
from .combine_depth import CombineDepth
from .depth_from_geometry import DepthFromGeometry
from .depth_from_image import DepthFromImage
from .depth_to_mesh import DepthToMesh
from .depth_to_points import DepthToPoints
from .ensemble import EnsemblePredictions
from .ensemble_normals import EnsembleNormals
from .estimate_depth import EstimateDepth
from .estimate_guided import EstimateGuidedDepth
from .estimate_normals import EstimateNormals
from .estimate_panorama import EstimatePanorama
from .intrinsic_images import EstimateIntrinsics
from .known_depths import EnterKnownDepths
from .load_depth import LoadDepth
from .load_marigold import LoadMarigold
from .marigold_depth import MarigoldDepth
from .metric_depth import MetricDepth
from .model_folders import place_example, register_folder
from .normalize_depth import NormalizeDepth
from .normals_from_depth import NormalsFromDepth
from .save_depth import SaveDepth
from .save_intrinsics import SaveIntrinsics
from .save_normals import SaveNormals
from .video_depth import VideoDepth

NODES: list[type[io.ComfyNode]] = [
    LoadMarigold,
    EstimateDepth,
    EnsemblePredictions,
    NormalizeDepth,
    ColorizeDepth,
    DepthToMesh,
    DepthToPoints,
    CameraFromDepth,
    CameraPath,
    SaveDepth,
    LoadDepth,
    DepthFromImage,
    DepthFromGeometry,
    CombineDepth,
    VideoDepth,
    EstimatePanorama,
    EstimateNormals,
    EnsembleNormals,
    NormalsFromDepth,
    SaveNormals,
    EstimateIntrinsics,
    SaveIntrinsics,
    EnterKnownDepths,
    MetricDepth,
    EstimateGuidedDepth,
    MarigoldDepth,
]


class MarigoldExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MarigoldExtension:
    # Here and not in `on_load`, which ComfyUI 0.8.0 does not call.
    register_folder()
    place_example()
    # The frontend shows an error's full type name in front of its message, and that of a pack's
    # class contains the path of the pack.
    for error in (MarigoldError, CheckpointError, Cancelled, OutOfMemory):
        error.__module__ = "builtins"
    return MarigoldExtension()
