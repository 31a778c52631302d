"""Blender: this add-on's mesh and its live shape against the usual ways, in one run.

    PYTHON_WITH_BPY benchmarks/blender_mesh.py                    # 512, 1024 and 2048 squared
    PYTHON_WITH_BPY benchmarks/blender_mesh.py --sizes 512 --repeats 5

PYTHON_WITH_BPY is one with `bpy` from PyPI (`pip install bpy`). Build: from a depth map as a numpy
array to a mesh with quads and UVs; this add-on's has its point and face attributes besides, and
`from_pydata`, bmesh and `foreach_set` get positions and quads that are worked out beforehand.
Reshape: from a changed number to the evaluated mesh: near and far of the live shape, which tears
too, without and with its background layer; the strength of a Displace modifier with the depth map
as its texture, which does not; or the mesh built anew. Times of a build are the best of the
repeats, of a reshape the median and the best; the machine's load stands above.
Writes Markdown tables to standard output.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import bpy  # isort: skip  bmesh is there only after it
import bmesh  # isort: skip

sys.path.insert(0, str(Path(__file__).parents[1]))
from blender_addon.mesh.depth_grid import DepthGrid, depth_grid  # noqa: E402
from blender_addon.mesh.grid_mesh import grid_mesh  # noqa: E402
from blender_addon.mesh.shape_inputs import add_shape, set_inputs  # noqa: E402

Build = Callable[[np.ndarray, DepthGrid], bpy.types.Mesh]


def scene(size: int) -> np.ndarray:
    """Waves with a disc before them, so that there is something to tear."""
    y, x = np.mgrid[0:size, 0:size] / size
    depth = 0.6 + 0.2 * np.sin(9 * x) * np.cos(7 * y)
    depth[(x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.05] -= 0.35
    return depth.astype(np.float32)


def with_this_add_on(depth: np.ndarray, _: DepthGrid) -> bpy.types.Mesh:
    return grid_mesh("ours", depth_grid(depth, max_vertices=depth.size))


def with_from_pydata(_: np.ndarray, grid: DepthGrid) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new("from_pydata")
    mesh.from_pydata(grid.positions().tolist(), [], grid.faces().corners.tolist())
    layer = mesh.uv_layers.new(name="UVMap")
    layer.uv.foreach_set("vector", grid.uvs[grid.faces().corners.ravel()].ravel())
    mesh.update()
    return mesh


def with_foreach_set(_: np.ndarray, grid: DepthGrid) -> bpy.types.Mesh:
    mesh, quads = bpy.data.meshes.new("foreach_set"), grid.faces().corners
    mesh.vertices.add(len(grid.rays))
    mesh.vertices.foreach_set("co", grid.positions().ravel())
    mesh.loops.add(quads.size)
    mesh.loops.foreach_set("vertex_index", quads.ravel())
    mesh.polygons.add(len(quads))
    mesh.polygons.foreach_set("loop_start", np.arange(0, quads.size, 4, dtype=np.int32))
    layer = mesh.uv_layers.new(name="UVMap")
    layer.uv.foreach_set("vector", grid.uvs[quads.ravel()].ravel())
    mesh.update(calc_edges=True)
    return mesh


def with_bmesh(_: np.ndarray, grid: DepthGrid) -> bpy.types.Mesh:
    body = bmesh.new()
    layer = body.loops.layers.uv.new("UVMap")
    vertices = [body.verts.new(position) for position in grid.positions().tolist()]
    uvs = grid.uvs.tolist()
    for quad in grid.faces().corners.tolist():
        face = body.faces.new([vertices[k] for k in quad])
        for loop, k in zip(face.loops, quad, strict=True):
            loop[layer].uv = uvs[k]
    mesh = bpy.data.meshes.new("bmesh")
    body.to_mesh(mesh)
    body.free()
    return mesh


BUILDS: dict[str, Build] = {
    "this add-on": with_this_add_on,
    "foreach_set": with_foreach_set,
    "from_pydata": with_from_pydata,
    "bmesh": with_bmesh,
}


def best(repeats: int, action: Callable[[], object]) -> float:
    return min(timed(repeats, action))


def timed(repeats: int, action: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - started)
        if isinstance(result, bpy.types.Mesh):
            bpy.data.meshes.remove(result)
    return times


def linked(mesh: bpy.types.Mesh) -> bpy.types.Object:
    obj = bpy.data.objects.new("mesh", mesh)
    bpy.context.scene.collection.objects.link(obj)
    return obj


def evaluate(obj: bpy.types.Object) -> int:
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    return len(obj.evaluated_get(graph).data.vertices)


def live_shape(depth: np.ndarray, repeats: int, background: bool = False) -> list[float]:
    grid = depth_grid(depth, max_vertices=depth.size, background=background)
    obj = linked(grid_mesh("live", grid))
    add_shape(obj, rows=grid.rows, columns=grid.columns, tear_ratio=grid.tear_ratio)
    evaluate(obj)
    far = iter(range(6, 100))

    def reshape() -> None:
        set_inputs(obj, far=float(next(far)))
        evaluate(obj)

    seconds = timed(max(repeats, 5), reshape)
    bpy.data.objects.remove(obj)
    return seconds


def displace_modifier(depth: np.ndarray, repeats: int) -> list[float]:
    size = len(depth)
    obj = linked(grid_mesh("displaced", depth_grid(depth, max_vertices=depth.size)))
    image = bpy.data.images.new("depth", size, size, float_buffer=True)
    image.colorspace_settings.name = "Non-Color"
    image.pixels.foreach_set(np.repeat(depth[::-1].ravel(), 4))
    texture = bpy.data.textures.new("depth", "IMAGE")
    texture.image = image
    modifier = obj.modifiers.new("Displace", "DISPLACE")
    modifier.texture, modifier.texture_coords, modifier.direction = texture, "UV", "Z"
    evaluate(obj)
    strength = iter(range(2, 100))

    def reshape() -> None:
        modifier.strength = next(strength)
        evaluate(obj)

    seconds = timed(max(repeats, 5), reshape)
    bpy.data.objects.remove(obj)
    bpy.data.images.remove(image)
    return seconds


def row(words: list[str]) -> str:
    return "| " + " | ".join(words) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reshape-only", action="store_true", help="build with no other way")
    options = parser.parse_args()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    print(
        f"Blender {bpy.app.version_string}, {os.cpu_count()} CPU cores ({platform.machine()}), load"
        f" {os.getloadavg()[0]:.1f}\n"
    )
    chosen = ["this add-on"] if options.reshape_only else list(BUILDS)
    builds: dict[str, list[float]] = {name: [] for name in chosen}
    shapes: dict[str, list[list[float]]] = {
        "live shape": [], "live shape with its background": [], "Displace modifier": [],
    }  # fmt: skip
    for size in options.sizes:
        depth = scene(size)
        grid = depth_grid(depth, max_vertices=depth.size)
        for name, times in builds.items():
            times.append(best(options.repeats, partial(BUILDS[name], depth, grid)))
        shapes["live shape"].append(live_shape(depth, options.repeats))
        layered = live_shape(depth, options.repeats, background=True)
        shapes["live shape with its background"].append(layered)
        shapes["Displace modifier"].append(displace_modifier(depth, options.repeats))

    head = [f"{size} x {size}" for size in options.sizes]
    ours = builds["this add-on"]
    print(row(["build", *head]) + "\n" + row(["---"] * (len(head) + 1)))
    for name, times in builds.items():
        cells = [f"{s:.3f} s ({s / o:.1f}x)" for s, o in zip(times, ours, strict=True)]
        print(row([name, *cells]))
    print("\n" + row(["reshape", *head]) + "\n" + row(["---"] * (len(head) + 1)))
    if "from_pydata" in builds:
        shapes["built anew with from_pydata"] = [[seconds] for seconds in builds["from_pydata"]]
    for name, runs in shapes.items():
        cells = [f"{1000 * np.median(times):.0f} ms ({1000 * min(times):.0f})" for times in runs]
        print(row([name, *cells]))


if __name__ == "__main__":
    main()
