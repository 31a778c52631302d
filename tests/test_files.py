"""Files appear whole or not at all, reach the disk before their name does, and are regular."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path, copy_file, open_regular

ROOT = Path(__file__).parents[1]
KERNEL_SHUTDOWN = 0x8004587D  # XFS_IOC_GOINGDOWN, which ext4 understands too
WITHOUT_FLUSH = 2


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def program(text: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]


def start_writing(target: Path, stops: bool = True) -> subprocess.Popen[str]:
    """A process that is in the middle of writing `target`."""
    code = """
        import sys, time
        from marigold_core.files import atomic_path, exit_on_sigterm
        exit_on_sigterm()
        with atomic_path(sys.argv[1]) as temporary:
            temporary.write_bytes(b"half")
            print("writing", flush=True)
            time.sleep(60)
    """
    writer = subprocess.Popen(program(code, target), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_a_written_file_is_there_and_nothing_else(tmp_path):
    target = tmp_path / "new" / "depth.png"
    with atomic_path(target) as temporary:
        assert temporary.name == target.name
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(target.parent) == ["depth.png"]
    umask = os.umask(0o22)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "depth.png"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["depth.png"]


def test_a_writer_may_replace_the_temporary_file(tmp_path):
    """safetensors 0.8 writes beside the path that it is given, and renames."""
    with atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"first")
        other = temporary.with_suffix(".other")
        other.write_bytes(b"second")
        other.replace(temporary)
    assert (tmp_path / "a.bin").read_bytes() == b"second"


def test_the_data_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        calls.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        sync(descriptor)

    def note_replace(source: str, target: str) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    with atomic_path(tmp_path / "depth.png") as temporary:
        temporary.write_bytes(b"whole")
    assert calls == ["sync depth.png", "rename", f"sync {tmp_path.name}"]


def test_a_copy_is_as_safe_as_a_written_file(tmp_path):
    (tmp_path / "a").write_bytes(b"whole")
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"whole"
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    target = tmp_path / "depth.png"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("/dev/null")
    with pytest.raises(MarigoldError, match="not a regular file"), atomic_path(target):
        pass
    assert names(tmp_path) == ["depth.png"]


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as opened:
        assert opened.read() == b"content"
    os.mkfifo(tmp_path / "pipe")  # plain open() would wait for a writer for ever
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "device", ""):
        with pytest.raises(MarigoldError, match="not a regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "loop")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    living = start_writing(tmp_path / "living.png")
    killed = start_writing(tmp_path / "killed.png")
    killed.kill()
    killed.wait()
    assert len(names(tmp_path)) == 2
    code = """
        import sys
        from marigold_core.files import atomic_path
        with atomic_path(sys.argv[1]) as temporary:
            temporary.write_bytes(b"whole")
    """
    subprocess.run(program(code, tmp_path / "next.png"), cwd=ROOT, check=True)
    left = names(tmp_path)
    assert [name for name in left if "killed" in name] == []
    assert len([name for name in left if "living" in name]) == 1
    living.terminate()
    living.wait()
    assert names(tmp_path) == ["next.png"]


def test_a_terminated_program_leaves_no_temporary_file(tmp_path):
    writer = start_writing(tmp_path / "depth.png")
    writer.send_signal(signal.SIGTERM)
    assert writer.wait(20) == 128 + signal.SIGTERM
    assert names(tmp_path) == []


# --- a power cut, on real file systems ---


@pytest.fixture(params=["ext4", "xfs"])
def disk(request, tmp_path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder on a file system of its own, and what cuts its power and starts it again."""
    kind = request.param
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(320 << 20)  # XFS wants 300 MB; the file is sparse
    folder.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)

    def mount() -> None:
        done = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"{kind} cannot be mounted here: {done.stderr.decode().strip()}")

    def cut_power() -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.ioctl(descriptor, KERNEL_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        os.close(descriptor)
        subprocess.run(["umount", folder], check=True)
        mount()

    mount()
    try:
        yield folder, cut_power
    finally:
        subprocess.run(["umount", folder], check=True)


def test_after_a_power_cut_every_named_file_is_whole(disk):
    folder, cut_power = disk
    old, new = b"old" * 5000, b"new" * 7000
    for number in range(24):
        if number % 2:
            (folder / f"{number}.bin").write_bytes(old)
    os.sync()
    for number in range(24):
        with atomic_path(folder / f"{number}.bin") as temporary:
            temporary.write_bytes(new)
    cut_power()
    contents = [(folder / f"{number}.bin").read_bytes() for number in range(24)]
    assert contents == [new] * 24


def test_a_plain_write_would_not_survive(disk):
    """Without this the test above would prove nothing."""
    folder, cut_power = disk
    os.sync()
    for number in range(24):
        (folder / f"{number}.tmp").write_bytes(b"new" * 7000)
        (folder / f"{number}.tmp").rename(folder / f"{number}.bin")
    time.sleep(0.1)
    cut_power()
    whole = [path for path in folder.glob("*.bin") if path.stat().st_size == 21000]
    assert len(whole) < 24
