"""Wrong values and too many requests are refused in a message; the worker continues to serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marigold_core.errors import MarigoldError
from marigold_core.worker.jsonrpc import BAD_INPUT, BUSY, Message, MessageReader, encode
from marigold_core.worker.methods import Session
from marigold_core.worker.server import MOST_WAITING

ROOT = Path(__file__).parents[2]
NANO = {"checkpoint": "nano", "device": "cpu"}
WRONG: tuple[Any, ...] = (5, 1.5, True, [], [1], {}, {"a": 1}, "", "\0")


def nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("load", {}, "model"),
        *(
            ("load", {"model": NANO}, f"model.{word}")
            for word in ("checkpoint", "device", "dtype", "variant", "revision", "vae", "base",
                         "cache_dir", "allow_download")
        ),
        *(("depth", {"model": NANO}, name) for name in ("image", "mask", "seed", "reduction")),
        *(("align", {}, name) for name in ("scale_invariant", "shift_invariant")),
        *(("download", {"checkpoint": "nano"}, name)
          for name in ("checkpoint", "variant", "cache_dir")),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(user_cache, method, params, field, wrong):
    if field.endswith(("_invariant", "allow_download")) and wrong is True:
        pytest.skip("that is its type")
    if (field, wrong) == ("seed", 5):
        pytest.skip("that is a seed")
    top, _, word = field.partition(".")
    params = {**params, top: {**params[top], word: wrong} if word else wrong}
    frames = {"frames": np.zeros((2, 4, 4), np.float32)} if method == "align" else {}
    arrays = frames if method != "depth" or top == "image" else {"image": np.zeros((8, 8, 3))}
    with pytest.raises(MarigoldError) as caught:
        Session().call(method, params, arrays, nothing)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("frames", [np.zeros(4), np.zeros((0, 4, 4)), np.zeros((2, 0, 4))])
def test_frames_of_another_shape_are_refused(frames):
    with pytest.raises(MarigoldError):
        Session().call("align", {}, {"frames": frames.astype(np.float32)}, nothing)


class Talk:
    """A worker, and whole messages to and from it."""

    def __init__(self, code: str = "from marigold_core.worker.server import main; main()") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._reader = MessageReader()
        self._messages: list[Message] = []

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def send(self, **content: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(map(bytes, encode(content))))

    def answer(self, id: int) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            for message in self._messages:
                if message.content.get("id") == id:
                    self._messages.remove(message)
                    return message.content
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            assert data, "the worker has ended"
            self._messages += self._reader.feed(data)


@pytest.mark.parametrize("seconds", [1e300, float("1e9"), -1, "5", True, [1]])
def test_an_idle_time_without_meaning_is_refused_and_the_worker_lives(seconds):
    with Talk() as worker:
        worker.send(id=1, method="unload", params={"idle_seconds": seconds})
        error = worker.answer(1)["error"]
        assert error["code"] == BAD_INPUT
        assert "idle_seconds" in error["message"]
        worker.send(id=2, method="unload", params={"idle_seconds": 0.05})
        assert "result" in worker.answer(2)
        time.sleep(0.2)
        worker.send(id=3, method="status")
        assert "result" in worker.answer(3)


BUSY_WORKER = """
import time
from marigold_core.worker import methods, server
methods.Session.unload = lambda self, arrays, report: (time.sleep(1.5), ({}, {}))[1]
server.main()
"""


def test_the_queue_is_bounded_and_can_still_be_cancelled():
    with Talk(BUSY_WORKER) as worker:
        worker.send(id=0, method="unload", params={})
        time.sleep(0.2)
        for id in range(1, MOST_WAITING + 3):
            worker.send(id=id, method="unload", params={})
        error = worker.answer(MOST_WAITING + 2)["error"]
        assert error["code"] == BUSY
        assert str(MOST_WAITING) in error["message"]
        worker.send(id=9999, method="cancel", params={})
        assert len(worker.answer(9999)["result"]["cancelled"]) >= MOST_WAITING
        worker.send(id=10_000, method="unload", params={})
        assert "result" in worker.answer(10_000)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_ends_it_even_within_a_request():
    with Talk(BUSY_WORKER) as worker:
        worker.send(id=0, method="unload", params={})
        worker.send(id=1, method="status")
        worker.answer(1)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(10) == 128 + signal.SIGTERM
