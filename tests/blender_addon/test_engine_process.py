"""The client with real worker processes: results, cancelling, crashes, restarts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from marigold_core import Marigold, align_sequence
from marigold_core.worker.methods import Session

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "marigold_core" / "assets" / "example.jpg"
MODEL = {"checkpoint": "nano", "device": "cpu"}
SMALL = {"model": MODEL, "seed": 7, "processing_resolution": 64, "num_inference_steps": 2}
PICTURE = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
LONG = SMALL | {"num_inference_steps": 1000, "processing_resolution": 256, "batch_size": 1}

posix = pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")


@pytest.fixture(scope="session")
def client(addon_module):
    return addon_module("backend.engine_process")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(scope="module")
def warm(client):
    """One process for the tests that do not hurt it: starting one takes seconds."""
    engine = client.EngineProcess(sys.executable)
    yield engine
    engine.stop()


@pytest.fixture
def engine(client):
    engine = client.EngineProcess(sys.executable)
    yield engine
    engine.stop()


def reach(engine, job, stage: str, timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while job.stage != stage:
        assert not job.finished, (job.state, job.error, engine.log)
        assert time.monotonic() < end, f"still in {job.stage!r}"
        if not engine.poll():
            time.sleep(0.002)


def done(engine, job):
    job.wait(120)
    assert job.state == "done", (job.state, job.error, engine.log)
    return job


def is_alive(pid: int) -> bool:
    """A zombie has ended; only its parent has not asked yet."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for_end(pid: int, seconds: float) -> float:
    start = time.monotonic()
    while is_alive(pid):
        assert time.monotonic() - start < seconds, "still alive"
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def marigold():
    return Marigold.from_pretrained("nano", device="cpu")


def test_a_run_is_the_engines_own_to_the_bit(warm, marigold, tmp_path):
    folder = tmp_path / "Ünïcode 写真 ひ"
    folder.mkdir()
    picture = shutil.copy(EXAMPLE, folder / "é 图.jpg")
    mask = np.ones((480, 640), bool)
    mask[:200, :300] = False
    params = SMALL | {"ensemble_size": 3, "image": os.fspath(picture)}
    job = done(warm, warm.submit("depth", params, {"mask": mask}))
    options = {"processing_resolution": 64, "num_inference_steps": 2, "ensemble_size": 3}
    wanted = marigold(picture, mask=mask, generator=torch.Generator().manual_seed(7), **options)
    assert np.array_equal(job.arrays["depth"], wanted.depth)
    assert np.array_equal(job.arrays["uncertainty"], wanted.uncertainty)
    assert np.array_equal(job.arrays["mask"] != 0, mask)
    assert job.arrays["depth"].dtype == np.float32
    assert (job.result["width"], job.result["height"]) == (640, 480)
    assert (job.step, job.total, job.fraction) == (9, 9, 1.0)


@pytest.mark.parametrize(("members", "last"), [(1, "decode"), (2, "merge")])
def test_a_run_reports_its_stages_up_to_the_merge(warm, members, last):
    job = warm.submit("depth", SMALL | {"ensemble_size": members}, {"image": PICTURE})
    stages = []
    job._progress = lambda stage, step, total: stages.append((stage, step, total))
    done(warm, job)
    names = list(dict.fromkeys(stage for stage, _, _ in stages))
    assert names[-2 - (members > 1) :] == ["denoise", "decode", "merge"][: 2 + (members > 1)]
    assert stages[-1] == (last, 3 * members, 3 * members)
    assert "encode" in names


def test_frames_are_aligned_as_the_engine_does(warm):
    frames = np.random.default_rng(2).random((3, 20, 24), dtype=np.float32)
    aligned = done(warm, warm.submit("align", arrays={"frames": frames}))
    assert np.array_equal(aligned.arrays["frames"], align_sequence(frames.copy()))


def test_warnings_of_the_engine_come_along(warm):
    frames = np.tile(np.random.default_rng(1).random((8, 8), dtype=np.float32), (3, 1, 1))
    frames[1] = 0.5
    job = done(warm, warm.submit("align", arrays={"frames": frames}))
    assert job.warnings == ["Frames 2 of 3: are constant."]


@pytest.mark.parametrize(
    ("params", "kind", "says"),
    [
        ({"image": "missing.jpg"}, "input", "no file missing.jpg"),
        ({"model": {"checkpoint": "nowhere/to be found"}}, "checkpoint", "nowhere/to be found"),
        ({"model": {"checkpoint": "prs-eth/marigold-depth-v1-1"}}, "checkpoint", "offline"),
        ({"model": {"checkpoint": "nano", "device": "cuda:99"}}, "input", "cuda"),
        ({"model": {"checkpoint": "nano", "device": "toaster"}}, "input", "toaster"),
        ({"model": {"checkpoint": "nano", "colour": 1}}, "input", "colour"),
        ({"num_inference_steps": 0}, "input", "num_inference_steps is 0"),
        ({"generator": 1}, "input", "generator"),
        ({"seed": -1}, "input", "seed is -1"),
        ({"idle_seconds": "long"}, "input", "idle_seconds"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_the_worker_continues(warm, params, kind, says):
    if "cuda:99" in str(params) and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arrays = {} if "image" in params else {"image": PICTURE}
    job = warm.submit("depth", SMALL | params, arrays).wait(60)
    assert (job.state, job.error_kind) == ("failed", kind), job.error
    assert says in job.error and "\n" not in job.error and "Traceback" not in job.error
    assert warm.submit("nonsense").wait(10).error == "The engine has no method 'nonsense'."
    assert warm.submit("status").wait(10).state == "done"


def test_cancel_returns_at_once_and_the_worker_is_soon_free(warm):
    job = warm.submit("depth", LONG | {"ensemble_size": 50}, {"image": PICTURE})
    behind = warm.submit("depth", LONG, {"image": PICTURE})
    reach(warm, job, "denoise")
    assert job.state == "running" and behind.state == "queued"
    start = time.monotonic()
    warm.cancel()
    assert time.monotonic() - start < 0.1
    assert (job.state, behind.state) == ("cancelled", "cancelled") and not warm.jobs
    pid = warm.pid
    done(warm, warm.submit("depth", SMALL, {"image": PICTURE}))
    assert warm.pid == pid, "the process was not kept"
    assert time.monotonic() - start < 10, "50,000 steps were not cut short"


def test_status_is_answered_while_a_step_runs(warm):
    job = warm.submit("depth", LONG | {"ensemble_size": 50}, {"image": PICTURE})
    reach(warm, job, "denoise")
    assert job.fraction < 0.5 and warm.state == "busy"
    status = done(warm, warm.submit("status")).result
    assert status["running"] == job.id and status["loaded"]["checkpoint"] == "nano"
    warm.cancel(job)
    done(warm, warm.submit("unload"))
    assert done(warm, warm.submit("status")).result["loaded"] is None


@posix
def test_a_worker_that_ignores_a_cancel_is_ended(client):
    engine = client.EngineProcess(sys.executable, cancel_seconds=0.3)
    try:
        job = engine.submit("depth", LONG, {"image": PICTURE})
        reach(engine, job, "start")
        stuck = engine.pid
        os.kill(stuck, signal.SIGSTOP)
        behind = engine.submit("status")
        engine.cancel(job)
        behind.wait(30)
        assert job.state == "cancelled" and behind.state == "done", behind.error
        assert engine.pid != stuck
        wait_for_end(stuck, 5)
    finally:
        engine.stop()


def kill_at(engine, stage: str) -> None:
    much = LONG | {"ensemble_size": 50}
    params = much if stage == "denoise" else SMALL | {"ensemble_size": 30, "batch_size": 1}
    job = engine.submit("depth", params, {"image": PICTURE})
    behind = engine.submit("depth", SMALL, {"image": PICTURE})
    reach(engine, job, stage)
    os.kill(engine.pid, signal.SIGKILL)
    job.wait(10)
    assert (job.state, job.error_kind) == ("failed", "crash"), stage
    assert "killed" in job.error and "memory" in job.error and "\n" not in job.error
    assert behind.state == "failed" and engine.state == "stopped"


@posix
def test_killed_in_a_step_back_again_and_stopped_in_a_step(engine):
    kill_at(engine, "start")
    kill_at(engine, "denoise")
    job = engine.submit("depth", LONG | {"ensemble_size": 50}, {"image": PICTURE})
    reach(engine, job, "denoise")
    pid = engine.pid
    start = time.monotonic()
    engine.stop()
    assert time.monotonic() - start < 1
    assert job.state == "cancelled" and engine.state == "stopped" and not is_alive(pid)


@posix
@pytest.mark.slow
def test_killed_at_each_stage_and_back_again(engine):
    for stage in ("load", "encode", "denoise", "decode"):
        kill_at(engine, stage)
    done(engine, engine.submit("depth", SMALL, {"image": PICTURE}))
    os.kill(engine.pid, signal.SIGKILL)  # while idle: the next request finds a new one
    while engine.state != "stopped":
        engine.poll()
    assert done(engine, engine.submit("status")).result["loaded"] is None


def test_a_python_that_is_none(client, tmp_path):
    engine = client.EngineProcess(tmp_path / "no python")
    job = engine.submit("status")
    assert (job.state, job.error_kind) == ("failed", "python")
    assert "cannot be started" in job.error and engine.state == "stopped"


@posix
def test_a_python_that_ends_at_once_or_prints(client, tmp_path):
    wrong = tmp_path / "python"
    wrong.write_text("#!/bin/sh\necho 'libtorch.so: not found' >&2\nexit 3\n")
    wrong.chmod(0o755)
    engine = client.EngineProcess(wrong)
    job = engine.submit("status").wait(10)
    assert job.error_kind == "python" and "libtorch.so: not found" in job.error
    wrong.write_text("#!/bin/sh\necho Welcome to my Python\nsleep 60\n")
    job = engine.submit("status").wait(10)
    assert (job.state, job.error_kind) == ("failed", "crash") and engine.state == "stopped"
    assert any("Welcome" in line for line in engine.log)


def test_only_the_engine_is_on_the_path(client, tmp_path, monkeypatch):
    # Beside the engine lie other add-ons' wheels, built for Blender's Python.
    engine_folder = tmp_path / "sité" / "marigold_core"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "marigold_core", engine_folder, ignore=ignored)
    (engine_folder.parent / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.setenv("PYTHONPATH", str(engine_folder.parent))
    monkeypatch.setenv("PYTHONHOME", "nowhere")
    engine = client.EngineProcess(sys.executable, engine_folder=engine_folder)
    done(engine, engine.submit("load", {"model": MODEL}))
    engine.stop()
    assert not list(engine_folder.rglob("*.pyc")), "something was written beside the engine"


@posix
def test_the_worker_does_not_outlive_its_parent_even_in_a_step(tmp_path):
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
        import importlib, sys, time, types
        import numpy as np
        sys.path.insert(0, {str(ROOT)!r})
        package = types.ModuleType("addon")
        package.__path__ = [{str(ROOT / "blender_addon")!r}]
        sys.modules["addon"] = package
        engine = importlib.import_module("addon.backend.engine_process")
        engine = engine.EngineProcess(sys.executable)
        params = {LONG | {"ensemble_size": 50}!r}
        job = engine.submit("depth", params, {{"image": np.ones((40, 56, 3), np.float32)}})
        while job.stage != "denoise":
            engine.poll()
            time.sleep(0.01)
        print(engine.pid, flush=True)
        time.sleep(600)
        """)
    )
    with subprocess.Popen([sys.executable, parent], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    wait_for_end(pid, 5)


def memory_after(engine, runs: int) -> int:
    for _ in range(runs):
        done(engine, engine.submit("depth", SMALL | {"ensemble_size": 2}, {"image": PICTURE}))
    return int(Path(f"/proc/{engine.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@linux
def test_memory_is_flat(warm):
    start = memory_after(warm, 5)
    assert memory_after(warm, 15) - start < 8 * 2**20


@linux
@pytest.mark.slow
def test_memory_is_flat_over_200_requests(warm):
    start = memory_after(warm, 10)
    assert memory_after(warm, 200) - start < 16 * 2**20


def test_the_documented_methods_are_there():
    from marigold_core.worker.server import METHODS

    assert all(callable(getattr(Session, name)) for name in METHODS)
