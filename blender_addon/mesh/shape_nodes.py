# SPDX-License-Identifier: GPL-3.0-or-later
"""The live shape: a Geometry Nodes group with the formula of `marigold_core.geometry`.

    z = near + relief * d * (far - near)
    position = z * (tan(fov / 2) * ray.xy, -1)            perspective
    position = (far * tan(fov / 2) * ray.xy, -z)          flat displacement
    position = z * ray                                    panorama

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
from .depth_grid import ACROSS, HOLE
from .grid_mesh import (
    BACKGROUND,
    DEPTH,
    DISTANCE,
    FURTHEST,
    NEAREST,
    PIXEL,
    RAY,
    SEAM,
    SEAM_FURTHEST,
    SEAM_NEAREST,
    UNCERTAINTY,
    UV_MAP,
)  # fmt: skip
from .node_builder import NodeBuilder, Socket

GROUP = "Marigold Shape"
# Raised with every change of the nodes: meshes of an older file keep the group they have.
VERSION = 6

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
    ("Resolution", INT, 100, 1, 100, "PERCENTAGE", "Share of the rows and columns to keep; all are"
     " kept at tears and holes"),
    ("Solid", BOOL, False, None, None, "NONE", "Close the mesh with a flat back and side walls"),
    ("Thickness", FLOAT, 0.2, 0.0, None, "DISTANCE", "From the furthest depth to the back"),
    ("Points", BOOL, False, None, None, "NONE", "Show a point cloud in place of the surface"),
    ("Point Size", FLOAT, 1.0, 0.0, 100.0, "FACTOR", "Diameter of a point in pixels of the picture,"
     " where it is"),
    ("Animated", BOOL, False, None, None, "NONE", "Take the depth from the image sequence"),
    ("Depth Sequence", "NodeSocketImage", None, None, None, "NONE",
     "Frames of depth, 0 = near and 1 = far, as Non-Color"),
    ("Material", "NodeSocketMaterial", None, None, None, "NONE", "Material of the mesh"),
    ("Rows", INT, 2, 2, None, "NONE", "Rows of the grid"),
    ("Columns", INT, 2, 2, None, "NONE", "Columns of the grid"),
    ("Panorama", BOOL, False, None, None, "NONE", "The picture is equirectangular, and depth the"
     " distance from its centre"),
)  # fmt: skip
HIDDEN = ("Rows", "Columns", "Panorama")


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
    animated = given["Animated"]
    frame = nodes.switch("FLOAT", animated, nodes.attribute(DEPTH), _sequence(nodes, given))
    # Kept in an attribute: fields would read the image again for every use below.
    base = given["Geometry"]
    base = nodes.switch("GEOMETRY", animated, base, nodes.store(base, DEPTH, frame))

    reach = nodes.attribute(BACKGROUND)
    filled = nodes.above(reach, 2 * ACROSS)
    across = nodes.both(nodes.above(reach, 0.0), nodes.opposite(filled))
    front = nodes.opposite(nodes.above(reach, 0.0))
    nearest, furthest = _face_extremes(nodes, DEPTH)
    nearest = nodes.switch("FLOAT", animated, nodes.attribute(NEAREST), nearest)
    furthest = nodes.switch("FLOAT", animated, nodes.attribute(FURTHEST), furthest)
    limit = nodes.math("MULTIPLY", _distance(nodes, given, nearest), given["Tear Ratio"])
    tears = nodes.both(given["Tear"], nodes.opposite(given["Solid"]))
    torn = nodes.both(tears, nodes.above(_distance(nodes, given, furthest), limit))
    masked = nodes.above(furthest, HOLE / 2)
    shown = nodes.both(nodes.both(tears, given["Background"]), nodes.opposite(animated))
    beyond = nodes.above(reach, nodes.math("MAXIMUM", given["Reach"], 2 * ACROSS))
    gone = nodes.any_of(
        nodes.both(front, nodes.any_of(torn, masked)),
        nodes.both(across, nodes.both(torn, nodes.opposite(shown))),
        nodes.both(filled, nodes.any_of(beyond, nodes.opposite(shown))),
    )
    # Where nothing is gone, this copies nothing: the usual case while a slider is dragged, as the
    # grid has no faces across the edges of its first shape.
    whole = nodes.without(base, gone)
    resampled = nodes.above(99.999, given["Resolution"])
    draft = _draft(nodes, given, base, gone, nodes.any_of(torn, masked), filled)
    geometry = nodes.switch("GEOMETRY", resampled, whole, draft)

    points = nodes.add("GeometryNodeAttributeDomainSize", {0: base}).outputs["Point Count"]
    grid_points = nodes.math("MULTIPLY", given["Rows"], given["Columns"])
    layered = nodes.above(points, nodes.math("ADD", grid_points, 0.5))
    # A face across an edge that is not torn is the front's: its vertices behind move forward.
    seam, in_front = nodes.attribute(SEAM, "BOOLEAN"), nodes.attribute(SEAM_NEAREST)
    closed = nodes.store(geometry, DEPTH, in_front, selection=seam)
    closed = _merged(nodes, given, closed, seam)
    merges = nodes.both(layered, nodes.opposite(tears))
    geometry = nodes.switch("GEOMETRY", merges, geometry, closed)

    blurred = nodes.add(
        "GeometryNodeBlurAttribute",
        {"Value": nodes.attribute(DEPTH), "Iterations": given["Smoothing"]},
        data_type="FLOAT",
    ).outputs[0]
    geometry = nodes.store(geometry, DISTANCE, _distance(nodes, given, blurred))
    limit = nodes.math("MULTIPLY", _distance(nodes, given, in_front), given["Tear Ratio"])
    apart = nodes.above(_distance(nodes, given, nodes.attribute(SEAM_FURTHEST)), limit)
    apart = nodes.any_of(apart, nodes.above(given["Smoothing"], 0.5))
    d = nodes.switch("FLOAT", apart, in_front, blurred)
    joined = nodes.store(geometry, DISTANCE, _distance(nodes, given, d), selection=seam)
    # A face of the layer with a corner on the front may coincide with it, and either is then drawn:
    # both show the picture, so that the matched view has no specks of the layer's colour.
    deeper = nodes.above(nodes.attribute(DISTANCE), _distance(nodes, given, in_front))
    apart = nodes.any_of(nodes.opposite(seam), deeper)
    inputs = {"data_type": "BOOLEAN", "domain": "POINT"}
    apart = nodes.add("GeometryNodeFieldOnDomain", {0: apart}, **inputs).outputs[0]
    # A face is apart where all its corners are: looked up for the layer's faces alone.
    joined = nodes.store(joined, "behind", apart, "BOOLEAN", "FACE", selection=filled)
    joins = nodes.both(layered, tears)
    geometry = nodes.switch("GEOMETRY", joins, geometry, joined)
    geometry = nodes.positioned(geometry, _position(nodes, given, nodes.attribute(DISTANCE)))
    surface = nodes.switch("GEOMETRY", given["Solid"], geometry, _solid(nodes, given, geometry))
    points = _points(nodes, given, geometry)
    geometry = nodes.switch("GEOMETRY", given["Points"], surface, points)
    geometry = nodes.add(
        "GeometryNodeSetMaterial",
        {
            "Geometry": geometry,
            "Selection": nodes.opposite(nodes.attribute("behind", "BOOLEAN")),
            "Material": given["Material"],
        },
    ).outputs[0]
    nodes.add("NodeGroupOutput", {0: geometry})


def _merged(nodes: NodeBuilder, given: Any, geometry: Socket, seam: Socket) -> Socket:
    """The front and the faces across its edges as one surface."""
    z = _distance(nodes, given, nodes.attribute(DEPTH))
    geometry = nodes.positioned(geometry, _position(nodes, given, z))
    inputs = {"Geometry": geometry, "Selection": seam, "Distance": 1e-6}
    return nodes.add("GeometryNodeMergeByDistance", inputs).outputs[0]


def _distance(nodes: NodeBuilder, given: Any, d: Socket) -> Socket:
    span = nodes.math("SUBTRACT", given["Far"], given["Near"])
    relief = nodes.math("MULTIPLY", d, given["Relief"])
    return nodes.math("ADD", given["Near"], nodes.math("MULTIPLY", relief, span))


def _position(nodes: NodeBuilder, given: Any, z: Socket) -> Socket:
    tangent = _tangent(nodes, given, 1.0)
    flat = nodes.both(given["Flat Displacement"], nodes.opposite(given["Panorama"]))
    spread = nodes.switch("FLOAT", flat, z, given["Far"])
    x, y, ahead = nodes.xyz(nodes.attribute(RAY, "FLOAT_VECTOR"))
    spread_x = nodes.math("MULTIPLY", spread, nodes.math("MULTIPLY", x, tangent))
    spread_y = nodes.math("MULTIPLY", spread, nodes.math("MULTIPLY", y, tangent))
    return nodes.vector(spread_x, spread_y, nodes.math("MULTIPLY", z, ahead))


def _tangent(nodes: NodeBuilder, given: Any, of_panorama: float) -> Socket:
    tangent = nodes.math("TANGENT", nodes.math("MULTIPLY", given["Field of View"], 0.5))
    return nodes.switch("FLOAT", given["Panorama"], tangent, of_panorama)


def _face_extremes(nodes: NodeBuilder, name: str) -> tuple[Socket, Socket]:
    """The least and the greatest value of a point attribute over the four corners of a face."""
    a, b, c, e = (_at_corner(nodes, name, k) for k in range(4))
    extremes = [
        nodes.math(word, nodes.math(word, a, b), nodes.math(word, c, e))
        for word in ("MINIMUM", "MAXIMUM")
    ]
    return extremes[0], extremes[1]


def _at_corner(nodes: NodeBuilder, name: str, number: int) -> Socket:
    """A point attribute at the corner of a face; corner 0 of the base mesh is its top left."""
    face = nodes.add("GeometryNodeInputIndex").outputs[0]
    corner = nodes.add("GeometryNodeCornersOfFace", {"Face Index": face, "Sort Index": number})
    vertex = nodes.add("GeometryNodeVertexOfCorner", {0: corner.outputs["Corner Index"]})
    inputs = {"Value": nodes.attribute(name), "Index": vertex.outputs[0]}
    at = nodes.add("GeometryNodeFieldAtIndex", inputs, data_type="FLOAT", domain="POINT")
    return at.outputs[0]


def _draft(
    nodes: NodeBuilder, given: Any, base: Socket, gone: Socket, split: Socket, filled: Socket
) -> Socket:
    """A smaller grid at evenly spread rows and columns, as in `geometry.grid_lines`, whose faces
    that contain a tear or a hole are replaced by those of the base: outlines stay exact, and no
    objects are joined."""
    share = nodes.math("DIVIDE", given["Resolution"], 100.0)
    lines: dict[str, Any] = {}
    for name in ("Rows", "Columns"):
        count = nodes.math("ROUND", nodes.math("MULTIPLY", given[name], share))
        kept = nodes.math("MAXIMUM", count, 2.0)
        last = nodes.math("SUBTRACT", kept, 1.0)
        stride = nodes.math("DIVIDE", nodes.math("SUBTRACT", given[name], 1.0), last)
        lines[name] = kept, last, stride

    # Of each vertex of the base the number of the cell that begins there.
    known = nodes.add("GeometryNodeInputNamedAttribute", {"Name": PIXEL}, data_type="INT").outputs
    index = nodes.add("GeometryNodeInputIndex").outputs[0]
    pixel = nodes.switch("INT", known["Exists"], index, known["Attribute"])
    row = nodes.math("FLOOR", nodes.math("DIVIDE", nodes.math("ADD", pixel, 0.5), given["Columns"]))
    place = {
        "Rows": row,
        "Columns": nodes.math("SUBTRACT", pixel, nodes.math("MULTIPLY", row, given["Columns"])),
    }
    cell = {}
    for name, (_, last, stride) in lines.items():
        line = nodes.math("DIVIDE", nodes.math("ADD", place[name], 0.5), stride)
        line = nodes.math("SUBTRACT", nodes.math("CEIL", line), 1.0)
        cell[name] = nodes.math("MINIMUM", line, nodes.math("SUBTRACT", last, 1.0))
    cell = nodes.math("ADD", nodes.math("MULTIPLY", cell["Rows"], lines["Columns"][1]),
                      cell["Columns"])  # fmt: skip
    in_face = nodes.add("GeometryNodeFaceOfCorner").outputs["Index in Face"]
    first = nodes.opposite(nodes.above(in_face, 0.5))
    split = nodes.both(split, nodes.opposite(nodes.any_of(filled, given["Solid"])))
    flag = nodes.on_domain(nodes.number(nodes.both(split, first)), "CORNER")
    total = nodes.add(
        "GeometryNodeAccumulateField",
        {"Value": flag, "Group ID": cell},
        data_type="FLOAT",
        domain="POINT",
    ).outputs["Total"]
    base = nodes.store(base, "split", total)
    fine = nodes.above(_at_corner(nodes, "split", 0), 0.0)
    coarse = nodes.both(nodes.opposite(fine), nodes.opposite(filled))
    details = nodes.without(base, nodes.any_of(gone, coarse))

    grid = _thinned(nodes, given, base, lines)
    corner, _ = _face_extremes(nodes, "source")
    covered = nodes.above(nodes.sample(base, nodes.attribute("split"), corner), 0.0)
    hole = nodes.above(nodes.on_domain(nodes.attribute(DEPTH), "FACE"), HOLE / 100)
    grid = nodes.without(grid, nodes.any_of(covered, hole))
    joined = nodes.add("GeometryNodeJoinGeometry")
    for part in (details, grid):
        nodes.put(joined.inputs[0], part)
    geometry = joined.outputs[0]
    for name in ("source", "split"):
        inputs = {"Geometry": geometry, "Name": name}
        geometry = nodes.add("GeometryNodeRemoveAttribute", inputs).outputs[0]
    return geometry


def _thinned(nodes: NodeBuilder, given: Any, base: Socket, lines: dict[str, Any]) -> Socket:
    """A grid of the base's values at `lines`; its point attribute "source" is the vertex."""
    inputs = {"Vertices X": lines["Columns"][0], "Vertices Y": lines["Rows"][0]}
    mesh = nodes.add("GeometryNodeMeshGrid", inputs)
    # Blender's grid counts up its columns, from the bottom; the half keeps the quotient's floor
    # right in 32-bit floats.
    index, rows = nodes.add("GeometryNodeInputIndex").outputs[0], lines["Rows"][0]
    column = nodes.math("FLOOR", nodes.math("DIVIDE", nodes.math("ADD", index, 0.5), rows))
    from_bottom = nodes.math("SUBTRACT", index, nodes.math("MULTIPLY", column, rows))
    row = nodes.math("SUBTRACT", lines["Rows"][1], from_bottom)
    line = {}
    for name, number in (("Rows", row), ("Columns", column)):
        base_last = nodes.math("SUBTRACT", given[name], 1.0)
        way = nodes.math("DIVIDE", nodes.math("MULTIPLY", number, base_last), lines[name][1])
        line[name] = nodes.math("FLOOR", nodes.math("ADD", way, 0.5))
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
    return nodes.add("GeometryNodeSetShadeSmooth", {"Geometry": geometry}).outputs[0]


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


def _points(nodes: NodeBuilder, given: Any, surface: Socket) -> Socket:
    """The vertices of the front as a point cloud, as large as the pixels they are from."""
    # A point cloud has no face corners, where a mesh has its texture coordinates.
    uv = nodes.attribute(UV_MAP, "FLOAT_VECTOR")
    surface = nodes.store(surface, UV_MAP, uv, "FLOAT2", "POINT")
    z = nodes.switch("FLOAT", given["Flat Displacement"], nodes.attribute(DISTANCE), given["Far"])
    half = nodes.math("MULTIPLY", z, _tangent(nodes, given, math.pi))  # of what the camera sees
    longer = nodes.math("MAXIMUM", given["Rows"], given["Columns"])
    pixel = nodes.math("DIVIDE", half, longer)
    inputs = {
        "Mesh": surface,
        "Selection": nodes.opposite(nodes.above(nodes.attribute(BACKGROUND), 0.0)),
        "Radius": nodes.math("MULTIPLY", pixel, given["Point Size"]),
    }
    return nodes.add("GeometryNodeMeshToPoints", inputs).outputs[0]


def _solid(nodes: NodeBuilder, given: Any, front: Socket) -> Socket:
    """The front, a copy of it pressed flat onto the back, and walls between the two.

    Extruding moves every face to the back and leaves walls at every border, the torn ones too;
    turned round it is the outside of the rest of the body.
    """
    front = _without_pinches(nodes, front)
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
    # On the edges themselves: a point has the mean of its edges' counts.
    border = nodes.add(
        "GeometryNodeFieldOnDomain", {0: _border(nodes)}, data_type="BOOLEAN", domain="EDGE"
    )
    inputs = {"Geometry": joined.outputs[0], "Selection": border.outputs[0], "Distance": 1e-6}
    return nodes.add("GeometryNodeMergeByDistance", inputs).outputs[0]


def _border(nodes: NodeBuilder) -> Socket:
    """Edges of a single face."""
    neighbours = nodes.add("GeometryNodeInputMeshEdgeNeighbors").outputs[0]
    inputs = {"A": neighbours, "B": 1}
    return nodes.add("FunctionNodeCompare", inputs, data_type="INT", operation="EQUAL").outputs[0]


def _without_pinches(nodes: NodeBuilder, geometry: Socket) -> Socket:
    """Where two faces touch at one vertex alone, each gets its own, slightly inside the face: a
    wall through both would have an edge with four faces."""
    around = nodes.add("GeometryNodeInputMeshVertexNeighbors").outputs
    lone = nodes.math("SUBTRACT", around["Vertex Count"], around["Face Count"])
    geometry = nodes.store(geometry, "pinch", nodes.above(lone, 1.5), "BOOLEAN")
    inputs = {"Mesh": geometry, "Selection": _border(nodes)}
    geometry = nodes.add("GeometryNodeSplitEdges", inputs).outputs[0]
    position = nodes.add("GeometryNodeInputPosition").outputs[0]
    centre = nodes.add(
        "GeometryNodeFieldOnDomain", {0: position}, data_type="FLOAT_VECTOR", domain="FACE"
    ).outputs[0]
    inside = nodes.add("ShaderNodeMix", {0: 0.02, 4: position, 5: centre}, data_type="VECTOR")
    inputs = {
        "Geometry": geometry,
        "Selection": nodes.attribute("pinch", "BOOLEAN"),
        "Position": inside.outputs[1],
    }
    geometry = nodes.add("GeometryNodeSetPosition", inputs).outputs[0]
    inputs = {"Geometry": geometry, "Name": "pinch"}
    return nodes.add("GeometryNodeRemoveAttribute", inputs).outputs[0]
