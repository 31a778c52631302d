# SPDX-License-Identifier: GPL-3.0-or-later
"""Node trees written as formulas: a value is a number or a socket, and methods add nodes."""

from __future__ import annotations

from typing import Any

import bpy

Socket = Any


class NodeBuilder:
    """Adds nodes to `tree`, column by column, and links what it is given."""

    def __init__(self, tree: bpy.types.NodeTree):
        self.tree = tree

    def add(self, kind: str, inputs: dict[Any, Any] | None = None, **properties: Any) -> Any:
        """A node of the type `kind`; `inputs` by name or index, each a value or a socket."""
        node = self.tree.nodes.new(kind)
        count = len(self.tree.nodes)
        node.location = (220 * (count // 5), -180 * (count % 5))
        for name, value in properties.items():
            setattr(node, name, value)
        for key, value in (inputs or {}).items():
            self.put(node.inputs[key], value)
        return node

    def put(self, socket: Socket, value: Any) -> None:
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            socket.default_value = value

    def math(self, operation: str, *values: Any) -> Socket:
        node = self.add("ShaderNodeMath", dict(enumerate(values)), operation=operation)
        return node.outputs[0]

    def both(self, a: Socket, b: Socket, operation: str = "AND") -> Socket:
        node = self.add("FunctionNodeBooleanMath", {0: a, 1: b}, operation=operation)
        return node.outputs[0]

    def opposite(self, a: Socket) -> Socket:
        return self.add("FunctionNodeBooleanMath", {0: a}, operation="NOT").outputs[0]

    def without(self, geometry: Socket, faces: Socket) -> Socket:
        inputs = {0: geometry, 1: faces}
        node = self.add("GeometryNodeDeleteGeometry", inputs, domain="FACE", mode="ALL")
        return node.outputs[0]

    def any_of(self, *values: Socket) -> Socket:
        result = values[0]
        for value in values[1:]:
            result = self.both(result, value, "OR")
        return result

    def above(self, a: Any, b: Any) -> Socket:
        return self.add("FunctionNodeCompare", {0: a, 1: b}, operation="GREATER_THAN").outputs[0]

    def switch(self, kind: str, condition: Socket, if_false: Any, if_true: Any) -> Socket:
        inputs = {"Switch": condition, "False": if_false, "True": if_true}
        return self.add("GeometryNodeSwitch", inputs, input_type=kind).outputs[0]

    def vector(self, x: Any, y: Any, z: Any) -> Socket:
        return self.add("ShaderNodeCombineXYZ", {0: x, 1: y, 2: z}).outputs[0]

    def xyz(self, vector: Socket) -> tuple[Socket, Socket, Socket]:
        outputs = self.add("ShaderNodeSeparateXYZ", {0: vector}).outputs
        return outputs[0], outputs[1], outputs[2]

    def attribute(self, name: str, kind: str = "FLOAT") -> Socket:
        node = self.add("GeometryNodeInputNamedAttribute", {"Name": name}, data_type=kind)
        return node.outputs["Attribute"]

    def store(
        self,
        geometry: Socket,
        name: str,
        value: Socket,
        kind: str = "FLOAT",
        domain: str = "POINT",
        selection: Any = True,
    ) -> Socket:
        inputs = {"Geometry": geometry, "Name": name, "Value": value, "Selection": selection}
        node = self.add("GeometryNodeStoreNamedAttribute", inputs, data_type=kind, domain=domain)
        return node.outputs[0]

    def positioned(self, geometry: Socket, position: Socket) -> Socket:
        inputs = {"Geometry": geometry, "Position": position}
        return self.add("GeometryNodeSetPosition", inputs).outputs[0]

    def number(self, condition: Socket) -> Socket:
        return self.switch("FLOAT", condition, 0.0, 1.0)

    def on_domain(self, value: Socket, domain: str) -> Socket:
        node = self.add("GeometryNodeFieldOnDomain", {0: value}, data_type="FLOAT", domain=domain)
        return node.outputs[0]

    def sample(self, geometry: Socket, value: Socket, index: Socket, kind: str = "FLOAT") -> Socket:
        inputs = {"Geometry": geometry, "Value": value, "Index": index}
        node = self.add("GeometryNodeSampleIndex", inputs, data_type=kind, domain="POINT")
        return node.outputs["Value"]
