"""Print, as JSON, how the things that nodes/ uses of ComfyUI are called: `signatures.py TREE`."""

from __future__ import annotations

import importlib
import inspect
import json
import sys

USED = {
    "comfy.model_management": [
        "get_torch_device", "unet_offload_device", "intermediate_device", "should_use_fp16",
        "should_use_bf16", "load_models_gpu", "interrupt_current_processing",
        "throw_exception_if_processing_interrupted", "InterruptProcessingException",
    ],
    "comfy.model_patcher": ["ModelPatcher"],
    "comfy.utils": ["ProgressBar", "ProgressBar.update_absolute"],
    "comfy_api.latest": [
        "Types.MESH", "ComfyExtension.get_node_list", "InputImpl.VideoFromFile",
        "InputImpl.VideoFromFile.get_stream_source",
        "InputImpl.VideoFromFile.get_frame_count", "InputImpl.VideoFromFile.get_frame_rate",
    ],
    "comfy_api.latest.io": [
        "Custom", "NodeOutput", "Schema", "Boolean.Input", "Combo.Input", "Float.Input",
        "Int.Input", "String.Input", "Image.Input", "Image.Output", "Mask.Input", "Mask.Output",
        "Mesh.Output", "String.Output", "Float.Output",
        "Load3DCamera.Input", "Load3DCamera.Output", "Video.Input", "Video.Output",
        "DynamicCombo.Input", "DynamicCombo.Option",
    ],
    "comfy_api.latest.ui": ["PreviewImage", "PreviewVideo", "SavedResult"],
    "comfy_execution.graph_utils": [
        "GraphBuilder", "GraphBuilder.node", "GraphBuilder.finalize", "ExecutionBlocker",
    ],
    "folder_paths": [
        "add_model_folder_path", "get_folder_paths", "get_input_directory",
        "get_output_directory", "get_save_image_path", "get_annotated_filepath",
        "exists_annotated_filepath",
    ],
}  # fmt: skip


def load(module: str):
    package, _, attribute = module.rpartition(".")
    if package == "comfy_api.latest":  # there, `io` and `ui` are attributes, not files
        return getattr(importlib.import_module(package), attribute)
    return importlib.import_module(module)


def signature(module: str, path: str) -> list[list[str]]:
    thing = load(module)
    for name in path.split("."):
        thing = getattr(thing, name)
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return []
    return [
        [name, one.kind.name, "" if one.default is one.empty else repr(one.default)]
        for name, one in inspect.signature(thing).parameters.items()
    ]


if __name__ == "__main__":
    sys.path.insert(0, sys.argv.pop(1))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    signatures = {f"{m}.{path}": signature(m, path) for m in USED for path in USED[m]}
    signatures["latent_preview.default_preview_method"] = [
        [one.name, one.value, ""] for one in type(load("latent_preview").default_preview_method)
    ]
    print(json.dumps(signatures))
