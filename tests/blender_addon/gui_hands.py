"""A person at the window: clicks, keys and screenshots in a real Blender, from its own timer.

`test_gui.py` brings this module and a story of `gui_*.py` into a Blender that runs with
--enable-event-simulate, and sets ENGINE_PYTHON. Buttons are found by what they are: the pointer
goes over the panel, and Blender names the operator or the property below it. The folder after "--"
gets the screenshots (`import` of ImageMagick: Blender's own are black under software OpenGL) and
result.json, which has a line for each thing that was seen.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import bpy

ENGINE_PYTHON = WHEELS = ""  # test_gui.py sets them: the tool passes no environment
ADDON = "bl_ext.user_default.marigold_kit"
OUT = Path(sys.argv[sys.argv.index("--") + 1])
STEP = 0.06  # seconds: a redraw of the window in between
seen: dict[str, object] = {"blender": bpy.app.version_string}


def part(name: str):
    return importlib.import_module(f"{ADDON}.{name}")


def example() -> Path:
    return Path(part("backend.engine_session").ENGINE) / "assets" / "example.jpg"


def check(name: str, ok: object, detail: object = "") -> None:
    seen[name] = bool(ok) if detail == "" else [bool(ok), detail]
    print("SEEN" if ok else "NOT SEEN", name, detail, flush=True)


# What a person does. All are generators: a `yield` gives Blender its turn.


def shot(name: str):
    yield 0.5
    command = ["import", "-window", "root", str(OUT / f"{name}.png")]
    subprocess.run(command, check=False)


def wait(ready, seconds: float, step: float = STEP):
    end = time.monotonic() + seconds
    while not (met := bool(ready())) and time.monotonic() < end:
        yield step
    return met


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


def view_middle():
    return middle(region_of(area_of(main_window(), "VIEW_3D"), "WINDOW"))


def escape():
    """ESC over the viewport; the seconds until the run has ended."""
    x, y = view_middle()
    run, ended = activity(), []
    end = run._end
    run._end = lambda *words: (ended.append(time.monotonic()), end(*words))
    began = time.monotonic()
    main_window().event_simulate(type="ESC", value="PRESS", x=int(x), y=int(y))
    yield from wait(lambda: ended, 10, 0.005)
    del run._end
    return ended[0] - began if ended else 10.0


def under_pointer(window, area, region) -> str:
    """The operator call or the property of the button below the pointer, "" if there is none.
    4.3 gives a property's name alone, newer Blenders its path from the ID on."""
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


def buttons(window, area, region, columns=(0.25, 0.5, 0.75), step: int = 7, until: str = ""):
    """{what it is: (x, y)} of every button in a region, by going over it, or of those down to the
    one with `until` in its name. A generator."""
    found: dict[str, list] = {}
    heights = range(region.y + region.height - 4, region.y + 4, -step)
    # Of a file that was just read the first move in a region still meets the button of before.
    yield from move(window, region.x + region.width * columns[0], heights[0])
    yield 0.3
    for column, y in itertools.product(columns, heights):
        x = region.x + region.width * column
        window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=int(x), y=y)
        yield 0.012
        name = under_pointer(window, area, region)
        if name:
            found.setdefault(name, []).append((x, y))
        if until and until not in name and any(until in known for known in found):
            break  # just left
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
    kinds = {obj: obj.display_type for obj in depth_meshes()}
    for obj in kinds:
        obj.display_type = "BOUNDS"  # each step draws the viewport again, in software
    places = yield from buttons(window, area, region_of(area, "UI"), **scan)
    for obj, kind in kinds.items():
        obj.display_type = kind
    yield STEP
    return places


def depth_meshes() -> list:
    return [obj for obj in bpy.data.objects if "marigold_size" in obj]


def open_tab():
    """The sidebar's tab in an empty scene."""
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


def press(button: str, **scan):
    """A button of the sidebar."""
    places = yield from sidebar_buttons(until=button, **scan)
    yield from click(main_window(), *place(places, button))


def use_engine() -> None:
    chosen = part("backend.engine_session").preferences()
    chosen.python, chosen.device = ENGINE_PYTHON, "CPU"


def draw_no_picture() -> None:
    """A viewport that is quick in software: the add-on leaves a wireframe one as it is."""
    area_of(main_window(), "VIEW_3D").spaces.active.shading.type = "WIREFRAME"


def ask_for(ensemble: int, steps: int, resolution: int) -> None:
    """The picture and the settings in the sidebar."""
    settings = bpy.context.scene.marigold
    settings.picture, settings.processing_resolution = str(example()), resolution
    settings.ensemble_size, settings.num_inference_steps = ensemble, steps
    bpy.ops.ed.undo_push(message="Settings")  # as a click does: Ctrl-Z then keeps them


def activity():
    return part("ui.operators.background").run


def stage() -> str:
    task = activity().task
    return "" if task is None else task.stage


def at_step(name: str) -> bool:
    return stage() == name and activity().task.step > 0


def run_ends(seconds: float = 240):
    """And the error's popup at the pointer, if there is one, is sent away as a person does."""
    ended = yield from wait(lambda: not activity().running, seconds)
    if activity().error:
        yield 0.3
        yield from shot(
            f"error_{sum(name.startswith('error_') for name in os.listdir(OUT)) + 1:02d}"
        )
        yield from key(main_window(), "ESC", view_middle())
    return ended


def tell_story(*chapters) -> None:
    def story():
        for chapter in chapters:
            try:
                yield from chapter()
            except Exception:
                check(chapter.__name__, False, traceback.format_exc())
                yield from shot(f"failed_{chapter.__name__}")
            (OUT / "result.json").write_text(json.dumps(seen, indent=1))
        part("backend.engine_session").stop_engine()
        os._exit(0)

    telling = story()

    def tell() -> float:
        try:
            return next(telling)
        except Exception:
            traceback.print_exc()
            os._exit(9)

    bpy.app.timers.register(tell, first_interval=2.0, persistent=True)
