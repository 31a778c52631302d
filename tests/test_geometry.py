from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from marigold_core.errors import MarigoldError
from marigold_core.geometry.grid import depth_to_mesh, grid_quads
from marigold_core.geometry.mesh import encode_png, save_mesh
from marigold_core.geometry.points import (
    default_tear_ratio,
    field_of_view,
    intrinsics,
    project,
    unproject,
)

trimesh = pytest.importorskip("trimesh")


def ramp(height: int, width: int) -> np.ndarray:
    return np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normals(mesh) -> np.ndarray:
    a, b, c = np.moveaxis(mesh.vertices[mesh.triangles].astype(np.float64), 1, 0)
    return np.cross(b - a, c - a)


# --- the camera ----------------------------------------------------------------------------------


def test_geometry_needs_numpy_alone(tmp_path):
    code = (
        "import sys\nfor name in ('torch', 'PIL', 'diffusers', 'scipy'): sys.modules[name] = None\n"
        "import numpy as np, marigold_core.geometry.grid as g\n"
        "m = g.depth_to_mesh(np.zeros((4, 5), np.float32), image=np.zeros((4, 5, 3), np.uint8))\n"
        "m.save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "mesh.glb"], check=True, timeout=60)
    assert (tmp_path / "mesh.glb").stat().st_size > 0


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (7, 7)])
def test_field_of_view_spans_the_longer_side_and_blender_needs_no_shift(height, width):
    k = intrinsics(height, width, 50.0)
    longer = max(height, width)
    assert 2 * math.degrees(math.atan(longer / 2 / k[0, 0])) == pytest.approx(50)
    assert k[0, 0] == k[1, 1]
    assert ((width / 2 - k[0, 2]) / longer, (k[1, 2] - height / 2) / longer) == (0, 0)
    # Blender's lens on a 36 mm sensor has the same angle.
    assert 2 * math.atan(18 / (k[0, 0] * 36 / longer)) == pytest.approx(math.radians(50))


def test_rays_go_through_pixel_centres():
    points = unproject(np.zeros((3, 5), np.float32), fov_degrees=90, near=2, far=3)
    np.testing.assert_allclose(points[1, 2], [0, 0, 2], atol=1e-7)
    # f = 2.5 px at 90 degrees; the first centre lies 2 px left of the middle and 1 px above it.
    np.testing.assert_allclose(points[0, 0], [2 * -2 / 2.5, 2 * -1 / 2.5, 2], rtol=1e-6)


def test_near_and_far_are_the_distances_of_zero_and_one():
    z = unproject(np.array([[0, 0.5, 1]], np.float32), near=2, far=10)[..., 2]
    np.testing.assert_allclose(z, [[2, 6, 10]])


@settings(max_examples=40, deadline=None)
@given(
    depth=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.floats(0, 1, width=32),
    ),
    fov=st.floats(5, 150),
)
def test_project_undoes_unproject(depth, fov):
    height, width = depth.shape
    pixels = project(unproject(depth, fov_degrees=fov), height, width, fov_degrees=fov)
    v, u = np.mgrid[:height, :width] + 0.5
    np.testing.assert_allclose(pixels, np.stack([u, v], axis=-1), atol=1e-3)


def test_a_slanted_plane_comes_out_flat():
    height, width, fov = 60, 80, 60.0
    k = intrinsics(height, width, fov)
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
    normal, offset = np.array([0.2, -0.5, 1.0]), 3.0
    z = offset / (rays @ normal)
    points = unproject(((z - 1) / 9).astype(np.float32), fov_degrees=fov, near=1, far=10)
    np.testing.assert_allclose(points @ normal, offset, rtol=1e-5)


# --- the mesh ------------------------------------------------------------------------------------


def test_whole_grid_has_all_faces_and_texture_coordinates_at_pixel_centres():
    mesh = depth_to_mesh(np.full((3, 4), 0.5, np.float32))
    assert mesh.faces.shape == (6, 4)
    assert len(mesh.triangles) == 12
    np.testing.assert_array_equal(mesh.pixels, np.arange(12))
    np.testing.assert_allclose(mesh.uvs[0], [0.5 / 4, 1 - 0.5 / 3])  # top left, v upwards
    np.testing.assert_allclose(mesh.uvs[-1], [1 - 0.5 / 4, 0.5 / 3])


def test_front_faces_look_at_the_camera():
    depth = np.random.default_rng(1).random((12, 9), dtype=np.float32)
    mesh = depth_to_mesh(depth, tear_ratio=math.inf)
    centres = mesh.vertices[mesh.triangles].mean(axis=1)
    assert (np.sum(normals(mesh) * centres, axis=1) < 0).all()
    flat = depth_to_mesh(np.zeros((4, 4), np.float32))
    corners = flat.vertices[flat.faces]  # the quads wind the same way
    across = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    assert (across[:, 2] < 0).all()


def test_quads_are_split_along_the_smaller_depth_difference():
    crease = np.array([[0, 1], [1, 0.5]], np.float32)  # vertices 1 and 2 are equally far
    for depth, shared in ((crease, {1, 2}), (crease[:, ::-1], {0, 3})):
        triangles = depth_to_mesh(depth, tear_ratio=math.inf).triangles
        assert set(triangles[0]) & set(triangles[1]) == shared


def test_a_step_tears_and_leaves_both_sides_whole():
    depth = np.zeros((6, 10), np.float32)
    depth[:, 5:] = 0.4
    mesh = depth_to_mesh(depth)
    assert len(mesh.faces) == 5 * (4 + 4)
    z = mesh.vertices[mesh.faces, 2]
    np.testing.assert_array_equal(z.min(axis=1), z.max(axis=1))
    assert len(depth_to_mesh(depth, tear_ratio=math.inf).faces) == 5 * 9
    # The ratio is z's: 1 -> 2.6 at near 1, far 5.
    assert len(depth_to_mesh(depth, tear_ratio=2.59).faces) == 5 * 8
    assert len(depth_to_mesh(depth, tear_ratio=2.61).faces) == 5 * 9


@pytest.mark.parametrize("height", [96, 192, 384, 768])
def test_a_floor_survives_and_a_soft_silhouette_tears_in_every_resolution(height):
    width, fov, near, far = height * 4 // 3, 50.0, 1.0, 5.0
    k = intrinsics(height, width, fov)
    below = (np.arange(height) + 0.5 - k[1, 2]) / k[1, 1]  # tan of the angle below the horizon
    with np.errstate(divide="ignore"):
        floor = np.where(below > 0, 0.35 / below, np.inf)  # camera 0.35 above it: far at 14 heights
    z = np.repeat(np.minimum(floor, far)[:, None], width, axis=1).astype(np.float32)
    assert len(depth_to_mesh((z - near) / (far - near)).faces) == (height - 1) * (width - 1)

    # An object's edge, 1.5 % of the picture wide as the decoder's are, from distance 2 to 4.
    x = (np.arange(width) + 0.5) / width
    z = np.tile(np.interp(x, [0.4925, 0.5075], [2, 4]).astype(np.float32), (height, 1))
    mesh = depth_to_mesh((z - near) / (far - near))
    middle = np.abs(mesh.uvs[mesh.faces, 0].mean(axis=1) - 0.5) < 0.004
    assert not middle.any()


def test_default_tear_ratio_is_one_slope():
    ratios = np.array([default_tear_ratio(n, n) - 1 for n in (200, 400, 800)])
    np.testing.assert_allclose(ratios[:-1] / ratios[1:], 2)
    assert default_tear_ratio(400, 400, stride=2) - 1 == pytest.approx(2 * ratios[1])
    assert default_tear_ratio(2, 2) == 1.25
    assert default_tear_ratio(9000, 9000) == 1.02
    steps = np.tile(np.arange(2500, dtype=np.float32) // 50 / 255, (3, 1))  # an 8-bit file's
    assert len(depth_to_mesh(steps).faces) == 2 * 2499


def test_mask_and_non_finite_pixels_leave_holes():
    depth = np.zeros((5, 5), np.float32)
    depth[0, 0], depth[4, 4] = np.nan, np.inf
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    mesh = depth_to_mesh(depth, mask=mask)
    assert len(mesh.faces) == 16 - 1 - 1 - 4
    assert not {0, 24, 12} & set(mesh.pixels)
    assert np.isfinite(mesh.vertices).all()


maps = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=24)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), shape=maps, ratio=st.floats(1.01, 4), budget=st.integers(4, 700))
def test_any_map_gives_a_sound_mesh_or_says_that_nothing_is_left(data, shape, ratio, budget):
    values = st.one_of(st.floats(-1, 2, width=32), st.just(math.nan), st.just(0.5))
    depth = data.draw(hnp.arrays(np.float32, shape, elements=values))
    mask = data.draw(hnp.arrays(bool, shape))
    try:
        mesh = depth_to_mesh(depth, tear_ratio=ratio, mask=mask, max_vertices=budget)
    except MarigoldError as error:
        assert "No face is left" in str(error)
        return
    count = len(mesh.vertices)
    assert len(mesh.uvs) == len(mesh.pixels) == count <= budget
    assert set(mesh.faces.ravel()) == set(range(count))  # in range, and no vertex without a face
    assert all(len(set(face)) == 4 for face in mesh.faces.tolist())
    assert (np.linalg.norm(normals(mesh), axis=1) > 0).all()
    z = mesh.vertices[mesh.faces, 2]
    assert (z > 0).all()
    assert (z.max(axis=1) <= z.min(axis=1) * ratio * (1 + 1e-6)).all()
    assert mask.ravel()[mesh.pixels].all()
    np.testing.assert_allclose(
        mesh.vertices, unproject(depth).reshape(-1, 3)[mesh.pixels], rtol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 300), width=st.integers(2, 300), budget=st.integers(4, 2000))
def test_thinning_keeps_the_budget_and_the_borders(height, width, budget):
    mesh = depth_to_mesh(np.zeros((height, width), np.float32), max_vertices=budget)
    assert len(mesh.vertices) <= budget
    rows, columns = np.unravel_index(mesh.pixels, (height, width))
    assert {0, height - 1} <= set(rows)
    assert {0, width - 1} <= set(columns)
    if height * width <= budget:
        assert len(mesh.vertices) == height * width
    else:
        assert len(mesh.vertices) >= min(budget, height * width) / 4


def test_grid_quads_of_two_by_three():
    np.testing.assert_array_equal(grid_quads(2, 3), [[0, 3, 4, 1], [1, 4, 5, 2]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"near": 0.0}, "Near is 0.0"),
        ({"near": -1.0}, "above 0"),
        ({"far": 1.0}, "far beyond near"),
        ({"near": math.nan}, "Near is nan"),
        ({"far": math.inf}, "far is inf"),
        ({"fov_degrees": 0.0}, "between 0 and 180"),
        ({"fov_degrees": 180.0}, "between 0 and 180"),
        ({"tear_ratio": 1.0}, "greater than 1"),
        ({"tear_ratio": math.nan}, "greater than 1"),
        ({"max_vertices": 3}, "allow 4"),
        ({"mask": np.zeros((4, 4), bool)}, "No face is left"),
        ({"mask": np.ones((4, 5), bool)}, "must be bool"),
        ({"mask": np.ones((4, 4))}, "must be bool"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, "RGB"),
        ({"image": np.zeros((4, 8, 3), np.uint8)}, "do not belong together"),
        ({"image": np.zeros((4, 4, 3), np.int32)}, "uint8"),
        ({"depth": np.zeros((1, 1), np.float32)}, "1x1 pixels has no faces"),
        ({"depth": np.zeros((1, 9), np.float32)}, "9x1 pixels has no faces"),
        ({"depth": np.zeros((9, 1), np.float32)}, "1x9 pixels has no faces"),
        ({"depth": np.zeros((0, 5), np.float32)}, "5x0 pixels has no faces"),
        ({"depth": np.full((4, 4), np.nan, np.float32)}, "No face is left"),
        ({"depth": np.zeros((4, 4), np.uint16)}, "float array"),
        ({"depth": np.zeros((4, 4, 1), np.float32)}, "float array"),
    ],
)
def test_bad_input_is_one_line(change, words):
    arguments = {"depth": np.zeros((4, 4), np.float32), **change}
    with pytest.raises(MarigoldError, match=words) as caught:
        depth_to_mesh(arguments.pop("depth"), **arguments)
    assert "\n" not in str(caught.value)


# --- the files -----------------------------------------------------------------------------------


def chunks_of(path) -> tuple[dict, bytes]:
    """Read a GLB by the letter of the specification."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    assert length % 4 == 0
    json_length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    assert json_length % 4 == 0
    text = data[20 : 20 + json_length]
    bin_length, kind = struct.unpack_from("<I4s", data, 20 + json_length)
    assert kind == b"BIN\0"
    assert 28 + json_length + bin_length == length
    return json.loads(text), data[28 + json_length :]


def view_of(scene: dict, binary: bytes, index: int) -> bytes:
    view = scene["bufferViews"][index]
    assert view["byteOffset"] % 4 == 0
    return binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]


def test_glb_by_the_specification(tmp_path):
    image = picture(5, 7)
    mesh = depth_to_mesh(ramp(5, 7), image=image, tear_ratio=9, fov_degrees=40)
    mesh.save(tmp_path / "mesh.glb")
    scene, binary = chunks_of(tmp_path / "mesh.glb")
    assert scene["buffers"][0]["byteLength"] == len(binary)

    primitive = scene["meshes"][0]["primitives"][0]
    at = scene["accessors"][primitive["attributes"]["POSITION"]]
    positions = np.frombuffer(view_of(scene, binary, at["bufferView"]), "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(positions, mesh.vertices * [1, -1, -1])  # Y up, -Z forward
    assert at["min"] == positions.min(axis=0).tolist()
    assert at["max"] == positions.max(axis=0).tolist()
    assert positions[0, 1] > 0 > positions[-1, 1]
    assert (positions[:, 2] < 0).all()

    at = scene["accessors"][primitive["indices"]]
    indices = np.frombuffer(view_of(scene, binary, at["bufferView"]), "<u4")
    assert (at["componentType"], at["count"]) == (5125, indices.size)
    np.testing.assert_array_equal(indices.reshape(-1, 3), mesh.triangles)

    at = scene["accessors"][primitive["attributes"]["TEXCOORD_0"]]
    uvs = np.frombuffer(view_of(scene, binary, at["bufferView"]), "<f4").reshape(-1, 2)
    np.testing.assert_allclose(uvs[0], [0.5 / 7, 0.5 / 5], rtol=1e-6)  # v runs down in glTF

    material = scene["materials"][primitive["material"]]
    assert material["doubleSided"]
    assert "KHR_materials_unlit" in material["extensions"]
    assert scene["extensionsUsed"] == ["KHR_materials_unlit"]
    stored = scene["images"][0]
    assert stored["mimeType"] == "image/png"
    with Image.open(io.BytesIO(view_of(scene, binary, stored["bufferView"]))) as png:
        np.testing.assert_array_equal(np.asarray(png), image)
    assert scene["samplers"][0]["wrapS"] == scene["samplers"][0]["wrapT"] == 33071

    lens = scene["cameras"][0]["perspective"]
    across = 2 * math.atan(math.tan(lens["yfov"] / 2) * lens["aspectRatio"])
    assert math.degrees(across) == pytest.approx(40)


def test_glb_without_a_picture_is_lit(tmp_path):
    depth_to_mesh(ramp(4, 4), tear_ratio=9).save(tmp_path / "plain.glb")
    scene, _ = chunks_of(tmp_path / "plain.glb")
    assert "images" not in scene
    assert "extensionsUsed" not in scene


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj", ".GLB"])
def test_another_program_reads_the_same_mesh(tmp_path, suffix):
    image = picture(6, 9)
    mesh = depth_to_mesh(ramp(6, 9), image=image, tear_ratio=9)
    mesh.save(tmp_path / f"mesh{suffix}")
    read = trimesh.load(tmp_path / f"mesh{suffix}", force="mesh", process=False)
    assert len(read.faces) == 2 * len(mesh.faces)
    want = mesh.vertices * np.float32([1, -1, -1])
    got = np.asarray(read.vertices)
    order, wanted = np.lexsort(got.T), np.lexsort(want.T)
    np.testing.assert_allclose(got[order], want[wanted], rtol=1e-5, atol=1e-6)
    towards = np.sum(np.asarray(read.face_normals) * read.triangles_center, axis=1)
    assert (towards < 0).all()
    if suffix == ".ply":
        np.testing.assert_array_equal(
            read.visual.vertex_colors[:, :3], image.reshape(-1, 3)[mesh.pixels]
        )
    else:
        # trimesh turns v upwards in whatever it reads.
        np.testing.assert_allclose(read.visual.uv[order], mesh.uvs[wanted], atol=1e-5)
        material = read.visual.material
        texture = material.image if suffix == ".obj" else material.baseColorTexture
        np.testing.assert_array_equal(np.asarray(texture.convert("RGB")), image)


def test_ply_colours_come_from_a_texture_of_another_size(tmp_path):
    image = np.zeros((12, 18, 3), np.uint8)
    image[:6] = [200, 10, 20]
    depth_to_mesh(ramp(6, 9), image=image, tear_ratio=9).save(tmp_path / "mesh.ply")
    read = trimesh.load(tmp_path / "mesh.ply", process=False)
    red = np.asarray(read.visual.vertex_colors)[:, 0] == 200
    np.testing.assert_array_equal(red, read.vertices[:, 1] > 0)


def test_obj_never_writes_over_the_picture_beside_it(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"the user's own")
    depth_to_mesh(ramp(3, 3), image=picture(3, 3), tear_ratio=9).save(tmp_path / "photo.obj")
    assert (tmp_path / "photo.png").read_bytes() == b"the user's own"
    assert {p.name for p in tmp_path.iterdir()} == {
        "photo.png",
        "photo.obj",
        "photo.mtl",
        "photo_texture.png",
    }


def test_float_pictures_become_eight_bits():
    mesh = depth_to_mesh(ramp(2, 2), image=np.full((2, 2, 3), 0.5, np.float32), tear_ratio=9)
    assert mesh.texture is not None
    assert mesh.texture.dtype == np.uint8
    assert (mesh.texture == 128).all()


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_encoder_is_lossless(image):
    with Image.open(io.BytesIO(encode_png(image))) as png:
        assert png.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(png), image)


def test_given_texture_bytes_are_kept(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(picture(4, 4)).save(jpeg, "JPEG")
    mesh = depth_to_mesh(ramp(4, 4), tear_ratio=9)
    mesh.save(tmp_path / "mesh.glb", jpeg.getvalue())
    scene, binary = chunks_of(tmp_path / "mesh.glb")
    assert scene["images"][0]["mimeType"] == "image/jpeg"
    assert view_of(scene, binary, scene["images"][0]["bufferView"]) == jpeg.getvalue()
    with pytest.raises(MarigoldError, match="neither a PNG nor a JPEG"):
        mesh.save(tmp_path / "mesh.glb", b"GIF89a")


@pytest.mark.parametrize("name", ["mesh.stl", "mesh", "mesh.glb.txt"])
def test_unknown_suffix_names_the_known_ones(tmp_path, name):
    with pytest.raises(MarigoldError, match=r"\.glb, \.ply, \.obj"):
        save_mesh(depth_to_mesh(ramp(3, 3), tear_ratio=9), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "mesh.glb"
    target.write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        depth_to_mesh(ramp(3, 3), tear_ratio=9).save(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["mesh.glb"]


# --- the field of view ---------------------------------------------------------------------------


def test_a_lens_of_known_angle_by_its_35mm_focal_length():
    # 36 x 24 mm film: 2 atan(18 / 26) across the longer side, whichever way it is held.
    want = 2 * math.degrees(math.atan(18 / 26))
    for height, width in ((2000, 3000), (3000, 2000)):
        fov = field_of_view(height, width, exif={"FocalLengthIn35mmFilm": 26.0})
        assert fov.source == "EXIF"
        assert fov.degrees == pytest.approx(want)


def test_35mm_focal_lengths_count_along_the_diagonal():
    # A phone's 4:3 sensor: 5.6 x 4.2 mm behind 4.25 mm, which its maker records as 26 mm.
    exif = {"FocalLengthIn35mmFilm": 4.25 * math.hypot(36, 24) / 7.0}
    want = 2 * math.degrees(math.atan(2.8 / 4.25))
    assert field_of_view(3024, 4032, exif=exif).degrees == pytest.approx(want)


@pytest.mark.parametrize(("unit", "per_mm"), [(2.0, 1 / 25.4), (3.0, 0.1), (4.0, 1.0)])
def test_field_of_view_by_the_sensors_resolution(unit, per_mm):
    exif = {
        "FocalLength": 50.0,
        "FocalPlaneXResolution": 6000 / 36 / per_mm,  # pixels per unit of a 36 mm sensor
        "FocalPlaneResolutionUnit": unit,
        "ExifImageWidth": 6000.0,
        "ExifImageHeight": 4000.0,
    }
    fov = field_of_view(1000, 1500, exif=exif)  # made smaller since
    assert fov == (pytest.approx(2 * math.degrees(math.atan(18 / 50))), "EXIF")


def test_a_cropped_pictures_exif_is_not_used():
    exif = {"FocalLengthIn35mmFilm": 26.0, "ExifImageWidth": 4000.0, "ExifImageHeight": 3000.0}
    assert field_of_view(3000, 4000, exif=exif).source == "EXIF"
    assert field_of_view(3000, 3000, exif=exif).source == "default"


def test_the_field_of_view_says_its_source():
    exif = {"FocalLengthIn35mmFilm": 26.0}
    assert field_of_view(4, 6, user=40, exif=exif, estimate=60) == (40, "user")
    assert field_of_view(4, 6, exif=exif, estimate=60).source == "EXIF"
    assert field_of_view(4, 6, exif={}, estimate=60) == (60, "estimate")
    assert field_of_view(4, 6) == (50, "default")
    for wrong in ({"user": 0.0}, {"user": 180.0}, {"estimate": math.nan}):
        with pytest.raises(MarigoldError, match="between 0 and 180"):
            field_of_view(4, 6, **wrong)


names = st.sampled_from(
    ["FocalLength", "FocalLengthIn35mmFilm", "FocalPlaneXResolution", "FocalPlaneResolutionUnit",
     "ExifImageWidth", "ExifImageHeight"]
)  # fmt: skip


@given(st.integers(1, 9999), st.integers(1, 9999), st.dictionaries(names, st.floats(-1e30, 1e30)))
def test_no_exif_record_gives_an_impossible_angle(height, width, exif):
    assert 1 <= field_of_view(height, width, exif=exif).degrees <= 150
