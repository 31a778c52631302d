"""The artist's way, with real clicks: preferences, run, ESC, undo, sliders."""

from __future__ import annotations

import bpy
import gui_hands
from gui_hands import (
    area_of,
    buttons,
    check,
    click,
    depth_meshes,
    drag,
    escape,
    example,
    fill_in,
    key,
    main_window,
    move,
    open_tab,
    part,
    place,
    press,
    region_of,
    shot,
    sidebar_buttons,
    tell_story,
    view_middle,
    wait,
)


def fresh():
    yield from open_tab()
    yield from shot("01_tab_without_python")


def test_the_python():
    yield from press("addon_show")
    yield from wait(lambda: len(bpy.context.window_manager.windows) > 1, 5)
    yield 1.0
    check("preferences_open", len(bpy.context.window_manager.windows) > 1)
    page = bpy.context.window_manager.windows[-1]
    area = area_of(page, "PREFERENCES")
    region = region_of(area, "WINDOW")
    yield from shot("02_preferences")
    places = yield from buttons(page, area, region, columns=(0.6,), until="marigold.test_python")
    yield from fill_in(page, place(places, "python"), gui_hands.ENGINE_PYTHON)
    check(
        "python_typed",
        part("backend.engine_session").preferences().python == gui_hands.ENGINE_PYTHON,
    )
    setup = part("ui.operators.background").setup
    yield from click(page, *place(places, "marigold.test_python"))
    yield from shot("03_preferences_testing")
    yield from wait(lambda: not setup.running, 120)
    check("test_button", setup.state == "done", setup.message)
    yield from shot("04_preferences_tested")
    with bpy.context.temp_override(window=page):
        bpy.ops.wm.window_close()
    yield 0.5


def press_escape():
    window, activity = main_window(), part("ui.operators.background").run
    places = yield from sidebar_buttons(until="picture")
    picture = str(example())
    yield from fill_in(window, place(places, "picture"), picture)
    scene = bpy.context.scene.marigold
    check("picture_chosen", scene.picture == picture)
    scene.ensemble_size, scene.num_inference_steps = 8, 12  # longer than between two looks
    yield from press("marigold.depth_mesh(")
    yield from wait(lambda: activity.task is not None and activity.task.stage, 120)
    check("progress_first", activity.running, activity.words)
    yield from shot("05_progress_first")
    took = yield from escape()
    check("escape", not activity.running and took < 0.1, f"{took:.3f} s")
    check("escape_leaves_nothing", not depth_meshes())
    yield from shot("06_escaped")


def press_to_the_end():
    window, activity = main_window(), part("ui.operators.background").run
    scene = bpy.context.scene.marigold
    scene.ensemble_size, scene.num_inference_steps = 3, 4  # long enough to be seen
    yield from press("marigold.depth_mesh(")
    busy = yield from wait(
        lambda: (
            activity.task is not None and activity.task.stage == "denoise" and activity.task.step
        ),
        180,
    )
    check("progress", busy, activity.words)
    yield from shot("07_progress")
    yield from wait(lambda: not activity.running, 240)
    check("result", len(depth_meshes()) == 1, activity.error)
    yield 25.0  # the viewport's shaders are compiled, in software
    space = area_of(window, "VIEW_3D").spaces.active
    check("through_camera", space.region_3d.view_perspective == "CAMERA", space.shading.type)
    yield from shot("08_result")


def undo_and_redo():
    window = main_window()
    before = sorted(obj.name for obj in bpy.data.objects)
    yield from key(window, "Z", view_middle(), ctrl=True)
    yield 1.0
    left = [obj.name for obj in bpy.data.objects]
    check("one_undo", not depth_meshes(), left)
    yield from shot("09_undone")
    yield from key(window, "Z", view_middle(), ctrl=True, shift=True)
    yield 1.5
    check("redo", sorted(obj.name for obj in bpy.data.objects) == before)
    yield from shot("10_redone")


def shape_of(obj) -> list[float]:
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    mesh = obj.evaluated_get(graph).data
    depths = [mesh.vertices[k].co.z for k in range(0, len(mesh.vertices), 500)]
    return [len(mesh.vertices), len(mesh.polygons), max(depths, default=0), min(depths, default=0)]


def move_sliders():
    window = main_window()
    obj = depth_meshes()[0]
    yield from drag(
        window, view_middle(), (view_middle()[0] - 150, view_middle()[1] + 60), "MIDDLEMOUSE"
    )
    yield 1.0
    yield from shot("11_from_the_side")
    # One column, through the numbers.
    places = yield from sidebar_buttons(columns=(0.6, 0.2), step=10)
    print(*sorted(name[:60] for name in places), sep="; ")
    before = shape_of(obj)
    inputs = part("mesh.shape_inputs")
    for name, text in (("Near", "1.5"), ("Far", "4"), ("Tear Ratio", "1.005")):
        _, prop, path = inputs.holder(inputs.shape_modifier(obj), name)
        at = place(places, path.split(".", 1)[-1] if prop == "value" else prop)
        yield from fill_in(window, at, text)
        yield 0.5
        now = shape_of(obj)
        check(f"slider_{name}", now != before, [before, now])
        before = now
    yield from shot("12_sliders")
    _, prop, path = inputs.holder(inputs.shape_modifier(obj), "Far")
    at = place(places, path.split(".", 1)[-1] if prop == "value" else prop)
    yield from drag(window, at, (at[0] + 60, at[1]))
    yield 0.5
    check("slider_dragged", shape_of(obj) != before, [before, shape_of(obj)])
    yield from shot("13_dragged")
    yield from click(window, *place(places, "view='Depth'"))
    yield 15.0  # the viewport's shaders are compiled, in software
    shading = area_of(window, "VIEW_3D").spaces.active.shading
    check("depth_view_is_seen", shading.type == "MATERIAL", shading.type)
    yield from shot("14_depth_view")
    shading.type = "SOLID"


def grey_button():
    window = main_window()
    yield from key(window, "TAB", view_middle())
    yield 0.5
    places = yield from sidebar_buttons(until="marigold.depth_mesh(")
    x, y = place(places, "marigold.depth_mesh(")
    for k in range(4):
        yield from move(window, x + k, y)
    yield 2.0
    yield from shot("15_grey_button")
    yield from key(window, "TAB", view_middle())
    check("edit_mode_left", bpy.context.mode == "OBJECT" if bpy.context.mode else True)


tell_story(
    fresh, test_the_python, press_escape, press_to_the_end, undo_and_redo, move_sliders,
    grey_button,
)  # fmt: skip
