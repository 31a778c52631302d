"""The pictures of a folder: one is estimated while the next is read and the last is written."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

import pytest

from marigold_core.cli.batch import BatchItem, overlapped

WAIT = 10  # seconds, for a thread that should be there


def items(count):
    return [BatchItem(Path(f"{n}.png"), Path(str(n))) for n in range(count)]


def numbered(item):
    return int(item.source.stem)


def test_the_next_is_read_and_the_last_is_written_while_one_is_estimated():
    read = [threading.Event() for _ in range(4)]
    written = [threading.Event() for _ in range(4)]
    estimating = [threading.Event() for _ in range(4)]

    def reading(item):
        read[numbered(item)].set()
        return numbered(item)

    def estimate(item, picture):
        assert picture == numbered(item)
        estimating[picture].set()
        if picture < 3:
            assert read[picture + 1].wait(WAIT), "the next picture waits for this one"

        def finish():
            if picture < 3:
                assert estimating[picture + 1].wait(WAIT), "the next picture waits for this file"
            written[picture].set()

        return finish

    for item, work in overlapped(items(4), reading, estimate):
        work.result(timeout=WAIT)
        assert written[numbered(item)].is_set()


def test_outputs_are_written_and_reported_in_order_and_an_error_ends_its_own_picture_alone():
    done, ends = [], []

    def reading(item):
        if numbered(item) == 1:
            raise OSError("unreadable")
        return numbered(item)

    def estimate(item, picture):
        if picture == 3:
            raise ValueError("too large")

        def finish():
            time.sleep(0.01 * (7 - picture))
            if picture == 5:
                raise OSError("disk full")
            done.append(picture)

        return finish

    for item, work in overlapped(items(7), reading, estimate):
        ends.append((numbered(item), str(work.exception())))
        assert done == [n for n in (0, 2, 4, 6) if n <= numbered(item)]
    assert ends == [
        *((0, "None"), (1, "unreadable"), (2, "None"), (3, "too large"), (4, "None")),
        *((5, "disk full"), (6, "None")),
    ]


class Picture:
    """Something to count."""


@pytest.mark.parametrize("fast", ["read", "estimate"])
def test_three_pictures_are_held_however_many_there_are(fast):
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    most = 0

    def count():
        nonlocal most
        most = max(most, len(alive))

    def reading(_):
        time.sleep(0 if fast == "read" else 0.005)
        picture = Picture()
        alive.add(picture)
        count()
        return picture

    def estimate(_, picture):
        time.sleep(0 if fast == "estimate" else 0.005)
        count()

        def finish():
            time.sleep(0.01)
            assert picture in alive
            count()

        return finish

    for _, work in overlapped(items(12), reading, estimate):
        work.result()
    assert most <= 3


def test_an_interrupt_completes_the_file_that_is_being_written_and_reads_no_further():
    read, started, done = [], threading.Event(), []

    def reading(item):
        read.append(numbered(item))
        return numbered(item)

    def estimate(_, picture):
        if picture == 2:
            assert started.wait(WAIT)
            raise KeyboardInterrupt

        def finish():
            if picture == 1:
                started.set()
                time.sleep(0.1)
            done.append(picture)

        return finish

    with pytest.raises(KeyboardInterrupt):
        for _, work in overlapped(items(9), reading, estimate):
            work.result()
    assert done == [0, 1]
    assert read in ([0, 1, 2], [0, 1, 2, 3])
