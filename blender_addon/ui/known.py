# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user knows of one depth mesh: distances, lengths, a floor, the camera's height.

Places are (u, v) in the picture, 0 to 1, v upwards. A script fills the collections itself:
`point = obj.marigold_known.points.add(); point.at = (0.4, 0.2); point.distance = 3.2`.
"""

from __future__ import annotations

import bpy

METRES = {"default": 1.0, "min": 1e-4, "subtype": "DISTANCE"}


class KnownPoint(bpy.types.PropertyGroup):
    at: bpy.props.FloatVectorProperty(name="Point", size=2)
    distance: bpy.props.FloatProperty(
        name="Distance",
        description="From the camera to this point, as a tape or a laser measures it",
        **METRES,
    )
    left_out: bpy.props.BoolProperty(
        name="Left Out", description="It does not fit the others", default=False
    )


class KnownLength(bpy.types.PropertyGroup):
    start: bpy.props.FloatVectorProperty(name="Start", size=2)
    end: bpy.props.FloatVectorProperty(name="End", size=2)
    length: bpy.props.FloatProperty(
        name="Length", description="Between the two points, as a tape measures it", **METRES
    )


class FloorPoint(bpy.types.PropertyGroup):
    at: bpy.props.FloatVectorProperty(name="Point", size=2)


class Known(bpy.types.PropertyGroup):
    points: bpy.props.CollectionProperty(type=KnownPoint)
    lengths: bpy.props.CollectionProperty(type=KnownLength)
    floor: bpy.props.CollectionProperty(type=FloorPoint)
    camera_height: bpy.props.FloatProperty(
        name="Camera Height",
        description="Of the camera above the floor; 0 is unknown",
        default=0.0,
        min=0.0,
        subtype="DISTANCE",
    )
    # Of the last fit: 0 is not fitted, or not known.
    fitted: bpy.props.BoolProperty(default=False)
    relative_error: bpy.props.FloatProperty(default=0.0)
    report: bpy.props.StringProperty()


def clear_fit(known: Known) -> None:
    known.fitted, known.relative_error, known.report = False, 0.0, ""
    for point in known.points:
        point.left_out = False


CLASSES = (KnownPoint, KnownLength, FloorPoint, Known)
