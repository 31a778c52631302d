"""First impression and real scale: the example, measurements picked with the mouse, CG, a move."""

from __future__ import annotations

import math
import time

import bpy
from gui_hands import (
    activity,
    area_of,
    check,
    click,
    depth_meshes,
    fill_in,
    key,
    main_window,
    open_tab,
    part,
    place,
    press,
    region_of,
    run_ends,
    shot,
    sidebar_buttons,
    tell_story,
    use_engine,
    view_middle,
    wait,
)


def the_example():
    yield from open_tab()
    use_engine()
    for column, quality in ((0.8, "BEST"), (0.5, "GOOD")):
        yield from press("quality", columns=(column,))
        chosen = bpy.context.scene.marigold.quality
        check(f"quality_{quality}", chosen == quality, chosen)
    yield from press("example.jpg")
    yield from wait(lambda: activity().running, 20)
    ended = yield from run_ends()
    began = time.monotonic()
    yield 1.0
    yield from shot("01_a_second_after_the_run")
    check("example", ended and len(depth_meshes()) == 1, f"{time.monotonic() - began:.1f} s")


def open_real_scale():
    """Live Shape is folded, so that Real Scale has room: both by their titles."""
    window = main_window()
    places = yield from sidebar_buttons(until="view='Unlit'")
    x, y = place(places, "view='Unlit'")
    yield from click(window, x, y + 31)
    yield 0.5
    yield from click(window, x, y + 31 - 28)
    yield 1.0
    yield from shot("02_real_scale")


def pick(kind: str, *spots):
    """Press the pipette of a kind, and click at places of the viewport from its middle."""
    window = main_window()
    yield from press(f"kind='{kind}'", columns=(0.83, 0.8))
    yield 0.3
    for across, up in spots:
        x, y = view_middle()
        yield from click(window, x + across, y + up)
        yield 0.3


def measure():
    obj = depth_meshes()[0]
    known = obj.marigold_known
    yield from pick("DISTANCE", (-60, -160))
    places = yield from sidebar_buttons(columns=(0.6,), step=5)
    yield from fill_in(main_window(), place(places, "distance"), "2.4")
    check("distance_typed", math.isclose(known.points[0].distance, 2.4, rel_tol=1e-4))
    for spot in ((100, 120), (-150, 20)):
        yield from pick("DISTANCE", spot)
    check("distances_picked", len(known.points) == 3, [list(p.at) for p in known.points])
    yield from pick("LENGTH", (-200, -60), (60, -60))
    check("length_picked", len(known.lengths) == 1)
    yield from pick("FLOOR", (-150, -200), (180, -150), (160, -60))
    yield from key(main_window(), "RET", view_middle())
    check("floor_picked", len(known.floor) == 3)
    yield from shot("03_picked")
    for point in known.points[1:]:
        point.distance *= 2.4 / 1.5
    known.lengths[0].length *= 2.4 / 1.5
    yield from press("marigold.fit_metres")
    yield 1.5
    check("fitted", known.fitted, known.report)
    yield from press("marigold.align_ground")
    yield 1.0
    yield from shot("04_in_metres")


def again_in_place():
    near = part("mesh.shape_inputs").get_input(depth_meshes()[0], "Near")
    bpy.context.scene.marigold.picture = part("backend.engine_session").EXAMPLE.as_posix()
    yield from press("marigold.depth_mesh(")
    yield from wait(lambda: activity().running, 20)
    yield from run_ends()
    yield 1.0
    check("in_place", len(depth_meshes()) == 1, [obj.name for obj in depth_meshes()])
    now = part("mesh.shape_inputs").get_input(depth_meshes()[0], "Near")
    check("still_in_metres", math.isclose(near, now, rel_tol=0.05), [near, now])


def look_around():
    window = main_window()
    area = area_of(window, "VIEW_3D")
    view = area.spaces.active.region_3d
    with bpy.context.temp_override(window=window, area=area, region=region_of(area, "WINDOW")):
        view.view_perspective = "PERSP"
        bpy.ops.view3d.view_orbit(angle=math.radians(30), type="ORBITLEFT")
    yield 3.0
    yield from shot("05_orbit_30")
    with bpy.context.temp_override(window=window, area=area, region=region_of(area, "WINDOW")):
        bpy.ops.marigold.camera_move(kind="PARALLAX")
    bpy.context.scene.frame_set(31)
    yield 2.0
    yield from shot("06_camera_move")
    check("moves", view.view_perspective == "CAMERA" and bpy.context.scene.frame_end == 120)


tell_story(the_example, open_real_scale, measure, again_in_place, look_around)
