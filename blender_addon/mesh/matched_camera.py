# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera that took the picture: it sees the mesh just where the picture has it.

`geometry.points` has its focal length in pixels and the principal point in the middle; on
a sensor of 36 mm across the longer side that is a lens of f * 36 / max(width, height) =
18 / tan(fov / 2) millimetres without a shift. That of a panorama sees all around in
Cycles; the viewport and the other engines show 90 degrees of it.
"""

from __future__ import annotations

import bpy

from .shape_inputs import holder, is_panorama, shape_modifier

SENSOR = 36.0


def matched_camera(obj: bpy.types.Object, collection: bpy.types.Collection) -> bpy.types.Object:
    """A new camera as a child of the depth mesh `obj`: it moves with it, and drivers hold its
    lens, or its scale under flat displacement, to the live shape's sliders."""
    data = bpy.data.cameras.new(f"{obj.name} Camera")
    data.sensor_fit = "AUTO"
    data.sensor_width = SENSOR
    data.clip_start = 0.001
    data.clip_end = 100_000.0
    camera = bpy.data.objects.new(data.name, data)
    collection.objects.link(camera)
    camera.parent = obj
    if is_panorama(obj):
        data.lens, data.type = SENSOR / 2, "PANO"
        # From Blender 5.0 on of the camera itself.
        owner = data if hasattr(data, "panorama_type") else data.cycles
        owner.panorama_type = "EQUIRECTANGULAR"
        return camera
    # fov is 0 once the mesh is deleted: the camera that stays is an ordinary one, not an error.
    lens, extent = f"{SENSOR / 2} / tan(fov / 2)", "2 * far * tan(fov / 2)"
    drive(data, "lens", f"{lens} if fov > 0 else 50", obj, fov="Field of View")
    drive(data, "ortho_scale", f"{extent} if fov > 0 else 6", obj, fov="Field of View", far="Far")
    drive(data, "type", "flat", obj, flat="Flat Displacement")
    return camera


def camera_of(obj: bpy.types.Object) -> bpy.types.Object | None:
    for child in obj.children:
        if child.type == "CAMERA":
            return child
    return None


def drive(
    data: bpy.types.ID, path: str, expression: str, obj: bpy.types.Object, **inputs: str
) -> None:
    """Blender works such plain expressions out itself, without leave to run Python."""
    modifier = shape_modifier(obj)
    if modifier is None:
        return
    data.driver_remove(path)
    driver = data.driver_add(path).driver
    driver.expression = expression
    for name, input_name in inputs.items():
        variable = driver.variables.new()
        variable.name = name
        variable.targets[0].id_type = "OBJECT"
        variable.targets[0].id = obj
        variable.targets[0].data_path = holder(modifier, input_name)[2]
