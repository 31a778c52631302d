"""Faults during a run: each ends in one error message or in nothing, and the next run
is a clean one."""

from __future__ import annotations

import os
import signal

import bpy
from gui_hands import (
    ADDON,
    OUT,
    activity,
    area_of,
    ask_for,
    at_step,
    check,
    depth_meshes,
    draw_no_picture,
    escape,
    example,
    key,
    main_window,
    open_tab,
    part,
    press,
    region_of,
    run_ends,
    shot,
    stage,
    tell_story,
    use_engine,
    view_middle,
    wait,
)

LONG = dict(ensemble=3, steps=12, resolution=320)  # a warm engine denoises long enough to meet it
WIDE = dict(ensemble=8, steps=1, resolution=512)  # the merge takes its time, the rest does not
SHORT = dict(ensemble=1, steps=1, resolution=128)


def begin():
    yield from open_tab()
    use_engine()
    draw_no_picture()


def merging() -> bool:
    engine = part("backend.engine_session").running_engine()
    if stage() in ("decode", "merge") and engine is not None:
        engine.poll()  # Blender's own turns come too seldom to meet it
    return stage() == "merge"


def engine_id():
    engine = part("backend.engine_session").running_engine()
    return None if engine is None else engine.pid


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def begin_long_run(**longer):
    """To where the model denoises."""
    ask_for(**{**LONG, **longer})
    yield from press("marigold.depth_mesh(")
    there = yield from wait(lambda: at_step("denoise"), 180, 0.005)
    if not there:
        check("denoising", False, [stage(), activity().error])


def next_run_is_clean(after: str):
    """And is undone, so that the scene is empty again."""
    before = len(depth_meshes())
    ask_for(**SHORT)
    yield from press("marigold.depth_mesh(")
    # A warm engine may be done between two looks.
    yield from wait(lambda: activity().running or len(depth_meshes()) > before, 5)
    yield from run_ends()
    fresh = len(depth_meshes()) - before
    check(f"clean_run_after_{after}", fresh == 1 and not activity().error, activity().error)
    yield from key(main_window(), "Z", view_middle(), ctrl=True)
    yield 0.5
    check(f"undone_after_{after}", len(depth_meshes()) == before)


def killed_at(name: str, reached, settings=LONG):
    def chapter():
        part("backend.engine_session").stop_engine()
        ask_for(**settings)
        yield from press("marigold.depth_mesh(")
        there = yield from wait(reached, 180, 0.002)
        at, pid = stage(), engine_id()
        os.kill(pid, signal.SIGKILL)
        yield from run_ends(10)
        message = activity().error
        one = message.endswith(".") and "\n" not in message and "Traceback" not in message
        check(f"killed_{name}", there and one and not activity().running, [at, message])
        check(f"killed_{name}_leaves_nothing", not depth_meshes())
        yield from next_run_is_clean(f"killed_{name}")

    chapter.__name__ = f"killed_{name}"
    return chapter


def escaped_while_denoising():
    waits = []
    for _ in range(3):  # a machine that is busy with other work can take a turn's time once
        yield from begin_long_run()
        waits.append((yield from escape()))
    words = "; ".join(f"{wait:.3f} s" for wait in waits)
    check("escape_while_denoising", min(waits) < 0.1 and not depth_meshes(), words)
    yield from next_run_is_clean("escape")


def crossed_out():
    yield from begin_long_run(steps=60)
    running = activity().running
    yield from press("marigold.cancel(", columns=(0.83,))
    yield from run_ends(3)
    ended = running and not activity().running and not activity().error
    check("cross_beside_the_bar", ended and not depth_meshes())
    yield from next_run_is_clean("cross")


def picture_deleted():
    yield from begin_long_run()
    bpy.data.images.remove(bpy.data.images[example().name])
    yield from run_ends()
    made = depth_meshes()
    image = bpy.data.images.get(example().name)
    check("picture_deleted", len(made) == 1 and image and image.users, activity().error)
    yield from key(main_window(), "Z", view_middle(), ctrl=True)
    yield 0.5

    # One without a file cannot be loaded again.
    ask_for(**LONG)
    painted = bpy.data.images.new("painted", 320, 240, float_buffer=False)
    painted.generated_type = "COLOR_GRID"
    window, area = main_window(), area_of(main_window(), "VIEW_3D")
    with bpy.context.temp_override(window=window, area=area, region=region_of(area, "WINDOW")):
        bpy.ops.marigold.depth_mesh("INVOKE_DEFAULT", image="painted", ensemble_size=4)
    yield from wait(lambda: at_step("denoise"), 60, 0.005)
    bpy.data.images.remove(bpy.data.images["painted"])
    yield from run_ends()
    check("painted_picture_deleted", "painted" in activity().error, activity().error)
    check("painted_picture_leaves_nothing", not depth_meshes())
    yield from shot("picture_deleted")
    yield from next_run_is_clean("picture_deleted")


def undone_meanwhile():
    """The artist continues to work, and undoes it, during the run."""
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.ed.undo_push(message="Cube")
    yield from begin_long_run()
    yield from key(main_window(), "Z", view_middle(), ctrl=True)
    running = activity().running
    yield from run_ends()
    check("undo_meanwhile", running and len(depth_meshes()) == 1, activity().error)
    yield from shot("undone_meanwhile")
    yield from key(main_window(), "Z", view_middle(), ctrl=True)
    yield 0.5
    check("undo_after_undo_meanwhile", not depth_meshes(), [o.name for o in bpy.data.objects])
    yield from next_run_is_clean("undo_meanwhile")


def edited_meanwhile():
    window, area = main_window(), area_of(main_window(), "VIEW_3D")
    with bpy.context.temp_override(window=window, area=area, region=region_of(area, "WINDOW")):
        bpy.ops.mesh.primitive_cube_add()
        bpy.ops.ed.undo_push(message="Cube")
        cube = bpy.context.active_object.name
    yield from begin_long_run()
    yield from key(window, "TAB", view_middle())
    check("edit_mode", bpy.data.objects[cube].mode == "EDIT")
    yield from run_ends()
    yield 1.0
    check("edit_meanwhile", len(depth_meshes()) == 1, activity().error)
    yield from shot("edited_meanwhile")
    mode = bpy.data.objects[cube].mode
    active = bpy.context.view_layer.objects.active
    check("edit_goes_on", mode == "EDIT" and active.name == cube, [mode, active.name])
    yield from key(window, "TAB", view_middle())
    check("edit_left", bpy.data.objects[cube].mode == "OBJECT")
    for obj in [*depth_meshes(), bpy.data.objects[cube]]:
        bpy.data.objects.remove(obj)
    bpy.ops.ed.undo_push(message="Empty")
    yield from next_run_is_clean("edit_meanwhile")


def new_file():
    yield from begin_long_run()
    pid = engine_id()
    with bpy.context.temp_override(window=main_window()):
        bpy.ops.wm.read_homefile()
    yield 1.0
    check("new_file_ends_the_run", not activity().running and not activity().error)
    check("engine_stays_warm", engine_id() == pid and lives(pid))
    yield from shot("new_file")
    yield from open_tab()
    draw_no_picture()
    yield from next_run_is_clean("new_file")


def file_reloaded():
    path = str(OUT / "reloaded.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    yield from begin_long_run()
    with bpy.context.temp_override(window=main_window()):
        bpy.ops.wm.open_mainfile(filepath=path)
    yield 1.0
    check("reload_ends_the_run", not activity().running and not activity().error)
    yield from shot("file_reloaded")
    yield from next_run_is_clean("file_reloaded")


def add_on_disabled():
    yield from begin_long_run()
    pid = engine_id()
    with bpy.context.temp_override(window=main_window()):
        bpy.ops.preferences.addon_disable(module=ADDON)
    yield from wait(lambda: not lives(pid), 5)
    check("disabled_engine_ends", not lives(pid))
    check("disabled", not hasattr(bpy.types, "MARIGOLD_OT_depth_mesh") and not depth_meshes())
    yield from shot("add_on_disabled")
    with bpy.context.temp_override(window=main_window()):
        bpy.ops.preferences.addon_enable(module=ADDON)
    use_engine()
    yield 1.0
    check("nothing_runs_after_disabled", not activity().running)
    yield from next_run_is_clean("disabled")


tell_story(
    begin, crossed_out, escaped_while_denoising, picture_deleted, undone_meanwhile,
    edited_meanwhile, new_file, file_reloaded, add_on_disabled,
    killed_at("starting", lambda: activity().task is not None and engine_id()),
    killed_at("loading", lambda: stage() == "load"),
    killed_at("denoising", lambda: at_step("denoise")),
    killed_at("merging", merging, WIDE),
)  # fmt: skip
