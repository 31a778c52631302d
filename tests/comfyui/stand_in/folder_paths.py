from __future__ import annotations

import os

models_dir = ""
input_directory = ""
output_directory = ""
temp_directory = ""
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def place(root: str) -> None:
    """Put every folder of a fresh ComfyUI under `root`."""
    global models_dir, input_directory, output_directory, temp_directory
    input_directory = os.path.join(root, "input")
    models_dir = os.path.join(root, "models")
    output_directory = os.path.join(root, "output")
    temp_directory = os.path.join(root, "temp")
    folder_names_and_paths.clear()
    folder_names_and_paths["diffusers"] = ([os.path.join(models_dir, "diffusers")], {"folder"})


def get_input_directory() -> str:
    return input_directory


def get_output_directory() -> str:
    return output_directory


def get_temp_directory() -> str:
    return temp_directory


def add_model_folder_path(
    folder_name: str, full_folder_path: str, is_default: bool = False
) -> None:
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    folders = {"input": input_directory, "output": output_directory, "temp": temp_directory}
    for mark, folder in folders.items():
        if name.endswith(f"[{mark}]"):
            return os.path.join(folder, name.removesuffix(f"[{mark}]").strip())
    return os.path.join(default_dir or input_directory, name)


def exists_annotated_filepath(name) -> bool:
    return os.path.exists(get_annotated_filepath(name))


def get_folder_paths(folder_name: str) -> list[str]:
    return folder_names_and_paths[folder_name][0][:]


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width=0, image_height=0
) -> tuple[str, str, int, str, str]:
    subfolder, filename = os.path.split(os.path.normpath(filename_prefix))
    folder = os.path.join(output_dir, subfolder)
    os.makedirs(folder, exist_ok=True)
    numbers = [
        int(name[len(filename) + 1 :].split("_")[0])
        for name in os.listdir(folder)
        if name.startswith(filename + "_")
    ]
    return folder, filename, max(numbers, default=0) + 1, subfolder, filename_prefix


place("")
