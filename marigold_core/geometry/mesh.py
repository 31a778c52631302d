"""A mesh and its files: .glb (glTF 2.0), .ply, .obj, with numpy and the standard library alone.

All files get Y up and -Z forward, glTF's axes and the usual ones of OBJ: a half turn of OpenCV's
about x, so that front faces stay front faces.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from ..files import atomic_path

Y_UP = np.array([1, -1, -1], dtype=np.float32)
SUFFIXES = (".glb", ".ply", ".obj")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# glTF's enumerations, which are OpenGL's.
FLOAT, UNSIGNED_INT = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071


@dataclass(frozen=True, eq=False)
class Mesh:
    """A textured grid mesh in camera space; the picture's camera is at the origin.

    vertices: (V, 3) float32, OpenCV axes, in the units of near and far.
    faces: (Q, 4) int32 quads, front side towards the camera.
    uvs: (V, 2) float32 in (0, 1), v upwards from the picture's bottom (OBJ, Blender; glTF's v
        runs down, and the writer flips it).
    pixels: (V,) int64, row * width + column of each vertex in the depth map, so that
        `any_map.ravel()[mesh.pixels]` is a vertex attribute.
    size: (height, width) of the depth map; fov_degrees: across its longer side.
    texture: (h, w, 3) uint8, or None.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    uvs: NDArray[np.float32]
    pixels: NDArray[np.int64]
    size: tuple[int, int]
    fov_degrees: float
    texture: NDArray[np.uint8] | None = None

    @property
    def triangles(self) -> NDArray[np.int32]:
        """(2 Q, 3) int32: each quad split along the diagonal that spans less depth, which keeps
        a crease on the crease. Same winding as the quads."""
        z = self.vertices[self.faces, 2]
        along_02 = np.abs(z[:, 0] - z[:, 2]) <= np.abs(z[:, 1] - z[:, 3])
        order = np.where(along_02[:, None], [0, 1, 2, 0, 2, 3], [1, 2, 3, 1, 3, 0])
        return np.take_along_axis(self.faces, order, axis=1).reshape(-1, 3)

    def save(
        self,
        path: str | os.PathLike[str],
        encoded_texture: bytes | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write .glb, .ply or .obj; see `save_mesh`."""
        save_mesh(self, path, encoded_texture, metadata)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points in camera space, in the units of the depth that they are from.

    points: (N, 3) float32, OpenCV axes: x right, y down, z forward. colors: (N, 3) uint8, or None.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a binary .ply, in OpenCV axes as COLMAP, Open3D and ROS have them, so that it lies
        over clouds of the same camera. (Meshes are for programs with y up.)

        Raises MarigoldError for another suffix; OSError.
        """
        path = Path(path)
        if path.suffix.lower() != ".ply":
            raise MarigoldError(f"{path.name}: a point cloud is saved as .ply; name it so.")
        header, vertices = _ply_vertices(self.points, self.colors)
        text = "\n".join([*header, "end_header"]) + "\n"
        _write(path, text.encode("ascii") + vertices.tobytes())


def save_mesh(
    mesh: Mesh,
    path: str | os.PathLike[str],
    encoded_texture: bytes | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `mesh` to `path`; the suffix says how.

    .glb: triangles, the picture inside as an unlit texture, and the picture's camera.
    .ply: binary, triangles, vertex colours picked from the texture.
    .obj: quads; NAME.mtl and NAME_texture.png (or .jpg) beside it when there is a texture.
    encoded_texture: PNG or JPEG bytes to use instead of encoding `mesh.texture` as PNG.
    metadata: name -> text, the extras of a .glb's asset; the other formats ignore it.
    Raises MarigoldError for another suffix, or bytes that are neither; OSError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MarigoldError(f"{path.name}: a mesh is saved as {', '.join(SUFFIXES)}; name it so.")
    if suffix == ".ply":
        _write(path, _ply(mesh))
        return
    if encoded_texture is None and mesh.texture is not None:
        encoded_texture = encode_png(mesh.texture)
    if suffix == ".glb":
        _write(path, _glb(mesh, encoded_texture, metadata))
    else:
        _write_obj(mesh, path, encoded_texture)


def mesh_files(path: Path, texture_suffix: str = ".png") -> list[Path]:
    """The files that `save_mesh` writes for a mesh with a texture: NAME.mtl and NAME_texture.png
    (or .jpg) go with an .obj."""
    if path.suffix.lower() != ".obj":
        return [path]
    # The picture may well be NAME.png in this very folder: never write over it.
    texture = path.with_name(f"{path.stem}_texture{texture_suffix}")
    return [path, path.with_suffix(".mtl"), texture]


def encode_png(
    picture: NDArray[np.uint8] | NDArray[np.uint16], metadata: Mapping[str, str] | None = None
) -> bytes:
    """(H, W, 3) uint8 or uint16 -> the bytes of an RGB PNG of 8 or 16 bits.

    Blender's Python has no Pillow, and Pillow writes no 16-bit colours. metadata: name -> ASCII
    text, as text chunks.
    """
    height, width, _ = picture.shape
    depth = picture.dtype.itemsize
    samples = np.ascontiguousarray(picture, picture.dtype.newbyteorder(">"))
    stored = samples.view(np.uint8).reshape(height, width, 3 * depth)
    # Filter 1, each pixel less its left neighbour: photographs shrink by about a third more.
    lines = np.empty((height, 1 + 3 * depth * width), dtype=np.uint8)
    lines[:, 0] = 1
    lines[:, 1 : 1 + 3 * depth] = stored[:, 0]
    lines[:, 1 + 3 * depth :] = (stored[:, 1:] - stored[:, :-1]).reshape(height, -1)

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(data, zlib.crc32(name))
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * depth, 2, 0, 0, 0))
    for name, text in (metadata or {}).items():
        header += chunk(b"tEXt", name.encode("ascii") + b"\0" + text.encode("ascii"))
    body = chunk(b"IDAT", zlib.compress(lines.tobytes(), 6))
    return PNG_SIGNATURE + header + body + chunk(b"IEND", b"")


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _mime_type(encoded: bytes) -> str:
    if encoded.startswith(PNG_SIGNATURE):
        return "image/png"
    if encoded.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    raise MarigoldError("The texture's bytes are neither a PNG nor a JPEG file.")


def _glb(mesh: Mesh, encoded_texture: bytes | None, metadata: Mapping[str, str] | None) -> bytes:
    """glTF 2.0, section 4.4: a header, a JSON chunk and a binary chunk, each 4-byte aligned."""
    blobs: list[bytes] = []
    views: list[dict[str, Any]] = []

    def add_view(data: bytes, **extra: int) -> int:
        offset = sum(map(len, blobs))
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(data), **extra})
        blobs.append(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    positions = (mesh.vertices * Y_UP).astype("<f4")
    uvs = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=-1).astype("<f4")
    indices = mesh.triangles.astype("<u4")
    accessors = [
        {
            "bufferView": add_view(positions.tobytes(), target=ARRAY_BUFFER),
            "componentType": FLOAT,
            "count": len(positions),
            "type": "VEC3",
            "min": positions.min(axis=0).tolist(),
            "max": positions.max(axis=0).tolist(),
        },
        {
            "bufferView": add_view(uvs.tobytes(), target=ARRAY_BUFFER),
            "componentType": FLOAT,
            "count": len(uvs),
            "type": "VEC2",
        },
        {
            "bufferView": add_view(indices.tobytes(), target=ELEMENT_ARRAY_BUFFER),
            "componentType": UNSIGNED_INT,
            "count": indices.size,
            "type": "SCALAR",
        },
    ]
    surface: dict[str, Any] = {"metallicFactor": 0, "roughnessFactor": 1}
    material: dict[str, Any] = {"pbrMetallicRoughness": surface, "doubleSided": True}
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
    scene: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "marigold-kit"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"mesh": 0, "name": "Depth Mesh"}, {"camera": 0, "name": "Camera"}],
        "cameras": [_gltf_camera(mesh)],
        "meshes": [{"primitives": [primitive], "name": "Depth Mesh"}],
        "materials": [material],
        "accessors": accessors,
    }
    if metadata:
        scene["asset"]["extras"] = dict(metadata)
    if encoded_texture is not None:
        surface["baseColorTexture"] = {"index": 0}
        # The photograph holds its light already. Without a picture, light shows the shape.
        material["extensions"] = {"KHR_materials_unlit": {}}
        scene["extensionsUsed"] = ["KHR_materials_unlit"]
        mime_type = _mime_type(encoded_texture)
        scene["images"] = [{"bufferView": add_view(encoded_texture), "mimeType": mime_type}]
        scene["textures"] = [{"source": 0, "sampler": 0}]
        sampler = {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR}
        scene["samplers"] = [{**sampler, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}]
    scene["bufferViews"] = views
    binary = b"".join(blobs)
    scene["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(scene, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    if total >= 2**32:
        raise MarigoldError(
            "A .glb file ends at 4 GiB and this mesh is larger; allow fewer vertices."
        )
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )


def _gltf_camera(mesh: Mesh) -> dict[str, Any]:
    """The picture's own camera; glTF counts the field of view along the height."""
    height, width = mesh.size
    half = math.tan(math.radians(mesh.fov_degrees) / 2) * height / max(height, width)
    nearest = float(np.linalg.norm(mesh.vertices, axis=1).min())
    lens = {"yfov": 2 * math.atan(half), "aspectRatio": width / height, "znear": nearest / 10}
    return {"type": "perspective", "perspective": lens, "name": "Camera"}


def _ply(mesh: Mesh) -> bytes:
    colors = None
    if mesh.texture is not None:
        height, width, _ = mesh.texture.shape
        columns = np.minimum((mesh.uvs[:, 0] * width).astype(np.int64), width - 1)
        rows = np.minimum(((1 - mesh.uvs[:, 1]) * height).astype(np.int64), height - 1)
        colors = mesh.texture[rows, columns]
    header, vertices = _ply_vertices(mesh.vertices * Y_UP, colors)

    triangles = mesh.triangles
    faces = np.empty(len(triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = triangles
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    return ("\n".join(header) + "\n").encode("ascii") + vertices.tobytes() + faces.tobytes()


def _ply_vertices(
    points: NDArray[np.float32], colors: NDArray[np.uint8] | None
) -> tuple[list[str], NDArray[Any]]:
    """(the header's first lines, the vertex element) of points (N, 3) with or without colours."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    if colors is not None:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.empty(len(points), fields)
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = points[:, axis]
    if colors is not None:
        for channel, name in enumerate(("red", "green", "blue")):
            vertices[name] = colors[:, channel]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
    return header, vertices


def _write_obj(mesh: Mesh, path: Path, encoded_texture: bytes | None) -> None:
    lines = []
    if encoded_texture is not None:
        suffix = ".png" if _mime_type(encoded_texture) == "image/png" else ".jpg"
        _, material, texture = mesh_files(path, suffix)
        _write(texture, encoded_texture)
        _write(material, f"newmtl picture\nKd 1 1 1\nmap_Kd {texture.name}\n".encode())
        lines.append(f"mtllib {material.name}\nusemtl picture\n")
    lines.append(_lines("v %.7g %.7g %.7g\n", mesh.vertices * Y_UP))
    lines.append(_lines("vt %.7g %.7g\n", mesh.uvs))
    # OBJ counts from 1; position and texture coordinate share their number.
    lines.append(_lines("f %d/%d %d/%d %d/%d %d/%d\n", np.repeat(mesh.faces + 1, 2, axis=1)))
    _write(path, "".join(lines).encode())


def _lines(template: str, rows: NDArray[Any]) -> str:
    """One line a row; a single `%` over many rows is several times faster than a loop."""
    block = 65536
    blocks = (rows[start : start + block] for start in range(0, len(rows), block))
    return "".join((template * len(rows)) % tuple(rows.ravel().tolist()) for rows in blocks)
