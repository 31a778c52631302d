"""Make One for Me: pressed, crossed out, gone on with, tested, used for a run, removed."""

from __future__ import annotations

import bpy
import gui_hands
from gui_hands import (
    activity,
    area_of,
    ask_for,
    buttons,
    check,
    click,
    depth_meshes,
    draw_no_picture,
    fill_in,
    key,
    open_tab,
    part,
    place,
    press,
    region_of,
    run_ends,
    shot,
    tell_story,
    wait,
)


def page():
    window = bpy.context.window_manager.windows[-1]
    return window, area_of(window, "PREFERENCES")


def setup():
    return part("ui.operators.background").setup


def state() -> str:
    environment = part("backend.environment")
    return environment.environment_state(part("backend.engine_session").environment_folder())


def page_buttons(columns=(0.4, 0.6, 0.85), **scan):
    window, area = page()
    region = region_of(area, "WINDOW")
    return (yield from buttons(window, area, region, columns=columns, **scan))


def press_on_page(button: str, **scan):
    places = yield from page_buttons(**scan)
    yield from click(page()[0], *place(places, button))


def open_page():
    yield from open_tab()
    draw_no_picture()
    yield from press("addon_show")
    yield from wait(lambda: len(bpy.context.window_manager.windows) > 1, 5)
    yield 1.0
    part("backend.engine_session").preferences().python_source = "MADE"
    yield 0.5
    yield from shot("page")


def grey_while_offline():
    check("offline", not bpy.app.online_access)
    window, area = page()
    with bpy.context.temp_override(window=window, area=area, region=region_of(area, "WINDOW")):
        check("make_is_grey", not bpy.ops.marigold.make_environment.poll())
        check("remove_is_grey", not bpy.ops.marigold.remove_environment.poll())
    places = yield from page_buttons()
    x, y = place(places, "marigold.make_environment")
    for k in range(4):
        yield from click(window, x + k, y, "MIDDLEMOUSE")
    yield 2.0
    yield from shot("make_is_grey")


def crossed_out():
    places = yield from page_buttons()
    yield from fill_in(page()[0], place(places, "wheel_folder"), gui_hands.WHEELS)
    yield from press_on_page("marigold.make_environment")
    check("making", setup().running, setup().message)
    yield 3.0
    yield from shot("making")
    if setup().running:
        yield from press_on_page("marigold.cancel(", columns=(0.965,), until="marigold.cancel(")
        yield from wait(lambda: not setup().running, 5)
    check("crossed_out", not setup().running, setup().message)
    yield from shot("crossed_out")


def made():
    yield from press_on_page("marigold.make_environment")
    yield from wait(lambda: setup().task is None or setup().task.stage == "install", 400)
    yield from shot("installing")
    yield from wait(lambda: not setup().running, 1500)  # gigabytes, where the wheels are CUDA's
    check(
        "made",
        state() == "ready" and setup().state == "done",
        [setup().message, setup().lines[-3:]],
    )
    yield from shot("made")


def used():
    ask_for(ensemble=1, steps=1, resolution=128)
    yield from press("marigold.depth_mesh(")
    yield from run_ends()
    check("run_with_the_made_one", len(depth_meshes()) == 1, activity().error)


def removed():
    yield from press_on_page("marigold.remove_environment")
    yield 0.5
    yield from shot("remove_asks")
    window, area = page()
    region = region_of(area, "WINDOW")
    yield from key(window, "RET", (region.x + region.width * 0.6, region.y + region.height / 2))
    yield from wait(lambda: state() == "absent", 60)
    check("removed", state() == "absent", setup().message)
    yield 1.0
    yield from shot("removed")


tell_story(open_page, grey_while_offline, crossed_out, made, used, removed)
