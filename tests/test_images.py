"""Any picture in, float32 RGB in [0, 1] out, or one line that says why not."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, features

from marigold_core.errors import MarigoldError
from marigold_core.images import (
    PICTURE_SUFFIXES,
    open_picture,
    read_exif,
    read_image,
    read_mask,
    read_samples,
    unit_range,
)

PHOTOS = Path(__file__).parents[1].parent / "shared" / "data" / "rgbd" / "photos"
MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I I;16 I;16L I;16B I;16N F".split()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def refused(source: object, *words: str) -> str:
    with pytest.raises(MarigoldError) as caught:
        read_image(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# --- what comes out ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (257, 1)])
def test_every_pillow_mode(mode, size):
    picture = read_image(Image.new(mode, size))
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.float32
    assert picture.flags.c_contiguous
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".tga", ".gif"])
def test_lossless_files_give_their_own_values(tmp_path, photo, suffix):
    grey = np.repeat(photo[..., :1], 3, axis=2)
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(grey if suffix == ".gif" else photo).save(path)
    np.testing.assert_array_equal(
        read_image(path), (grey if suffix == ".gif" else photo).astype(np.float32) / 255
    )
    assert suffix in PICTURE_SUFFIXES


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_modern_files(tmp_path, suffix):
    if not features.check(suffix[1:]):
        pytest.skip(f"this Pillow was built without {suffix}")
    path = tmp_path / f"picture{suffix}"
    Image.new("RGB", (64, 48), (255, 0, 0)).save(path, quality=95)
    np.testing.assert_allclose(read_image(path)[24, 32], [1, 0, 0], atol=0.03)


def test_all_16_bit_levels_survive(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / "deep.png"
    Image.fromarray(levels).save(path)
    # PGM comes as Pillow's mode I, big-endian TIFF as I;16B.
    pgm = tmp_path / "deep.pgm"
    pgm.write_bytes(b"P5 256 256 65535\n" + levels.astype(">u2").tobytes())
    big_endian = Image.frombytes("I;16B", (256, 256), levels.astype(">u2").tobytes())
    for source in (path, pgm, levels, big_endian, Image.fromarray(levels.astype(np.int32))):
        picture = read_image(source)
        assert len(np.unique(picture)) == 65536
        np.testing.assert_array_equal(np.rint(picture[..., 1] * 65535), levels)
        assert picture.max() == 1


def test_palette_is_colour_not_index(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    path = tmp_path / "palette.png"
    palette.save(path)
    np.testing.assert_array_equal(read_image(path)[0], [[1, 0, 0], [0, 0, 1]])
    palette.save(path, transparency=1)
    np.testing.assert_array_equal(read_image(path)[0], [[1, 0, 0], [1, 1, 1]])


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.array([[[255, 0, 0, 255], [9, 9, 9, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[1, 0, 0], [1, 1, 1], [0.8, 0.8, 0.8]]
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    for source in (tmp_path / "alpha.png", rgba, Image.fromarray(rgba), rgba.astype("f") / 255):
        np.testing.assert_allclose(read_image(source)[0], expected, atol=1e-6)
    grey_alpha = np.array([[[0, 255], [0, 0], [0, 51]]], dtype=np.uint8)
    for source in (grey_alpha, Image.fromarray(grey_alpha, "LA")):
        np.testing.assert_allclose(read_image(source)[0, :, 0], [0, 1, 0.8], atol=1e-6)


def test_transparent_level_of_16_bit_grey(tmp_path):
    rows = b"\0" + struct.pack(">2H", 1000, 2000)
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000))))
    np.testing.assert_allclose(read_image(path)[0, :, 0], [1, 2000 / 65535])


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, photo, mode, orientation):
    upright = photo[..., 0].astype(np.uint16) * 257 if mode == "I;16" else photo
    if mode == "L":
        upright = photo[..., 0]
    # How a camera stores the upright picture, by the EXIF standard's 0th row and column.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    # A plain TIFF, a TIFF of several pages, a compressed one, a PNG.
    for suffix, options in (
        (".tif", {}),
        (".tif", {"save_all": True, "append_images": [image]}),
        (".tif", {"compression": "tiff_lzw"}),
        (".png", {}),
    ):
        path = tmp_path / f"turned{suffix}"
        image.save(path, exif=exif, **options)
        np.testing.assert_array_equal(read_image(path), read_image(upright))


def test_exif_numbers_about_the_lens(tmp_path, photo):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x920A: 4.25, 0xA405: 26, 0xA20E: float("nan"), 0xA002: 4032})
    Image.fromarray(photo).save(tmp_path / "phone.jpg", exif=exif)
    found = read_exif(tmp_path / "phone.jpg")
    assert found == {
        "FocalLength": pytest.approx(4.25),
        "FocalLengthIn35mmFilm": 26,
        "ExifImageWidth": 4032,
    }


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("content", [b"", b"no picture", png(1, 1, 8, 0, b"\0\0")])
def test_no_exif_is_no_numbers(tmp_path, content):
    (tmp_path / "file.png").write_bytes(content)
    assert read_exif(tmp_path / "file.png") == {}
    assert read_exif(tmp_path / "missing.png") == {}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0\xff\xff" + b"\xff" * 30, b"Exif\0\0no TIFF header"]
)
def test_damaged_exif_does_not_matter(tmp_path, photo, exif):
    path = tmp_path / "exif.png"
    Image.fromarray(photo).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), read_image(photo))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (0, 255)]
    for suffix in (".gif", ".tif", ".png"):
        path = tmp_path / f"frames{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert read_image(path).max() == 0


def test_arrays_and_tensors_agree(photo):
    torch = pytest.importorskip("torch")
    picture = read_image(photo)
    np.testing.assert_array_equal(read_image(torch.from_numpy(photo).permute(2, 0, 1)), picture)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    np.testing.assert_array_equal(read_image(tensor), picture)
    np.testing.assert_array_equal(read_image(tensor.double().requires_grad_()), picture)
    assert read_image(tensor.bfloat16()) == pytest.approx(picture, abs=1 / 256)
    grey = read_image(tensor[:1])
    np.testing.assert_array_equal(grey, read_image(tensor[0]))
    np.testing.assert_array_equal(grey, read_image(picture[..., :1]))
    np.testing.assert_array_equal(grey, read_image(picture[..., 0]))
    np.testing.assert_array_equal(grey[..., 2], picture[..., 0])


def test_the_source_is_left_alone(photo):
    picture = photo.astype(np.float32) / 200 - 0.1
    before = picture.copy()
    read_image(picture)[:] = 7
    rgba = np.dstack([picture, picture[..., 0]])
    rgba_before = rgba.copy()
    read_image(rgba)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(rgba, rgba_before)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.bool_, np.float16, np.float32, np.float64]),
        st.tuples(st.integers(1, 5), st.integers(5, 7), st.integers(1, 4)),
        elements=st.just(0),
        fill=st.nothing(),
    ).flatmap(
        lambda zeros: hnp.arrays(
            zeros.dtype,
            zeros.shape,
            elements=st.floats(-0.5, 1.5, width=16) if zeros.dtype.kind == "f" else None,
        )
    )
)
def test_any_array_lands_in_range(array):
    picture = read_image(array)
    assert picture.shape == (*array.shape[:2], 3)
    assert picture.dtype == np.float32
    assert np.isfinite(picture).all()
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_overshoot_is_clipped():
    np.testing.assert_array_equal(
        read_image(np.array([[-0.4, 0.5, 1.0000002, 1.4]]))[0, :, 0], np.float32([0, 0.5, 1, 1])
    )


# --- what is refused, and in which words ---


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4, 3), 200.0), ["divide by 255"]),
        (np.full((4, 4), 60000.0), ["divide by 65535"]),
        (np.full((4, 4), 3.0), ["divide by 3"]),
        (np.linspace(-1, 1, 9).reshape(3, 3), ["add 1 and divide by 2"]),
        (np.full((4, 4), 1e30), ["subtract its minimum"]),
        (np.full((4, 4), np.nan), ["NaN"]),
        (np.array([[0, np.inf]]), ["infinite"]),
        (np.zeros((0, 4, 3)), ["empty"]),
        (np.zeros((4, 0)), ["empty"]),
        (np.zeros(4), ["shape (4,)"]),
        (np.zeros((1, 4, 4, 3)), ["one picture"]),
        (np.zeros((4, 4, 5)), ["shape"]),
        (np.zeros((3, 8, 8)), ["transpose(1, 2, 0)"]),
        (np.zeros((4, 4), np.int64), ["int64", "uint8"]),
        (np.zeros((4, 4), complex), ["complex"]),
        (np.zeros((4, 4), object), ["object"]),
        (np.broadcast_to(np.uint8(0), (20_000, 10_001)), ["megapixels", "200"]),
        (Image.new("RGB", (0, 4)), ["empty"]),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), ["65535"]),
        (Image.fromarray(np.full((2, 2), 255.0, np.float32)), ["divide by 255"]),
        (None, ["NoneType"]),
        ([np.zeros((4, 4))], ["one at a time"]),
    ],
)
def test_wrong_arrays(array, words):
    refused(array, *words)


def test_wrong_tensors():
    torch = pytest.importorskip("torch")
    refused(torch.zeros(8, 8, 3), "permute(2, 0, 1)")
    refused(torch.zeros(1, 3, 8, 8), "one picture")
    refused(torch.full((3, 8, 8), torch.nan), "NaN")


def test_wrong_files(tmp_path, photo):
    refused(tmp_path / "none.png", "no file", "none.png")
    refused(tmp_path, "folder")
    refused("", "folder")
    refused("a\0b.png", "cannot be read")
    (tmp_path / "notes.png").write_text("not a picture")
    refused(tmp_path / "notes.png", "notes.png", "convert")
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "empty.jpg")
    Image.fromarray(np.tile(photo, (40, 40, 1))).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.png", "cut.png")


def test_size_limits(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, 8, 2, b""))
    refused(tmp_path / "bomb.png", "bomb.png", "3600 megapixels")
    rows = (b"\0" + b"\xff" * 1250) * 10_000
    (tmp_path / "large.png").write_bytes(png(10_000, 10_000, 1, 0, rows))
    Image.new("1", (15_900, 10_000)).save(tmp_path / "large.tif", compression="group4")
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(tmp_path / "large.png").size == (10_000, 10_000)
        assert open_picture(tmp_path / "large.tif").size == (15_900, 10_000)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.fixture(scope="module")
def whole_files() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    files = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        if kind != "WEBP" or features.check("webp"):
            buffer = io.BytesIO()
            image.save(buffer, kind)
            files.append(buffer.getvalue())
    return files


@settings(deadline=None, max_examples=150)
@example(which=0, at=20, value=255, length=1.0)
@given(
    which=st.integers(0, 5),
    at=st.integers(0, 400),
    value=st.integers(0, 255),
    length=st.floats(0, 1),
)
def test_broken_files_never_show_a_traceback(
    tmp_path_factory, whole_files, which, at, value, length
):
    data = bytearray(whole_files[which % len(whole_files)])
    data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "broken.picture"
    path.write_bytes(data[: round(length * len(data))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = read_image(path)
        except MarigoldError as error:
            assert "broken.picture" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(picture).all()


# --- masks ---


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_the_picture_in_its_own_type(mode):
    image = Image.effect_noise((9, 7), 60).convert("L")
    image = image.convert("F").convert(mode) if mode in ("I", "F") else image.convert("RGB")
    image = image.convert(mode) if mode in ("1", "L", "P", "RGBA", "CMYK", "I", "F") else image
    if mode == "F":
        image = Image.fromarray(np.asarray(image) / np.float32(255))
    samples = read_samples(image)
    assert samples.shape == (7, 9, 3)
    assert samples.dtype in (np.uint8, np.uint16, np.float32)
    np.testing.assert_array_equal(unit_range(samples), read_image(image))


def test_a_float_picture_in_range_is_not_copied():
    picture = np.random.default_rng(0).random((4, 5, 3), dtype=np.float32)
    assert read_samples(picture) is picture
    assert read_samples(picture + np.float32(0.4)).max() == 1


def test_mask_threshold_and_alpha():
    grey = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    expected = [[False, False, True, True]]
    np.testing.assert_array_equal(read_mask(grey), expected)
    np.testing.assert_array_equal(read_mask(Image.fromarray(grey)), expected)
    np.testing.assert_array_equal(read_mask(grey.astype(np.float32) / 255), expected)
    clear = np.zeros((1, 4, 4), dtype=np.uint8)
    clear[..., :3] = grey[..., None]
    np.testing.assert_array_equal(read_mask(clear), expected)
    np.testing.assert_array_equal(read_mask(Image.fromarray(clear)), expected)
    assert read_mask(grey).dtype == bool


def test_mask_of_labels(tmp_path):
    labels = np.array([[0, 1, 1]], dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    for source in (labels, labels.astype(bool), tmp_path / "labels.png", labels.astype(float)):
        np.testing.assert_array_equal(read_mask(source), [[False, True, True]])


# --- photographs and odd files from elsewhere ---


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("16bit.cropped.tif", (64, 64)),
        ("Landscape_6.jpg", (1200, 1800)),
        ("hopper.gif", (128, 128)),
        ("hopper_gray.jpg", (128, 128)),
        ("hopper_orientation_8.webp", (128, 128)),
        ("pil_sample_cmyk.jpg", (100, 100)),
        ("rgb_trns.png", (64, 64)),
        ("tiff_16bit_RGB.tiff", (40, 100)),
        ("tiny.png", (4, 4)),
        ("transparent.png", (150, 200)),
    ],
)
def test_odd_files(name, size):
    if not (PHOTOS / name).exists():
        pytest.skip("the photographs are not beside this checkout")
    picture = read_image(PHOTOS / name)
    assert picture.shape == (*size, 3)
    assert picture.std() > 0


def test_turned_photo_is_the_upright_one():
    if not (PHOTOS / "Landscape_6.jpg").exists():
        pytest.skip("the photographs are not beside this checkout")
    turned, upright = (read_image(PHOTOS / f"Landscape_{n}.jpg") for n in (6, 1))
    assert abs(turned - upright).mean() < 0.02
