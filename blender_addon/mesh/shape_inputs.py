# SPDX-License-Identifier: GPL-3.0-or-later
"""The live shape's sliders: the inputs of the modifier, by their names.

Up to Blender 5.1 an input is a custom property of the modifier; from 5.2 it is a property of its
own, `modifier.properties.inputs.Socket_1.value`.
"""

from __future__ import annotations

from typing import Any

import bpy

from .shape_nodes import shape_group

MODIFIER = "Marigold"


def add_shape(obj: bpy.types.Object, **values: Any) -> bpy.types.Modifier:
    """Give `obj` the live shape; `values` by input name with underscores for spaces."""
    modifier = obj.modifiers.new(MODIFIER, "NODES")
    modifier.node_group = shape_group()
    set_inputs(obj, **values)
    return modifier


def shape_modifier(obj: bpy.types.Object | None) -> bpy.types.Modifier | None:
    """The live shape of `obj`, or None where it is no depth mesh or has been baked."""
    if obj is None or obj.type != "MESH":
        return None
    for modifier in obj.modifiers:
        if modifier.type == "NODES" and modifier.node_group is not None:
            if "marigold_version" in modifier.node_group:
                return modifier
    return None


def identifier(modifier: bpy.types.Modifier, name: str) -> str:
    for item in modifier.node_group.interface.items_tree:
        if item.item_type == "SOCKET" and item.in_out == "INPUT" and item.name == name:
            return item.identifier
    raise KeyError(name)


def has_input(modifier: bpy.types.Modifier, name: str) -> bool:
    """False for sliders that are newer than the shape of an older file."""
    return any(item.name == name for item in modifier.node_group.interface.items_tree)


def holder(modifier: bpy.types.Modifier, name: str) -> tuple[Any, str, str]:
    """Where an input lives: an owner and a property for `layout.prop`, and its animation path."""
    key = identifier(modifier, name)
    path = f'modifiers["{bpy.utils.escape_identifier(modifier.name)}"]'
    if hasattr(modifier, "properties"):
        owner = getattr(modifier.properties.inputs, key)
        return owner, "value", f"{path}.properties.inputs.{key}.value"
    return modifier, f'["{key}"]', f'{path}["{key}"]'


def get_input(obj: bpy.types.Object, name: str) -> Any:
    modifier = shape_modifier(obj)
    if modifier is None:
        raise KeyError(f"{obj.name} has no live shape")
    owner, prop, _ = holder(modifier, name)
    return getattr(owner, prop) if prop == "value" else owner[prop[2:-2]]


def is_panorama(obj: bpy.types.Object) -> bool:
    """Whether `obj` is the live mesh of an equirectangular picture."""
    modifier = shape_modifier(obj)
    return modifier is not None and has_input(modifier, "Panorama") and get_input(obj, "Panorama")


def set_inputs(obj: bpy.types.Object, **values: Any) -> None:
    modifier = shape_modifier(obj)
    if modifier is None:
        raise KeyError(f"{obj.name} has no live shape")
    names = {
        item.name.lower().replace(" ", "_"): item.name
        for item in modifier.node_group.interface.items_tree
        if item.item_type == "SOCKET" and item.in_out == "INPUT"
    }
    for key, value in values.items():
        owner, prop, _ = holder(modifier, names[key])
        if prop == "value":
            owner.value = value
        else:
            owner[prop[2:-2]] = value
    obj.update_tag()
    modifier.show_viewport = modifier.show_viewport  # a custom property alone evaluates nothing
