"""OpenEXR files from strangers: read, or refused with one message, in bounded time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blender_addon.mesh.exr_file import ExrProblem, exr_bytes, exr_channels, read_exr_channel

PICTURE = np.arange(35 * 4, dtype=np.float32).reshape(35, 4)


def attribute(name: bytes, kind: bytes, value: bytes, size: int | None = None) -> bytes:
    length = len(value) if size is None else size
    return name + b"\0" + kind + b"\0" + struct.pack("<i", length) + value


def header(width: int, height: int, compression: int, names: tuple[bytes, ...] = (b"Z",)) -> bytes:
    channels = b"".join(name + b"\0" + struct.pack("<iB3xii", 2, 0, 1, 1) for name in names)
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    return (
        struct.pack("<II", 20000630, 2)
        + attribute(b"channels", b"chlist", channels + b"\0")
        + attribute(b"compression", b"compression", bytes([compression]))
        + attribute(b"dataWindow", b"box2i", window)
        + b"\0"
    )


def packed(raw: bytes) -> bytes:
    """The inverse of the reader's last steps."""
    values = np.frombuffer(raw, np.uint8)
    halves = np.concatenate([values[::2], values[1::2]])
    steps = halves.copy()
    steps[1:] = halves[1:] - halves[:-1] + np.uint8(128)
    return zlib.compress(steps.tobytes())


def zip_exr(values: np.ndarray) -> bytes:
    height, width = values.shape
    head, chunks = header(width, height, 3), []
    for y in range(0, height, 16):
        data = packed(values[y : y + 16].astype("<f4").tobytes())
        chunks.append(struct.pack("<ii", y, len(data)) + data)
    start = len(head) + 8 * len(chunks)
    offsets = start + np.cumsum([0, *map(len, chunks[:-1])])
    return head + offsets.astype("<u8").tobytes() + b"".join(chunks)


def refused(data: bytes, path) -> str:
    path.write_bytes(data)
    exr_channels(path)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(ExrProblem) as caught:
        read_exr_channel(path, "Z")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - started < 2 and peak < 20_000_000 + 4 * len(data)
    return str(caught.value)


@pytest.mark.parametrize("size", [-8, -1, 2**31 - 1])
def test_an_attribute_of_an_impossible_size(tmp_path, size):
    data = struct.pack("<II", 20000630, 2) + attribute(b"a", b"b", b"\0" * 40, size)
    assert "is broken" in refused(data, tmp_path / "a.exr")


def test_a_chunk_that_unpacks_to_gigabytes(tmp_path):
    bomb = zlib.compress(bytes(200_000_000))
    head = header(4, 16, 3)
    data = head + struct.pack("<Q", len(head) + 8) + struct.pack("<ii", 0, len(bomb)) + bomb
    assert "wrong length" in refused(data, tmp_path / "a.exr")


@pytest.mark.parametrize("offset", [0, 2**31, 2**63, 2**64 - 1])
def test_a_chunk_outside_the_file(tmp_path, offset):
    head = header(4, 1, 0)
    assert "is broken" in refused(head + struct.pack("<Q", offset) + bytes(40), tmp_path / "a.exr")


@pytest.mark.parametrize(
    ("width", "height"), [(2**30, 2**30), (1, 2**31 - 1), (20_000, 10_000), (30_000, 30_000)]
)
def test_a_small_file_with_a_large_picture(tmp_path, width, height):
    text = refused(header(width, height, 3) + bytes(2000), tmp_path / "a.exr")
    assert "too short" in text or "too large" in text


def test_two_channels_of_one_name_and_none(tmp_path):
    assert "broken" in refused(header(4, 1, 0, (b"Z", b"Z")) + bytes(99), tmp_path / "a.exr")
    assert "broken" in refused(header(4, 1, 0, ()) + bytes(99), tmp_path / "a.exr")
    assert "not in the file" in refused(header(4, 1, 0, (b"Y",)) + bytes(99), tmp_path / "a.exr")


@pytest.mark.parametrize("method", [-1, 4, 255])
def test_an_unknown_compression(tmp_path, method):
    assert "compressed" in refused(header(4, 1, method % 256) + bytes(99), tmp_path / "a.exr")


def test_lines_that_are_missing_are_not_numbers(tmp_path):
    data = bytearray(zip_exr(PICTURE))
    table = len(header(4, 35, 3))
    data[table + 8 : table + 16] = data[table : table + 8]  # the second chunk is the first again
    (tmp_path / "a.exr").write_bytes(data)
    values = read_exr_channel(tmp_path / "a.exr", "Z")
    assert np.isnan(values[16:32]).all() and np.array_equal(values[:16], PICTURE[:16])


def test_what_is_written_is_read(tmp_path):
    for data, name in ((exr_bytes(PICTURE), "Y"), (zip_exr(PICTURE), "Z")):
        (tmp_path / "a.exr").write_bytes(data)
        assert exr_channels(tmp_path / "a.exr") == [name]
        assert np.array_equal(read_exr_channel(tmp_path / "a.exr", name), PICTURE)


def test_no_file_an_empty_one_and_another(tmp_path):
    for data in (b"", b"\x76", b"no picture at all"):
        assert refused(data, tmp_path / "a.exr")
    with pytest.raises(ExrProblem):
        read_exr_channel(tmp_path / "missing.exr", "Z")


mutations = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)


@settings(max_examples=400, deadline=2000)
@given(st.booleans(), mutations, st.integers(0, 2000))
def test_damaged_files_are_read_or_refused(tmp_path_factory, zipped, changes, cut):
    data = bytearray(zip_exr(PICTURE) if zipped else exr_bytes(PICTURE))
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.exr"
    path.write_bytes(data if cut > len(data) else data[:cut])
    for channel in exr_channels(path) or ["Z"]:
        try:
            values = read_exr_channel(path, channel)
        except ExrProblem as problem:
            assert "\n" not in str(problem)
        else:
            assert values.dtype == np.float32 and values.ndim == 2
