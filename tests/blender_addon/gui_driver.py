"""A person at the window: clicks, keys and screenshots in a real Blender, from its own timer.

    blender --enable-event-simulate --python gui_driver.py -- FOLDER

`test_gui.py` starts it. Buttons are found by what they are: the pointer goes over the panel, and
Blender tells the operator or the property below it. FOLDER gets the screenshots (`import` of
ImageMagick: Blender's own are black under software OpenGL) and result.json, which has a line for
each thing that was seen.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import bpy

ENGINE_PYTHON = ""  # test_gui.py writes it here: the tool passes no environment
ADDON = "bl_ext.user_default.marigold_kit"
OUT = Path(sys.argv[sys.argv.index("--") + 1])
STEP = 0.06  # seconds: a redraw of the window in between
seen: dict[str, object] = {"blender": bpy.app.version_string}


def part(name: str):
    return importlib.import_module(f"{ADDON}.{name}")


def example() -> Path:
    return Path(part("engine_session").ENGINE) / "assets" / "example.jpg"


def check(name: str, ok: object, detail: object = "") -> None:
    seen[name] = bool(ok) if detail == "" else [bool(ok), detail]
    print("SEEN" if ok else "NOT SEEN", name, detail, flush=True)


# What a person does. All are generators: a `yield` gives Blender its turn.


def shot(name: str):
    yield 0.5
    command = ["import", "-window", "root", str(OUT / f"{name}.png")]
    subprocess.run(command, check=False)


def wait(ready, seconds: float):
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        yield STEP
    return bool(ready())


def move(window, x: float, y: float):
    window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=int(x), y=int(y))
    yield STEP


def click(window, x: float, y: float, button: str = "LEFTMOUSE"):
    yield from move(window, x - 2, y)
    yield from move(window, x, y)
    window.event_simulate(type=button, value="PRESS", x=int(x), y=int(y))
    yield STEP
    window.event_simulate(type=button, value="RELEASE", x=int(x), y=int(y))
    yield 2 * STEP


def drag(window, start, end, button: str = "LEFTMOUSE", steps: int = 12):
    yield from move(window, *start)
    window.event_simulate(type=button, value="PRESS", x=int(start[0]), y=int(start[1]))
    yield STEP
    for k in range(1, steps + 1):
        at = [a + (b - a) * k / steps for a, b in zip(start, end, strict=True)]
        yield from move(window, *at)
    window.event_simulate(type=button, value="RELEASE", x=int(end[0]), y=int(end[1]))
    yield 2 * STEP


def key(window, name: str, at, **modifiers):
    yield from move(window, *at)
    x, y = int(at[0]), int(at[1])
    window.event_simulate(type=name, value="PRESS", x=x, y=y, **modifiers)
    yield STEP
    window.event_simulate(type=name, value="RELEASE", x=x, y=y, **modifiers)
    yield 2 * STEP


def fill_in(window, at, text: str):
    """Double click a field, replace its text, Enter."""
    for _ in range(2):
        window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=int(at[0]), y=int(at[1]))
        yield STEP
    yield from key(window, "RET", at)  # over a field: edit it
    bpy.context.window_manager.clipboard = text
    yield from key(window, "A", at, ctrl=True)
    yield from key(window, "V", at, ctrl=True)
    yield from key(window, "RET", at)


# Where things are.


def main_window():
    return bpy.context.window_manager.windows[0]


def area_of(window, kind: str):
    return max(
        (area for area in window.screen.areas if area.type == kind),
        key=lambda a: a.width * a.height,
    )


def region_of(area, kind: str):
    return next(region for region in area.regions if region.type == kind)


def middle(region):
    return region.x + region.width * 0.45, region.y + region.height * 0.5


def under_pointer(window, area, region) -> str:
    """The operator call or the property of the button below the pointer, "" if there is none."""
    with bpy.context.temp_override(window=window, area=area, region=region):
        try:
            found = bpy.context.property
        except (AttributeError, RuntimeError):
            found = None
        if found:
            return str(found[1])
        bpy.context.window_manager.clipboard = ""
        if bpy.ops.ui.copy_python_command_button.poll():
            bpy.ops.ui.copy_python_command_button()
        return bpy.context.window_manager.clipboard


def buttons(window, area, region, columns=(0.25, 0.5, 0.75), step: int = 7):
    """{what it is: (x, y)} of every button in a region, by going over it. A generator."""
    found: dict[str, list] = {}
    for column in columns:
        x = region.x + region.width * column
        for y in range(region.y + region.height - 4, region.y + 4, -step):
            window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=int(x), y=y)
            yield 0.012
            name = under_pointer(window, area, region)
            if name:
                found.setdefault(name, []).append((x, y))
    # The middle of the run in the last column that met it: no edge, no icon.
    places = {}
    for name, spots in found.items():
        column = [spot for spot in spots if spot[0] == spots[0][0]]
        places[name] = column[len(column) // 2]
    return places


def place(places: dict, part_of_name: str):
    if part_of_name in places:
        return places[part_of_name]
    for name, spot in places.items():
        if part_of_name in name:
            return spot
    raise LookupError(f"no button {part_of_name!r} among {sorted(places)}")


def sidebar_buttons(**scan):
    window = main_window()
    area = area_of(window, "VIEW_3D")
    return (yield from buttons(window, area, region_of(area, "UI"), **scan))


def depth_meshes() -> list:
    return [obj for obj in bpy.data.objects if "marigold_size" in obj]


def shape_of(obj) -> list[float]:
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    mesh = obj.evaluated_get(graph).data
    depths = [mesh.vertices[k].co.z for k in range(0, len(mesh.vertices), 500)]
    return [len(mesh.vertices), len(mesh.polygons), max(depths, default=0), min(depths, default=0)]


# The run.


def open_tab():
    window = main_window()
    area = area_of(window, "VIEW_3D")
    view = region_of(area, "WINDOW")
    yield from key(window, "A", middle(view))
    yield from key(window, "X", middle(view))
    yield from key(window, "RET", middle(view))
    if not area.spaces.active.show_region_ui:
        yield from key(window, "N", middle(view))
    yield 0.5
    region = region_of(area, "UI")
    yield from drag(
        window, (region.x + 1, region.y + 60), (region.x - 90, region.y + 60)
    )  # a sidebar as wide as a person has it
    yield 0.3
    x = region.x + region.width - 10
    for y in range(region.y + region.height - 20, region.y + 20, -30):
        yield from click(window, x, y)
        if region.active_panel_category == "Marigold":
            break
    check("tab", region.active_panel_category == "Marigold")
    yield from shot("01_tab_without_python")


def test_the_python():
    window = main_window()
    places = yield from sidebar_buttons()
    print(*sorted(name[:60] for name in places), sep="; ")
    yield from click(window, *place(places, "addon_show"))
    yield from wait(lambda: len(bpy.context.window_manager.windows) > 1, 5)
    yield 1.0
    check("preferences_open", len(bpy.context.window_manager.windows) > 1)
    page = bpy.context.window_manager.windows[-1]
    area = area_of(page, "PREFERENCES")
    region = region_of(area, "WINDOW")
    yield from shot("02_preferences")
    places = yield from buttons(page, area, region, columns=(0.6, 0.75))
    print(*sorted(name[:60] for name in places), sep="; ")
    yield from fill_in(page, place(places, "python"), ENGINE_PYTHON)
    check("python_typed", part("engine_session").preferences().python == ENGINE_PYTHON)
    setup = part("operators.environment").setup
    yield from click(page, *place(places, "marigold.test_python"))
    yield from shot("03_preferences_testing")
    yield from wait(lambda: not setup.running, 120)
    check("test_button", not setup.failed and setup.words, setup.words)
    yield from shot("04_preferences_tested")
    with bpy.context.temp_override(window=page):
        bpy.ops.wm.window_close()
    yield 0.5


def press_escape():
    window, activity = main_window(), part("engine_session").activity
    places = yield from sidebar_buttons()
    picture = str(example())
    yield from fill_in(window, place(places, "marigold.picture"), picture)
    check("picture_chosen", bpy.context.scene.marigold.picture == picture)
    places = yield from sidebar_buttons()
    yield from click(window, *place(places, "marigold.depth_mesh("))
    yield from wait(lambda: activity.job is not None and activity.job.stage == "load", 120)
    check("progress_first", activity.running, part("engine_session").activity_in_words())
    yield from shot("05_progress_first")
    view = region_of(area_of(window, "VIEW_3D"), "WINDOW")
    began = time.monotonic()
    window.event_simulate(type="ESC", value="PRESS", x=int(middle(view)[0]), y=int(middle(view)[1]))
    while activity.running and time.monotonic() < began + 10:
        yield 0.005
    took = time.monotonic() - began
    check("escape", not activity.running and took < 0.1, f"{took:.3f} s")
    check("escape_leaves_nothing", not depth_meshes())
    yield from shot("06_escaped")


def press_to_the_end():
    window, activity = main_window(), part("engine_session").activity
    scene = bpy.context.scene.marigold
    scene.ensemble_size, scene.num_inference_steps = 3, 4  # long enough to be seen
    places = yield from sidebar_buttons()
    yield from click(window, *place(places, "marigold.depth_mesh("))
    busy = yield from wait(
        lambda: activity.job is not None and activity.job.stage == "denoise" and activity.job.step,
        180,
    )
    check("progress", busy, part("engine_session").activity_in_words())
    yield from shot("07_progress")
    yield from wait(lambda: not activity.running, 240)
    check("result", len(depth_meshes()) == 1, activity.error)
    yield 3.0
    space = area_of(window, "VIEW_3D").spaces.active
    check("through_camera", space.region_3d.view_perspective == "CAMERA", space.shading.type)
    yield from shot("08_result")


def undo_and_redo():
    window = main_window()
    view = region_of(area_of(window, "VIEW_3D"), "WINDOW")
    before = sorted(obj.name for obj in bpy.data.objects)
    yield from key(window, "Z", middle(view), ctrl=True)
    yield 1.0
    left = [obj.name for obj in bpy.data.objects]
    check("one_undo", not depth_meshes(), left)
    yield from shot("09_undone")
    yield from key(window, "Z", middle(view), ctrl=True, shift=True)
    yield 1.5
    check("redo", sorted(obj.name for obj in bpy.data.objects) == before)
    yield from shot("10_redone")


def move_sliders():
    window = main_window()
    area = area_of(window, "VIEW_3D")
    view = region_of(area, "WINDOW")
    obj = depth_meshes()[0]
    yield from drag(
        window, middle(view), (middle(view)[0] - 150, middle(view)[1] + 60), "MIDDLEMOUSE"
    )
    yield 1.0
    yield from shot("11_from_the_side")
    # Each step draws the mesh anew, in software: one column, through the numbers.
    places = yield from sidebar_buttons(columns=(0.6, 0.2), step=10)
    print(*sorted(name[:60] for name in places), sep="; ")
    before = shape_of(obj)
    inputs = part("shape_inputs")
    for name, text in (("Near", "1.5"), ("Far", "4"), ("Tear Ratio", "1.02")):
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
    yield 1.5
    yield from shot("14_depth_view")


def grey_button():
    window = main_window()
    view = region_of(area_of(window, "VIEW_3D"), "WINDOW")
    yield from key(window, "TAB", middle(view))
    yield 0.5
    places = yield from sidebar_buttons()
    x, y = place(places, "marigold.depth_mesh(")
    for k in range(4):
        yield from move(window, x + k, y)
    yield 2.0
    yield from shot("15_grey_button")
    yield from key(window, "TAB", middle(view))
    check("edit_mode_left", bpy.context.mode == "OBJECT" if bpy.context.mode else True)


STORY = (
    open_tab, test_the_python, press_escape, press_to_the_end, undo_and_redo, move_sliders,
    grey_button,
)  # fmt: skip


def story():
    for chapter in STORY:
        try:
            yield from chapter()
        except Exception:
            check(chapter.__name__, False, traceback.format_exc())
            yield from shot(f"failed_{chapter.__name__}")
    (OUT / "result.json").write_text(json.dumps(seen, indent=1))
    part("engine_session").stop_engine()
    os._exit(0)


telling = story()


def tell() -> float:
    try:
        return next(telling)
    except Exception:
        traceback.print_exc()
        os._exit(9)


bpy.app.timers.register(tell, first_interval=2.0, persistent=True)
