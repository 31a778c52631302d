"""Other ways to start a run, with the mouse: browsers, menus, a drop, folder, sequence, asset."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import bpy
from gui_hands import (
    OUT,
    activity,
    area_of,
    ask_for,
    buttons,
    check,
    click,
    depth_meshes,
    draw_no_picture,
    example,
    key,
    main_window,
    move,
    open_tab,
    place,
    press,
    region_of,
    run_ends,
    shot,
    tell_story,
    use_engine,
    view_middle,
    wait,
)

PICTURES, FRAMES = OUT / "pictures", OUT / "frames"
NAME = "Zimmer über dem Hof.jpg"


def begin():
    yield from open_tab()
    draw_no_picture()
    use_engine()
    ask_for(ensemble=1, steps=1, resolution=256)
    bpy.context.scene.marigold.picture = ""
    bpy.ops.ed.undo_push(message="No picture")
    for folder, names in (
        (PICTURES, (NAME, "b.jpg")),
        (FRAMES, ("frame_011.jpg", "frame_012.jpg", "frame_013.jpg")),
    ):
        folder.mkdir()
        for name in names:
            shutil.copy(example(), folder / name)


def choose(name: str, folder: Path, file: str = ""):
    """In the file browser that just opened; what was made is checked and taken back."""
    before = len(depth_meshes())

    def browsers():
        return [
            (window, area)
            for window in bpy.context.window_manager.windows
            for area in window.screen.areas
            if area.type == "FILE_BROWSER" and area.spaces.active.active_operator
        ]

    yield from wait(browsers, 10)
    check(f"{name}_browser", len(browsers()) == 1)
    window, area = browsers()[0]
    asked = area.spaces.active.active_operator.properties.processing_resolution
    check(f"{name}_with_the_sidebars_settings", asked == 256, asked)
    yield 0.7
    params = area.spaces.active.params
    params.directory = os.fsencode(folder)
    if file:
        params.filename = file
    yield 0.7
    yield from shot(f"{name}_browser")
    region = region_of(area, "EXECUTE")
    places = yield from buttons(window, area, region, columns=(0.6, 0.75, 0.85), step=3)
    yield from click(window, *place(places, "file.execute"))
    modal = yield from wait(lambda: activity().running, 3, 0.01)
    check(f"{name}_modal", modal, activity().error)
    yield 1.0
    yield from shot(f"{name}_running")
    yield from run_ends()
    return len(depth_meshes()) - before


def take_back(name: str):
    yield 0.5
    yield from key(main_window(), "Z", view_middle(), ctrl=True)
    yield 1.0
    check(f"{name}_undone", not depth_meshes(), [obj.name for obj in depth_meshes()])


def button_without_a_picture():
    yield from press("marigold.depth_mesh(")
    made = yield from choose("button", PICTURES, NAME)
    check("button_result", made == 1, activity().error)
    yield from take_back("button")


def last_of_menu(menu: str, area):
    """The add-on's entry is the last one."""
    window, region = main_window(), region_of(area, "WINDOW")
    at = region.x + region.width / 2, region.y + region.height / 2
    yield from move(window, *at)
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.wm.call_menu(name=menu)
    yield 0.5
    yield from key(window, "UP_ARROW", at)
    yield 0.5
    yield from shot(f"menu_{menu}")
    yield from key(window, "RET", at)
    yield 0.5


def import_menu():
    yield from last_of_menu("TOPBAR_MT_file_import", area_of(main_window(), "VIEW_3D"))
    made = yield from choose("import", PICTURES, NAME)
    check("import_result", made == 1, activity().error)
    yield from take_back("import")


def image_editor_menu():
    area = area_of(main_window(), "PROPERTIES")
    area.type = "IMAGE_EDITOR"
    yield 0.5
    area.spaces.active.image = bpy.data.images.load(str(PICTURES / "b.jpg"))
    bpy.ops.ed.undo_push(message="Image")
    yield from last_of_menu("IMAGE_MT_image", area)
    modal = yield from wait(lambda: activity().running, 3, 0.01)
    yield from run_ends()
    check("image_menu", modal and len(depth_meshes()) == 1, activity().error)
    yield from shot("image_menu_result")
    yield from take_back("image_menu")
    area.type = "PROPERTIES"


def dropped():
    """The operator that every drop ends in, called by hand: simulated events only select a file in
    the file browser, Blender begins no drag with them."""
    area = area_of(main_window(), "VIEW_3D")
    yield from move(main_window(), *view_middle())
    with bpy.context.temp_override(
        window=main_window(), area=area, region=region_of(area, "WINDOW")
    ):
        bpy.ops.wm.drop_import_file(
            "INVOKE_DEFAULT", directory=str(PICTURES), files=[{"name": NAME}]
        )
    yield 1.0
    yield from shot("drop")
    if not activity().running:  # Blender can use pictures too, and asks who may
        yield from key(main_window(), "D", view_middle())  # the letter underlined in the menu
    running = yield from wait(lambda: activity().running, 3, 0.01)
    yield from run_ends()
    names = [obj.name for obj in bpy.data.objects]
    check("drop_result", running and len(depth_meshes()) == 1, names)
    yield from take_back("drop")


def folder_button():
    yield from press("marigold.batch(")
    made = yield from choose("folder", PICTURES)
    check("folder_result", made == 2, activity().error)
    check("folder_collection", "pictures" in bpy.data.collections)
    yield 2.0
    yield from shot("folder_result")
    yield from take_back("folder")


def sequence_button():
    yield from press("marigold.sequence(")
    made = yield from choose("sequence", FRAMES)
    check("sequence_result", made == 1, activity().error)
    scene = bpy.context.scene
    check("sequence_frames", (scene.frame_start, scene.frame_end) == (1, 3))
    yield from shot("sequence_result")
    yield from take_back("sequence")


def asset():
    bpy.context.scene.marigold.picture = str(PICTURES / NAME)
    yield from press("marigold.depth_mesh(")
    yield from run_ends()
    yield from press("marigold.mark_asset(")
    (obj,) = depth_meshes()
    pixels = list(obj.preview.image_pixels_float) if obj.preview else []
    check("asset", obj.asset_data is not None and max(pixels, default=0) > 0)
    area = area_of(main_window(), "VIEW_3D")
    area.ui_type = "ASSETS"
    yield 1.0
    area.spaces.active.params.asset_library_reference = "LOCAL"
    yield 3.0
    yield from shot("asset_browser")
    area.ui_type = "VIEW_3D"
    area.spaces.active.shading.type = "MATERIAL"
    yield 1.0
    yield 30.0  # the viewport's shaders are compiled, in software
    yield from shot("unlit")
    with bpy.context.temp_override(window=main_window(), area=area):
        bpy.ops.marigold.show(view="Lit")
    yield 10.0
    yield from shot("lit")


tell_story(
    begin, dropped, button_without_a_picture, import_menu, image_editor_menu, folder_button,
    sequence_button, asset,
)  # fmt: skip
