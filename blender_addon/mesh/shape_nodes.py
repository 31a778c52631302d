# SPDX-License-Identifier: GPL-3.0-or-later
"""The live shape: a Geometry Nodes group with the formula of `marigold_core.geometry`.

    z = near + relief * d * (far - near)
    position = z * (tan(fov / 2) * ray.xy, -1)            perspective
    position = (far * tan(fov / 2) * ray.xy, -z)          flat displacement

A face is left out where the z of its furthest corner is more than `tear` times that of its
nearest; the faces of the background layer are behind it. The model is not used, so every slider
is live, can be keyed, and works on a machine without the add-on. The group tears first and smooths
after, so that smoothing follows the edges that are left and never crosses a tear.
"""

from __future__ import annotations

import math
from typing import Any

import bpy

from ..backend.engine_parts import FAR, FOV_DEGREES, NEAR
from .depth_grid import HOLE
from .grid_mesh import BACKGROUND, DEPTH, DISTANCE, FURTHEST, NEAREST, RAY, UNCERTAINTY, UV_MAP
from .node_builder import NodeBuilder, Socket

GROUP = "Marigold Shape"
# Raised with every change of the nodes: meshes of an older file keep the group they have.
VERSION = 2

# Name, socket, default, least, greatest, what it does.
FLOAT, BOOL, INT = "NodeSocketFloat", "NodeSocketBool", "NodeSocketInt"
INPUTS: tuple[tuple[str, str, Any, float | None, float | None, str, str], ...] = (
    ("Near", FLOAT, NEAR, 1e-4, None, "DISTANCE", "Distance of the nearest depth, 0"),
    ("Far", FLOAT, FAR, 1e-3, None, "DISTANCE", "Distance of the furthest depth, 1"),
    ("Field of View", FLOAT, math.radians(FOV_DEGREES), math.radians(1), math.radians(170),
     "ANGLE", "Across the longer side of the picture; the matched camera follows"),
    ("Relief", FLOAT, 1.0, 0.0, 10.0, "FACTOR", "Strength of the depth: 0 is a flat card at Near"),
    ("Flat Displacement", BOOL, False, None, None, "NONE",
     "Push a flat picture by its depth instead of spreading it along the camera's rays"),
    ("Tear", BOOL, True, None, None, "NONE", "Leave out the faces between an object and what is"
     " behind it; a solid mesh has no tears"),
    ("Tear Ratio", FLOAT, 1.05, 1.0001, 4.0, "NONE", "Leave a face out if its furthest corner is"
     " more than this many times as far as its nearest"),
    ("Background", BOOL, True, None, None, "NONE", "Show the layer that continues the background"
     " behind the tears"),
    ("Reach", FLOAT, 1.0, 0.0, 1.0, "FACTOR", "How far the background continues behind"
     " the foreground"),
    ("Smoothing", INT, 0, 0, 100, "NONE", "Rounds of averaging with the neighbours; never across a"
     " tear"),
    ("Resolution", INT, 100, 1, 100, "PERCENTAGE", "Share of the rows and columns to keep"),
    ("Solid", BOOL, False, None, None, "NONE", "Close the mesh with a flat back and side walls"),
    ("Thickness", FLOAT, 0.2, 0.0, None, "DISTANCE", "From the furthest depth to the back"),
    ("Animated", BOOL, False, None, None, "NONE", "Take the depth from the image sequence"),
    ("Depth Sequence", "NodeSocketImage", None, None, None, "NONE",
     "Frames of depth, 0 = near and 1 = far, as Non-Color"),
    ("Material", "NodeSocketMaterial", None, None, None, "NONE", "Material of the mesh"),
    ("Rows", INT, 2, 2, None, "NONE", "Rows of the grid"),
    ("Columns", INT, 2, 2, None, "NONE", "Columns of the grid"),
)  # fmt: skip
HIDDEN = ("Rows", "Columns")


def shape_group() -> bpy.types.NodeTree:
    """The group of this version in this file, made if it is not there."""
    for group in bpy.data.node_groups:
        if group.get("marigold_version") == VERSION and group.bl_idname == "GeometryNodeTree":
            return group
    group = bpy.data.node_groups.new(GROUP, "GeometryNodeTree")
    group["marigold_version"] = VERSION
    group.is_modifier = True
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    for name, kind, default, least, greatest, subtype, description in INPUTS:
        socket = group.interface.new_socket(name, in_out="INPUT", socket_type=kind)
        socket.description = description
        if kind in (FLOAT, INT) and subtype != "NONE":
            socket.subtype = subtype
        if default is not None:
            socket.default_value = default
        if least is not None:
            socket.min_value = least
        if greatest is not None:
            socket.max_value = greatest
        socket.hide_in_modifier = name in HIDDEN
    _build(NodeBuilder(group))
    return group


def _build(nodes: NodeBuilder) -> None:
    given = nodes.add("NodeGroupInput").outputs
    base = given["Geometry"]
    resampled = nodes.above(99.999, given["Resolution"])
    grid, stride = _thinned(nodes, given, base)
    behind = nodes.above(nodes.attribute(BACKGROUND), 0.0)
    front = nodes.opposite(behind)
    joined = nodes.add("GeometryNodeJoinGeometry")
    for part in (nodes.without(base, front), grid):
        nodes.put(joined.inputs[0], part)
    geometry = nodes.switch("GEOMETRY", resampled, base, joined.outputs[0])

    animated = given["Animated"]
    frame = nodes.switch("FLOAT", animated, nodes.attribute(DEPTH), _sequence(nodes, given))
    # Kept in an attribute: fields would read the image again for every use below.
    geometry = nodes.switch("GEOMETRY", animated, geometry, nodes.store(geometry, DEPTH, frame))

    nearest, furthest = _face_extremes(nodes)
    worked_out = nodes.both(resampled, animated, "OR")
    nearest = nodes.switch("FLOAT", worked_out, nodes.attribute(NEAREST), nearest)
    furthest = nodes.switch("FLOAT", worked_out, nodes.attribute(FURTHEST), furthest)
    # The slope that tears stays the same where the vertices lie further apart.
    excess = nodes.math("SUBTRACT", given["Tear Ratio"], 1.0)
    excess = nodes.math("MULTIPLY", excess, nodes.switch("FLOAT", resampled, 1.0, stride))
    ratio = nodes.math("ADD", 1.0, excess)
    limit = nodes.math("MULTIPLY", _distance(nodes, given, nearest), ratio)
    tears = nodes.both(given["Tear"], nodes.opposite(given["Solid"]))
    torn = nodes.both(tears, nodes.above(_distance(nodes, given, furthest), limit))
    torn = nodes.both(torn, front)
    masked = nodes.above(furthest, HOLE / 2)
    shown = nodes.both(nodes.both(tears, given["Background"]), nodes.opposite(animated))
    beyond = nodes.above(nodes.attribute(BACKGROUND), nodes.math("MAXIMUM", given["Reach"], 2e-6))
    hidden = nodes.both(behind, nodes.both(beyond, nodes.opposite(shown), "OR"))
    gone = nodes.both(nodes.both(torn, masked, "OR"), hidden, "OR")
    geometry = nodes.without(geometry, gone)

    blurred = nodes.add(
        "GeometryNodeBlurAttribute",
        {"Value": nodes.attribute(DEPTH), "Iterations": given["Smoothing"]},
        data_type="FLOAT",
    ).outputs[0]
    z = _distance(nodes, given, blurred)
    geometry = nodes.store(geometry, DISTANCE, z)
    position = _position(nodes, given, nodes.attribute(DISTANCE))
    geometry = nodes.add(
        "GeometryNodeSetPosition", {"Geometry": geometry, "Position": position}
    ).outputs[0]
    geometry = nodes.switch("GEOMETRY", given["Solid"], geometry, _solid(nodes, given, geometry))
    geometry = nodes.add(
        "GeometryNodeSetMaterial",
        {"Geometry": geometry, "Selection": front, "Material": given["Material"]},
    ).outputs[0]
    nodes.add("NodeGroupOutput", {0: geometry})


def _distance(nodes: NodeBuilder, given: Any, d: Socket) -> Socket:
    span = nodes.math("SUBTRACT", given["Far"], given["Near"])
    relief = nodes.math("MULTIPLY", d, given["Relief"])
    return nodes.math("ADD", given["Near"], nodes.math("MULTIPLY", relief, span))


def _position(nodes: NodeBuilder, given: Any, z: Socket) -> Socket:
    tangent = nodes.math("TANGENT", nodes.math("MULTIPLY", given["Field of View"], 0.5))
    spread = nodes.switch("FLOAT", given["Flat Displacement"], z, given["Far"])
    x, y, _ = nodes.xyz(nodes.attribute(RAY, "FLOAT_VECTOR"))
    spread_x = nodes.math("MULTIPLY", spread, nodes.math("MULTIPLY", x, tangent))
    spread_y = nodes.math("MULTIPLY", spread, nodes.math("MULTIPLY", y, tangent))
    return nodes.vector(spread_x, spread_y, nodes.math("MULTIPLY", z, -1.0))


def _face_extremes(nodes: NodeBuilder) -> tuple[Socket, Socket]:
    """The least and the greatest d over the four corners of a face."""
    corners = []
    face = nodes.add("GeometryNodeInputIndex").outputs[0]
    for k in range(4):
        corner = nodes.add("GeometryNodeCornersOfFace", {"Face Index": face, "Sort Index": k})
        vertex = nodes.add("GeometryNodeVertexOfCorner", {0: corner.outputs["Corner Index"]})
        inputs = {"Value": nodes.attribute(DEPTH), "Index": vertex.outputs[0]}
        at = nodes.add("GeometryNodeFieldAtIndex", inputs, data_type="FLOAT", domain="POINT")
        corners.append(at.outputs[0])
    a, b, c, e = corners
    extremes = [
        nodes.math(word, nodes.math(word, a, b), nodes.math(word, c, e))
        for word in ("MINIMUM", "MAXIMUM")
    ]
    return extremes[0], extremes[1]


def _thinned(nodes: NodeBuilder, given: Any, base: Socket) -> tuple[Socket, Socket]:
    """A smaller grid with the base's values at evenly spread rows and columns, as in
    `geometry.grid_lines`; and how many rows of the base lie between two of its rows."""
    share = nodes.math("DIVIDE", given["Resolution"], 100.0)
    kept, last = {}, {}
    for name in ("Rows", "Columns"):
        count = nodes.math("ROUND", nodes.math("MULTIPLY", given[name], share))
        kept[name] = nodes.math("MAXIMUM", count, 2.0)
        last[name] = nodes.math("SUBTRACT", kept[name], 1.0)
    mesh = nodes.add(
        "GeometryNodeMeshGrid", {"Vertices X": kept["Columns"], "Vertices Y": kept["Rows"]}
    )
    # Blender's grid counts up its columns, from the bottom; the half keeps the quotient's floor
    # right in 32-bit floats.
    index = nodes.add("GeometryNodeInputIndex").outputs[0]
    column = nodes.math("FLOOR", nodes.math("DIVIDE", nodes.math("ADD", index, 0.5), kept["Rows"]))
    from_bottom = nodes.math("SUBTRACT", index, nodes.math("MULTIPLY", column, kept["Rows"]))
    place = {"Rows": nodes.math("SUBTRACT", last["Rows"], from_bottom), "Columns": column}
    line, strides = {}, []
    for name in ("Rows", "Columns"):
        base_last = nodes.math("SUBTRACT", given[name], 1.0)
        strides.append(nodes.math("DIVIDE", base_last, last[name]))
        way = nodes.math("DIVIDE", nodes.math("MULTIPLY", place[name], base_last), last[name])
        line[name] = nodes.math("ROUND", way)
    source = nodes.math(
        "ADD", nodes.math("MULTIPLY", line["Rows"], given["Columns"]), line["Columns"]
    )
    # One integer a vertex, worked out once for the values below.
    geometry = nodes.store(mesh.outputs["Mesh"], "source", source, "INT")
    source = nodes.attribute("source", "INT")
    for name, kind in ((DEPTH, "FLOAT"), (RAY, "FLOAT_VECTOR"), (UNCERTAINTY, "FLOAT")):
        value = nodes.sample(base, nodes.attribute(name, kind), source, kind)
        geometry = nodes.store(geometry, name, value, kind)
    uv = nodes.sample(base, nodes.attribute(UV_MAP, "FLOAT_VECTOR"), source, "FLOAT_VECTOR")
    geometry = nodes.store(geometry, UV_MAP, uv, "FLOAT2", "CORNER")
    geometry = nodes.add(
        "GeometryNodeRemoveAttribute", {"Geometry": geometry, "Name": "source"}
    ).outputs[0]
    geometry = nodes.add("GeometryNodeSetShadeSmooth", {"Geometry": geometry}).outputs[0]
    return geometry, nodes.math("MAXIMUM", *strides)


def _sequence(nodes: NodeBuilder, given: Any) -> Socket:
    """d at the vertex in this frame of the image sequence, without interpolation."""
    frame = nodes.add("GeometryNodeInputSceneTime").outputs["Frame"]
    inputs = {
        "Image": given["Depth Sequence"],
        "Vector": nodes.attribute(UV_MAP, "FLOAT_VECTOR"),
        "Frame": frame,
    }
    image = nodes.add(
        "GeometryNodeImageTexture", inputs, interpolation="Closest", extension="EXTEND"
    )
    return nodes.xyz(image.outputs["Color"])[0]


def _solid(nodes: NodeBuilder, given: Any, front: Socket) -> Socket:
    """The front, a copy of it pressed flat onto the back, and walls between the two.

    Extruding moves every face to the back and leaves walls at every border, the torn ones too;
    turned round it is the outside of the rest of the body.
    """
    back = nodes.math("ADD", _distance(nodes, given, 1.0), given["Thickness"])
    # Moved after, point by point: the node's own offset is one for a whole face.
    inputs = {"Mesh": front, "Offset Scale": 0.0, "Individual": False}
    extruded = nodes.add("GeometryNodeExtrudeMesh", inputs, mode="FACES").outputs
    inputs = {
        "Geometry": extruded["Mesh"],
        "Selection": extruded["Top"],
        "Position": _position(nodes, given, back),
    }
    pressed = nodes.add("GeometryNodeSetPosition", inputs).outputs[0]
    turned = nodes.add("GeometryNodeFlipFaces", {0: pressed}).outputs[0]
    joined = nodes.add("GeometryNodeJoinGeometry")
    for part in (front, turned):
        nodes.put(joined.inputs[0], part)
    neighbours = nodes.add("GeometryNodeInputMeshEdgeNeighbors").outputs[0]
    border = nodes.add(
        "FunctionNodeCompare", {"A": neighbours, "B": 1}, data_type="INT", operation="EQUAL"
    )
    # On the edges themselves: a point has the mean of its edges' counts.
    border = nodes.add(
        "GeometryNodeFieldOnDomain", {0: border.outputs[0]}, data_type="BOOLEAN", domain="EDGE"
    )
    inputs = {"Geometry": joined.outputs[0], "Selection": border.outputs[0], "Distance": 1e-6}
    return nodes.add("GeometryNodeMergeByDistance", inputs).outputs[0]
