"""Picture files from strangers: known formats alone, and a budget of pixels, memory and time."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from marigold_core.depth_files import read_array
from marigold_core.errors import MarigoldError
from marigold_core.images import MAX_PIXELS, open_picture, read_image

ROOT = Path(__file__).parents[1]


def refused(read, path, *words: str, seconds: float = 5) -> str:
    started = time.monotonic()
    with pytest.raises(MarigoldError) as caught:
        read(path)
    assert time.monotonic() - started < seconds
    message = str(caught.value)
    assert [word for word in (path.name, *words) if word not in message] == [], message
    return message


def peak_megabytes(code: str, *arguments: object) -> int:
    """What a fresh process needed at most, above what imports took. (Linux counts it.)"""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from Linux's /proc")
    program = f"""
        import sys
        from marigold_core.images import read_image, open_picture
        from marigold_core.depth_files import read_array
        import OpenEXR
        def peak():
            status = open("/proc/self/status").read()
            return int(status.split("VmHWM:")[1].split()[0]) // 1024
        before = peak()
        try:
            {code}
        except ValueError:
            pass
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n", "a.png"),
        (b"\xc5\xd0\xd3\xc6" + bytes(28), "a.jpg"),  # EPS with a preview
        (b"%PDF-1.4\n", "a.tif"),
        (b"#define im_width 4\n#define im_height 4\nstatic char im_bits[] = {1};", "a.png"),
        (b"8BPS" + bytes(100), "a.png"),
    ],
)
def test_only_picture_formats_are_decoded(tmp_path, monkeypatch, content, name):
    def ghostscript(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", ghostscript)
    monkeypatch.setattr(subprocess, "check_call", ghostscript)
    (tmp_path / name).write_bytes(content)
    refused(read_image, tmp_path / name, "not a picture", "PNG")


def test_pillow_is_given_a_list_of_formats(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png", "ICO")
    refused(open_picture, tmp_path / "photo.png", "not a picture")


@pytest.mark.parametrize("read", [read_image, read_array])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".exr"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_only_regular_files_are_read(tmp_path, read, suffix, kind):
    path = tmp_path / f"picture{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(MarigoldError, match="picture"):
        read(path)


def test_a_hundred_megapixels_are_welcome_and_more_than_any_camera_has_is_not():
    assert 152_000_000 < MAX_PIXELS < 170_000_000


def test_memory_of_a_large_picture(tmp_path):
    """36 megapixels RGBA: 4 bytes as stored, twice for a moment; 12 bytes as the result."""
    Image.new("RGBA", (6000, 6000), (9, 9, 9, 100)).save(tmp_path / "a.png", compress_level=1)
    assert peak_megabytes("read_image(sys.argv[1])", tmp_path / "a.png") < 36 * 17 * 1.1


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 64)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
def test_a_tile_is_not_much_larger_than_its_picture(tmp_path, compression):
    path = tmp_path / "tile.tif"
    path.write_bytes(
        tiff(
            (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, compression),
            (262, 3, 1, 1), (277, 3, 1, 1), (322, 4, 1, 40_000), (323, 4, 1, 40_000),
            (324, 4, 1, 150), (325, 4, 1, 64),
        )
    )  # fmt: skip
    assert peak_megabytes("open_picture(sys.argv[1])", path) < 60
    refused(open_picture, path)


def progressive(scans: int, side: int) -> bytes:
    """A JPEG whose last scan, of a few bytes, comes again and again."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    return data[:last] + scan * scans + b"\xff\xd9"


def test_a_picture_that_takes_for_ever_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("marigold_core.images.MAX_SECONDS", 2)
    path = tmp_path / "scans.jpg"
    path.write_bytes(progressive(40_000, 4000))
    refused(read_image, path, "seconds", seconds=8)


def test_pictures_decoded_in_a_process_of_their_own_are_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", progressive=True, exif=exif)
    image.save(tmp_path / "a.tif", compression="jpeg", exif=exif)
    image.convert("L").save(tmp_path / "grey.jpg", progressive=True)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("a.jpg", "a.tif", "grey.jpg", "cmyk.jpg"):
        monkeypatch.setattr("marigold_core.images._needs_time_limit", lambda *_: False)
        here = read_image(tmp_path / name)
        monkeypatch.setattr("marigold_core.images._needs_time_limit", lambda *_: True)
        np.testing.assert_array_equal(read_image(tmp_path / name), here)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_jpeg_2000(tmp_path):
    grey = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2")[..., 0] * 255, grey)
    (tmp_path / "cut.jp2").write_bytes((tmp_path / "a.jp2").read_bytes()[:200])
    refused(read_image, tmp_path / "cut.jp2")


def test_a_motion_photo_is_a_photo(tmp_path):
    """A JPEG with a film behind it, in whose bytes JPEG's markers stand by chance."""
    path = tmp_path / "motion.jpg"
    Image.new("RGB", (64, 48), (255, 0, 0)).save(path)
    with path.open("ab") as file:
        file.write(b"\xff\xda\x00\x08" * 100_000)
    assert read_image(path).shape == (48, 64, 3)


def test_errors_without_a_text_have_a_reason(monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", out_of_memory)
    with pytest.raises(MarigoldError, match="not enough memory"):
        read_image(Image.new("RGB", (4, 4)))


def test_the_remedy_for_negative_numbers_makes_sense():
    with pytest.raises(MarigoldError, match="subtract its minimum"):
        read_image(np.array([[-3.0, 0.5]]))


# --- depth files ---


def exr(path: Path, channels: dict[str, np.ndarray], **header) -> Path:
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage} | header
    openexr.File(header, channels).write(str(path))
    return path


def test_deep_exr_is_refused_in_one_message(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    samples = np.empty((4, 6), object)
    samples[1, 2] = np.array([1.0, 2.0], np.float32)
    header = {"compression": openexr.ZIPS_COMPRESSION, "type": openexr.deepscanline}
    path = exr(tmp_path / "deep.exr", {"Z": samples}, **header)
    refused(read_array, path, "deep")


def test_an_exr_of_many_channels_is_not_decompressed(tmp_path):
    flat = np.zeros((2000, 2000), np.float32)
    channels = {name: flat for name in "ABCDEFGHIJKLMNOPQRSTUVWX"} | {"Y": flat}
    path = exr(tmp_path / "many.exr", channels)
    assert path.stat().st_size < 1_000_000
    assert read_array(path).shape == (2000, 2000)
    assert peak_megabytes("read_array(sys.argv[1])", path) < 250


def test_an_exr_window_beyond_the_budget_is_refused_from_its_header(tmp_path):
    path = exr(tmp_path / "window.exr", {"Y": np.zeros((16, 16), np.float32)})
    data = path.read_bytes()
    window = struct.pack("<4i", 0, 0, 15, 15)
    path.write_bytes(data.replace(window, struct.pack("<4i", 0, 0, 99_999, 99_999)))
    assert peak_megabytes("read_array(sys.argv[1])", path) < 60
    refused(read_array, path, "megapixels")


def npy(path: Path, shape: tuple[int, ...], kind: str = "<f4") -> Path:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + bytes(64))
    return path


def test_an_array_is_not_longer_than_its_file(tmp_path):
    path = npy(tmp_path / "claims.npy", (20_000, 30_000))
    assert peak_megabytes("read_array(sys.argv[1])", path) < 60
    refused(read_array, path)
    refused(read_array, npy(tmp_path / "object.npy", (2, 2), "|O"))
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04" + zlib.compress(bytes(100)))
    refused(read_array, tmp_path / "zip.npy")
