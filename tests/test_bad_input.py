"""What artists and studios feed to the command: any picture, broken files, broken checkpoints.

The real command runs the bundled checkpoint. Each input gives a depth map of the picture's size, or
one line that names the file; never a traceback, and never half a file.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from marigold_core.checkpoints.published import BUNDLED
from marigold_core.cli.arguments import main

QUICK = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FORMATS = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}
if features.check("avif"):
    FORMATS["AVIF"] = ".avif"
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
}
ORIENTATION = 0x0112


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one `marigold` command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def estimate(picture: Path, folder: Path, *options: str | Path) -> tuple[int, str, str]:
    shutil.rmtree(folder, ignore_errors=True)
    quick = ("--steps", "1", "--resolution", "32", "--format", "npy", "-o", folder)
    return run("depth", picture, *quick, *options)


def picture(mode: str, width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(rng.random((height, width), dtype=np.float32))
    return noise.convert("RGB").convert(mode) if mode in ("CMYK", "P") else noise.convert(mode)


@QUICK
@example(kind="PNG", mode=0, width=1, height=1, orientation=1, seed=0)
@example(kind="PNG", mode=4, width=3000, height=1, orientation=1, seed=0)
@example(kind="JPEG", mode=2, width=7, height=200, orientation=6, seed=0)
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    mode=st.integers(0, 7),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_any_picture_gives_depth_of_its_upright_size(
    tmp_path, kind, mode, width, height, orientation, seed
):
    modes = MODES[kind]
    image = picture(modes[mode % len(modes)], width, height, seed)
    file = tmp_path / f"photo{FORMATS[kind]}"
    exif = Image.Exif()
    if kind in ("JPEG", "WEBP"):
        exif[ORIENTATION] = orientation
        image.save(file, kind, exif=exif)
        if orientation >= 5:
            width, height = height, width
    else:
        image.save(file, kind)
    status, _, err = estimate(file, tmp_path / "out")
    assert (status, err) == (0, "")
    depth = np.load(tmp_path / "out" / "photo_depth.npy")
    assert depth.shape == (height, width)
    assert np.isfinite(depth).all()


@QUICK
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    share=st.floats(0, 1),
    at=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_a_broken_picture_is_one_line_and_its_neighbour_is_done(tmp_path, kind, share, at, value):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir(exist_ok=True)
    for left_over in folder.iterdir():
        left_over.unlink()
    buffer = io.BytesIO()
    picture("RGB" if kind != "GIF" else "P", 20, 15, 0).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    data[int(at * len(data))] = value
    (folder / f"broken{FORMATS[kind]}").write_bytes(data[: int(share * len(data))])
    picture("RGB", 20, 15, 1).save(folder / "whole.png")
    status, said, err = estimate(folder, out)
    assert (out / "whole_depth.npy").exists()
    written = {file.name for file in out.iterdir()}
    if status == 0:  # the decoder could do without that byte
        assert np.isfinite(np.load(out / "broken_depth.npy")).all()
    else:
        assert status == 1
        assert err.count("\n") == 1
        assert f"broken{FORMATS[kind]}" in err
        assert "1 failed" in said
        assert not any(name.startswith("broken") for name in written)
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def nano_files() -> list[str]:
    whole = BUNDLED["nano"]
    return sorted(
        file.relative_to(whole).as_posix()
        for file in whole.rglob("*")
        if file.suffix in (".json", ".safetensors", ".txt")
    )


@QUICK
@given(which=st.integers(0, 30), share=st.none() | st.floats(0, 1), data=st.data())
def test_a_broken_checkpoint_is_one_line_or_works(tmp_path, nano_files, which, share, data):
    folder = tmp_path / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(BUNDLED["nano"], folder, copy_function=os.link)
    file = folder / nano_files[which % len(nano_files)]
    content = bytearray(file.read_bytes())
    file.unlink()
    if share is not None:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content[: int(share * len(content))])
    photo = tmp_path / "photo.png"
    picture("RGB", 20, 15, 0).save(photo)
    status, _, err = estimate(photo, tmp_path / "out", "--checkpoint", folder)
    assert "Traceback" not in err
    if status:
        assert status in (1, 2)
        assert err.count("\n") == 1
        assert "--debug" not in err  # that hint is for what nobody foresaw
        assert not list((tmp_path / "out").glob("*"))  # nothing half-written
    else:
        assert np.isfinite(np.load(tmp_path / "out" / "photo_depth.npy")).all()


@pytest.mark.parametrize("text", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"])
def test_a_file_that_is_no_picture(tmp_path, text):
    (tmp_path / "photo.png").write_bytes(text)
    status, _, err = estimate(tmp_path / "photo.png", tmp_path / "out")
    assert status == 2
    assert err.count("\n") == 1
    assert "photo.png" in err


def test_a_name_of_any_script(tmp_path):
    photo = tmp_path / "写真 é ß 🌼.png"
    picture("RGB", 20, 15, 0).save(photo)
    status, _, err = estimate(photo, tmp_path / "出力")
    assert (status, err) == (0, "")
    assert (tmp_path / "出力" / "写真 é ß 🌼_depth.npy").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    picture("RGB", 20, 15, 0).save(tmp_path / "photo.png")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    status, _, err = estimate(tmp_path / "photo.png", locked / "out")
    assert status == 2
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_hundred_megapixels(tmp_path):
    Image.linear_gradient("L").resize((10_000, 10_000)).save(tmp_path / "large.png")
    status, _, err = estimate(tmp_path / "large.png", tmp_path / "out")
    assert (status, err) == (0, "")
    depth = np.load(tmp_path / "out" / "large_depth.npy", mmap_mode="r")
    assert depth.shape == (10_000, 10_000)
