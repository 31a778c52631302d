"""The worker's end of the pipe: framing, garbage, closed pipes, stray prints, idling, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.worker.jsonrpc import (
    BAD_CHECKPOINT,
    CANCELLED,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    OUT_OF_MEMORY,
    PARSE_ERROR,
    Message,
    MessageReader,
    ProtocolError,
    encode,
)

ROOT = Path(__file__).parents[2]
PICTURE = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
NANO = {"checkpoint": "nano", "device": "cpu"}
SMALL = {"model": NANO, "seed": 7, "processing_resolution": 64, "num_inference_steps": 2}


class Talk:
    """A worker, and whole messages to and from it."""

    def __init__(self, code: str = "", arguments: tuple[str, ...] = ()) -> None:
        command = [sys.executable, "-m", "marigold_core.worker", *arguments]
        if code:
            command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._reader = MessageReader()
        self._messages: list[Message] = []

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()

    def write(self, data: bytes) -> None:
        self.process.stdin.write(data)

    def ask(self, id, method: str, params=None, arrays=None) -> None:
        content = {"id": id, "method": method, "params": params or {}}
        for piece in encode(content, arrays):
            self.write(piece)

    def hear(self) -> Message:
        while not self._messages:
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            assert data, "the worker closed its pipe"
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)

    def answer(self, id) -> Message:
        """The next answer; progress is skipped."""
        while "id" not in (message := self.hear()).content:
            pass
        assert message.content["id"] == id
        return message

    def error(self, id) -> tuple[int, str]:
        content = self.answer(id).content
        assert "error" in content, content
        message = content["error"]["message"]
        assert message.endswith(".") and "\n" not in message and "Traceback" not in message
        return content["error"]["code"], message


# Framing.

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
some_arrays = st.dictionaries(
    st.text(max_size=5),
    st.builds(
        lambda shape, kind: np.arange(int(np.prod(shape))).reshape(shape).astype(kind),
        shapes,
        st.sampled_from(["float32", "uint8", "float64", "bool", ">f4"]),
    ),
    max_size=3,
)
some_messages = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abc"), json_values), some_arrays), max_size=3
)


@settings(max_examples=60, deadline=None)
@given(some_messages, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_split_of_the_bytes_gives_the_same_messages(sent, sizes):
    stream = b"".join(bytes(p) for content, arrays in sent for p in encode(content, arrays))
    reader, came = MessageReader(), []
    for i in range(len(stream)):
        if not stream:
            break
        piece, stream = stream[: sizes[i % len(sizes)]], stream[sizes[i % len(sizes)] :]
        came += reader.feed(piece)
    reader.close()
    assert [message.content for message in came] == [{"jsonrpc": "2.0", **c} for c, _ in sent]
    for message, (_, arrays) in zip(came, sent, strict=True):
        assert message.arrays.keys() == arrays.keys()
        for name, array in arrays.items():
            got = message.arrays[name]
            assert got.dtype == (np.float32 if array.dtype.kind == "f" else np.uint8)
            assert got.shape == array.shape and np.array_equal(got, array)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(1, 7))
def test_garbage_is_noticed_at_its_first_wrong_byte(garbage, size):
    reader = MessageReader()
    start = b"Content-Length: "
    with pytest.raises(ProtocolError):
        for i in range(0, len(garbage), size):
            reader.feed(garbage[i : i + size])
        reader.close()
    agree = len(os.path.commonprefix([garbage, start]))
    if agree < min(len(garbage), len(start)):
        with pytest.raises(ProtocolError):
            MessageReader().feed(garbage[: agree + 1])


@settings(max_examples=100, deadline=None)
@given(some_messages.filter(bool), st.data())
def test_a_damaged_stream_ends_in_messages_or_an_error(sent, data):
    stream = bytearray(
        b"".join(bytes(p) for content, arrays in sent for p in encode(content, arrays))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    reader = MessageReader()
    try:
        reader.feed(bytes(stream))
        reader.close()
    except ProtocolError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"arrays": 1}',
        b'{"arrays": [1]}',
        b'{"arrays": [{}]}',
        b'{"arrays": [{"name": "a", "dtype": "object", "shape": []}]}',
        b'{"arrays": [{"name": "a", "dtype": [], "shape": []}]}',
        b'{"arrays": [{"name": "a", "dtype": "uint8", "shape": [-1]}]}',
        b'{"arrays": [{"name": "a", "dtype": "uint8", "shape": [true]}]}',
        b'{"arrays": [{"name": "a", "dtype": "uint8", "shape": [1]}]}',
        b'{"arrays": [{"name": "a", "dtype": "uint8", "shape": [0, 8589934592, 8589934592]}]}',
    ],
)
def test_a_body_that_is_no_message(body):
    with pytest.raises(ProtocolError):
        MessageReader().feed(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


def test_sizes_nobody_sends_are_refused_before_they_are_waited_for():
    for header in (b"Content-Length: 9999999999\r\n\r\n", b"Content-Length: " + b"1" * 40):
        with pytest.raises(ProtocolError):
            MessageReader().feed(header)
    with pytest.raises(ProtocolError, match="without a description"):
        MessageReader().feed(b"Content-Length: 2\r\nArrays-Length: 3\r\n\r\n{}abc")
    with pytest.raises(TypeError, match="int64"):
        encode({}, {"a": np.arange(3)})


# The process.


def test_requests_in_turn_and_their_mistakes():
    with Talk() as worker:
        ready = worker.hear().content
        assert ready["method"] == "ready" and ready["params"]["pid"] == worker.process.pid
        worker.ask(1, "nonsense")
        assert worker.error(1)[0] == METHOD_NOT_FOUND
        worker.ask(2, "_load", {"model": NANO})
        assert worker.error(2)[0] == METHOD_NOT_FOUND
        for content in ({"id": 3}, {"id": 3, "method": 7}, {"id": 3, "method": "x", "params": []}):
            worker.write(encode(content)[0])
            assert worker.error(3)[0] == INVALID_REQUEST
        worker.write(encode({"method": "depth"})[0])
        assert worker.error(None)[0] == INVALID_REQUEST
        # The first takes seconds to import torch; meanwhile the second is taken back.
        worker.ask("a", "depth", SMALL, {"image": PICTURE})
        assert worker.hear().content["params"]["stage"] == "start"
        worker.ask("b", "depth", SMALL, {"image": PICTURE})
        worker.ask("c", "cancel", {"id": "b"})
        worker.ask("d", "status")
        assert worker.error("b")[0] == CANCELLED
        assert worker.answer("c").content["result"] == {"cancelled": ["b"]}
        assert worker.answer("d").content["result"]["running"] == "a"
        assert worker.answer("a").arrays["depth"].shape == (40, 56)
        worker.process.stdin.close()
        assert worker.process.wait(10) == 0


@pytest.mark.parametrize("garbage", [b"print('hello')\n", b"Content-Length: 5\r\n\r\nhello", b"\0"])
def test_garbage_is_answered_with_an_error_and_an_end(garbage):
    with Talk() as worker:
        assert worker.hear().content["method"] == "ready"
        worker.write(garbage)
        assert worker.error(None)[0] == PARSE_ERROR
        assert worker.process.wait(10) == 2


def test_a_closed_pipe_ends_the_process_even_within_a_message():
    with Talk() as worker:
        worker.hear()
        worker.process.stdin.close()
        assert worker.process.wait(10) == 0
    with Talk() as worker:
        worker.hear()
        worker.write(encode({"id": 1, "method": "status"})[0][:-3])
        worker.process.stdin.close()
        worker.process.wait(10)


def test_prints_and_inputs_of_libraries_stay_off_the_pipe():
    code = """
import os, subprocess, sys, types
from marigold_core.worker import server as worker
class Session:
    loaded = None
    def call(self, method, params, arrays, report):
        print("a library says hello")
        os.write(1, b"and from C")
        subprocess.run([sys.executable, "-c", "print('a child, too')"], check=True)
        return {"stdin": sys.stdin.read()}, {}
sys.modules["marigold_core.worker.methods"] = types.SimpleNamespace(Session=Session)
worker.main()
"""
    with Talk(code) as worker:
        worker.hear()
        worker.ask(1, "load")
        assert worker.answer(1).content["result"] == {"stdin": ""}
        worker.ask(2, "status")
        assert worker.answer(2).content["result"]["loaded"] is None
        worker.process.stdin.close()
        said = worker.process.stderr.read()
        assert b"a library says hello" in said and b"from C" in said and b"too" in said


def test_without_a_package_it_names_the_package():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from marigold_core.worker.server import main; main()"
    )
    with Talk(code) as worker:
        worker.hear()
        worker.ask(1, "load", {"model": NANO})
        assert "no torch" in worker.error(1)[1]


@pytest.fixture(scope="module")
def worker():
    """With torch imported, which takes seconds."""
    with Talk() as worker:
        assert worker.hear().content["method"] == "ready"
        yield worker


def test_cancelled_within_a_step(worker):
    steps = {"num_inference_steps": 1000, "ensemble_size": 20, "batch_size": 1}
    worker.ask(1, "depth", SMALL | steps, {"image": PICTURE})
    while worker.hear().content["params"].get("stage") != "denoise":
        pass
    worker.ask(2, "cancel", {"id": 1})
    after = 0
    while "id" not in (content := worker.hear().content):
        after += 1
    assert after < 300  # of 20,020: some reports were on their way when the cancel was sent
    assert content["id"] == 2 and content["result"] == {"cancelled": [1]}
    late = worker.hear().content
    assert late.get("id") == 1 or worker.error(1) == (CANCELLED, "Cancelled.")


def test_guided_by_known_points_in_metres(worker):
    known = np.array([[8, 6, 2.0], [48, 6, 4.0], [30, 20, 3.0], [20, 36, 2.5]], np.float32)
    settings = SMALL | {"size": [40, 56]}
    worker.ask(70, "guided", settings, {"image": PICTURE, "known": known})
    answer = worker.answer(70)
    result, depth = answer.content["result"], answer.arrays["depth"]
    assert depth.shape == (40, 56)
    assert not (result["scale_invariant"] or result["shift_invariant"])
    assert 0.5 < np.median(depth) < 10

    def points(last: tuple[float, ...]) -> dict[str, np.ndarray]:
        return {"image": PICTURE, "known": np.float32([*known[:3], last])}

    for wrong, words in (
        ({"image": PICTURE}, "no known points"),
        ({"image": PICTURE, "known": known[:, :2]}, "no known points"),
        (points((560, 60, 20)), "Known point 4 at x = 560, y = 60 lies outside the picture of 56x40"
         " pixels."),
        (points((8, 6, -2)), "Known point 4 is at -2, behind the camera; a distance is above 0."),
        ({"image": PICTURE, "known": known * [1, 1, 0] + [0, 0, 2]}, "All known points have the"
         " distance 2, and the depth map has them at different depths: give points at two distances"
         " or more, or one alone for the scale."),
        ({"image": PICTURE, "known": known[:1]}, "Guided sampling takes two or more known points at"
         " different distances, and there are 1; leave the guidance out."),
        ({"image": PICTURE, "known": known[:0]}, "There is no known depth, length or camera height"
         " to fit to."),
    ):  # fmt: skip
        worker.ask(71, "guided", settings, wrong)
        message = worker.answer(71).content["error"]["message"]
        assert message == words if words.endswith(".") else words in message
    worker.ask(72, "guided", settings | {"size": "large"}, {"image": PICTURE, "known": known})
    assert "size" in worker.answer(72).content["error"]["message"]


def test_a_panorama_with_its_mask_and_one_of_another_shape(worker):
    picture = np.random.default_rng(1).random((32, 64, 3), dtype=np.float32)
    mask = np.ones((32, 64), dtype=np.uint8)
    mask[:8] = 0
    worker.ask(1, "panorama", SMALL, {"image": picture, "mask": mask})
    made = worker.answer(1).arrays
    assert made["depth"].shape == made["uncertainty"].shape == (32, 64)
    assert made["depth"].min() == 0 and made["depth"].max() == 1
    assert (made["mask"] == mask).all()
    worker.ask(2, "panorama", SMALL, {"image": PICTURE})
    assert "twice as wide" in worker.answer(2).content["error"]["message"]
    worker.ask(3, "panorama", SMALL | {"estimate": "sum"}, {"image": picture})
    assert "estimate" in worker.answer(3).content["error"]["message"]


def test_a_bad_checkpoint(worker, tmp_path):
    (tmp_path / "ÿ").mkdir()
    (tmp_path / "ÿ" / "model_index.json").write_text("{")
    worker.ask(1, "load", {"model": {"checkpoint": str(tmp_path / "ÿ")}})
    assert worker.error(1)[0] == BAD_CHECKPOINT


def test_idle_networks_are_freed_and_come_back(worker):
    worker.ask(2, "load", {"model": NANO, "idle_seconds": 0.2})
    assert worker.answer(2).content["result"]["dtype"] == "float32"
    assert worker.hear().content["method"] == "unloaded"
    worker.ask(3, "status")
    assert worker.answer(3).content["result"]["loaded"] is None
    worker.ask(4, "depth", SMALL, {"image": PICTURE})
    assert worker.answer(4).arrays["depth"].shape == (40, 56)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory with prlimit")
def test_out_of_memory_is_an_error_and_the_next_request_works(worker):
    import resource

    worker.ask(1, "load", {"model": NANO})
    worker.answer(1)
    pid = worker.process.pid
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    before = resource.prlimit(pid, resource.RLIMIT_AS, (used + 400 * 2**20, -1))
    try:
        huge = SMALL | {"processing_resolution": 8000, "num_inference_steps": 1}
        worker.ask(2, "depth", huge, {"image": PICTURE})
        code, message = worker.error(2)
        assert code == OUT_OF_MEMORY, message
        worker.ask(3, "depth", SMALL, {"image": PICTURE})
        assert worker.answer(3).arrays["depth"].shape == (40, 56)
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def test_the_framing_is_the_language_servers():
    (data,) = encode({"id": 1, "method": "status"})
    header, body = data.split(b"\r\n\r\n")
    assert header == b"Content-Length: %d" % len(body)
    assert json.loads(body) == {"jsonrpc": "2.0", "id": 1, "method": "status"}


def test_members_that_were_left_out_are_reported(monkeypatch):
    from marigold_core import Marigold
    from marigold_core.worker.methods import Session

    def with_a_constant_member(self, image, options, **_):
        members = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))
        members[1:] = members[0]
        members[2] = 0.5
        return members

    monkeypatch.setattr(Marigold, "predict", with_a_constant_member)
    params = {"model": NANO, "ensemble_size": 3}
    result, _ = Session().call("depth", params, {"image": PICTURE}, lambda *_: None)
    assert len(result["warnings"]) == 1
    assert "3 of 3: are constant" in result["warnings"][0]
