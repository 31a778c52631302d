"""JSON-RPC 2.0 messages followed by raw arrays, for both ends of a pipe.

    Content-Length: 132\r\n
    Arrays-Length: 49152\r\n          (left out where there are no arrays)
    \r\n
    {"jsonrpc": "2.0", ..., "arrays": [{"name": "depth", "dtype": "float32", "shape": [96, 128]}]}
    <the arrays' bytes, one after the other, little-endian, C order>

The framing is that of the Language Server Protocol. Nothing is unpickled or evaluated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# JSON-RPC's own codes, the Language Server Protocol's for a cancelled request, and ours.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
CANCELLED = -32800
BAD_INPUT = -32001
BAD_CHECKPOINT = -32002
OUT_OF_MEMORY = -32003
NOT_INSTALLED = -32004
BUSY = -32005

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1")}
LARGEST_JSON = 2**24
LARGEST_ARRAYS = 2**33
_HEADER = re.compile(rb"Content-Length: (\d{1,10})\r\n(?:Arrays-Length: (\d{1,12})\r\n)?\r\n")
_START = b"Content-Length: "
_WHOLE = _START + b"0\r\nArrays-Length: 0\r\n\r\n"
_LONGEST_HEADER = len(_WHOLE) + 9 + 11


class ProtocolError(Exception):
    """Bytes on the pipe that are not a message; after them no message can be recognised."""


@dataclass
class Message:
    """content: the JSON object; arrays: name -> float32 or uint8 array, read-only."""

    content: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def encode(content: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> list[Any]:
    """A message as byte strings and buffers to write one after the other; big arrays uncopied.

    arrays: float (sent as float32), uint8 or bool (sent as uint8 0 and 1), of any shape. Raises
    TypeError for other arrays and for what JSON does not hold.
    """
    described, buffers = [], []
    for name, value in (arrays or {}).items():
        array = np.asarray(value)
        kind = {"f": "float32", "b": "uint8"}.get(array.dtype.kind, array.dtype.name)
        if kind not in DTYPES:
            raise TypeError(f"The array {name} is {array.dtype}; use float32 or uint8.")
        # reshape: ascontiguousarray makes (1,) of ().
        array = np.ascontiguousarray(array, DTYPES[kind]).reshape(array.shape)
        described.append({"name": name, "dtype": kind, "shape": array.shape})
        if array.size:
            buffers.append(array.reshape(-1).view(np.uint8).data)
    content = {"jsonrpc": "2.0", **content}
    if described:
        content["arrays"] = described
    # ASCII: a file name that is not valid UTF-8 travels as an escaped surrogate.
    body = json.dumps(content, allow_nan=False).encode("ascii")
    header = b"%s%d\r\n" % (_START, len(body))
    if buffers:
        header += b"Arrays-Length: %d\r\n" % sum(len(buffer) for buffer in buffers)
    return [header + b"\r\n" + body, *buffers]


class MessageReader:
    """Bytes as they come, in pieces of any size -> messages.

    `feed` raises ProtocolError at the first byte that cannot belong to a header, not at the end of
    a line that may never come; `close`, where the stream ended within a message.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._sizes: tuple[int, int] | None = None  # of the JSON and the arrays, after a header

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that `data` completes."""
        self._bytes += data
        messages = []
        while self._header_is_read():
            assert self._sizes is not None
            body, end = self._sizes[0], sum(self._sizes)
            if len(self._bytes) < end:
                break
            # bytes, because arrays look into it for as long as their owner keeps them.
            with memoryview(self._bytes) as view:
                text, raw = bytes(view[:body]), bytes(view[body:end])
            del self._bytes[:end]
            self._sizes = None
            messages.append(_decoded(text, raw))
        return messages

    def close(self) -> None:
        """The stream has ended."""
        if self._bytes or self._sizes:
            raise ProtocolError("The pipe was closed in the middle of a message.")

    def _header_is_read(self) -> bool:
        if self._sizes is not None:
            return True
        start = bytes(self._bytes[: _LONGEST_HEADER + 1])
        match = _HEADER.match(start)
        if match is None:
            if not _can_begin(start):
                raise ProtocolError(f"Not a message but {start[:40]!r} came over the pipe.")
            return False
        sizes = int(match[1]), int(match[2] or 0)
        if sizes[0] > LARGEST_JSON or sizes[1] > LARGEST_ARRAYS:
            raise ProtocolError(f"A message of {sum(sizes)} bytes was announced; that is too much.")
        del self._bytes[: match.end()]
        self._sizes = sizes
        return True


def _can_begin(start: bytes) -> bool:
    """Whether more bytes could make a header of these: then some end of a whole one does."""
    if len(start) > _LONGEST_HEADER:
        return False
    return any(_HEADER.fullmatch(start + _WHOLE[i:]) for i in range(len(_WHOLE)))


def _decoded(text: bytes, raw: bytes) -> Message:
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ProtocolError(f"A message is not JSON: it begins with {text[:40]!r}.") from None
    if not isinstance(content, dict):
        raise ProtocolError(f"A message is a JSON {type(content).__name__}, not an object.")
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    described = content.pop("arrays", [])
    for entry in described if isinstance(described, list) else [None]:
        name, dtype, shape = _described(entry)
        stop = start + math.prod(shape) * dtype.itemsize
        if stop > len(raw):
            raise ProtocolError(f"The array {name!r} is longer than the bytes that came with it.")
        try:
            arrays[name] = np.ndarray(shape, dtype, raw, start)
        except ValueError:  # sizes beyond numpy's, beside a 0
            raise ProtocolError(f"The array {name!r} has the shape {shape}.") from None
        start = stop
    if start != len(raw):
        raise ProtocolError(f"{len(raw) - start} bytes of arrays came without a description.")
    return Message(content, arrays)


def _described(entry: Any) -> tuple[str, np.dtype[Any], Any]:
    if isinstance(entry, dict):
        name, kind, shape = (entry.get(word) for word in ("name", "dtype", "shape"))
        dtype = DTYPES.get(kind) if isinstance(kind, str) else None
        if isinstance(name, str) and dtype is not None and _is_shape(shape):
            return name, dtype, shape
    raise ProtocolError(f"An array is described as {str(entry)[:80]}.")


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= 8
        and all(type(size) is int and 0 <= size <= LARGEST_ARRAYS for size in shape)
    )
