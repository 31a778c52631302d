"""Worker processes that render samples, and the one process that writes the manifest."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from .sample_folder import append_manifest

# A scene that failed so often in a row, and never succeeded, is not tried again in this run.
GIVE_UP = 3
LOG_TAIL = 300


class Worker:
    """A child process with one sample in work, and a thread that hands its answers over."""

    def __init__(self, number: int, command: Sequence[str], folder: Path, answers: Any) -> None:
        self.number, self.index, self.since = number, -1, time.monotonic()
        self.log = folder / "logs" / f"worker-{number}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        threading.Thread(target=self.listen, args=(answers,), daemon=True).start()

    def listen(self, answers: queue.Queue[tuple[Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout
        for text in self.process.stdout:
            # Before the worker has the pipe for itself, Blender greets on it.
            if text.startswith("{"):
                answers.put((self, json.loads(text)))
        answers.put((self, None))

    def start(self, index: int) -> None:
        self.index, self.since = index, time.monotonic()
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{index}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: `listen` reports that

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        text = " ".join(self.log.read_text(errors="replace").split())
        return f"the process ended with {self.process.wait()}; {self.log} ends: {text[-LOG_TAIL:]}"


class Progress:
    """Samples done and time left: one line that moves in a terminal, else a line a sample, which
    is what a program that started us reads."""

    def __init__(self, done: int, total: int, out: TextIO | None = None) -> None:
        self.done, self.total, self.out = done, total, out or sys.stdout
        self.rendered, self.started = 0, time.monotonic()

    def step(self) -> None:
        self.done, self.rendered = self.done + 1, self.rendered + 1
        each = (time.monotonic() - self.started) / self.rendered
        left = clock(each * (self.total - self.done))
        text = f"sample {self.done} of {self.total}, {each:.1f} s each, {left} left"
        if self.out.isatty():
            filled = 30 * self.done // self.total
            end = "\n" if self.done == self.total else ""
            text = f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}   {end}"
        else:
            text += "\n"
        self.out.write(text)
        self.out.flush()


def clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def render_all(
    folder: Path,
    indices: Iterable[int],
    scene_of: Callable[[int], str],
    command: Sequence[str],
    processes: int,
    limit: float,
    progress: Progress,
) -> dict[str, list[str]]:
    """Render the samples; the manifest gets a line when a sample's files are complete.

    A process that dies, or takes longer than `limit` seconds over a sample, is replaced. Returns
    what went wrong, by scene. Raises OSError where the disk is full or read-only.
    """
    todo, answers = list(reversed(list(indices))), queue.Queue[Any]()
    errors: dict[str, list[str]] = {}
    succeeded: Counter[str] = Counter()

    def next_index() -> int | None:
        while todo:
            index = todo.pop()
            scene = scene_of(index)
            if not scene or succeeded[scene] or len(errors.get(scene, ())) < GIVE_UP:
                return index
        return None

    def failed(index: int, why: str) -> None:
        errors.setdefault(scene_of(index), []).append(f"sample {index}: {why}")

    workers: dict[int, Worker] = {}
    worker: Worker

    def employ(worker: Worker) -> None:
        index = next_index()
        if index is None:
            workers.pop(worker.number, None)
            assert worker.process.stdin
            worker.process.stdin.close()
        else:
            worker.start(index)

    try:
        for number in range(min(processes, len(todo))):
            workers[number] = Worker(number, command, folder, answers)
            employ(workers[number])
        while workers:
            try:
                worker, answer = answers.get(timeout=1.0)
            except queue.Empty:
                for slow in list(workers.values()):
                    if time.monotonic() - slow.since > limit:
                        slow.process.kill()  # its thread then reports the end
                continue
            if workers.get(worker.number) is not worker:
                continue  # the end of one that had nothing more to do
            if answer is None:
                failed(worker.index, worker.last_words())
                if not todo:
                    workers.pop(worker.number)
                    continue
                worker = workers[worker.number] = Worker(worker.number, command, folder, answers)
            elif "line" in answer:
                append_manifest(folder, answer["line"])
                succeeded[scene_of(worker.index)] += 1
                progress.step()
            elif "disk" in answer:
                raise OSError(answer["disk"], os.strerror(answer["disk"]))
            else:
                failed(answer["failed"], answer["why"])
            employ(worker)
    finally:
        for worker in workers.values():
            worker.stop()
    return errors
