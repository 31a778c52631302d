"""Testing, making and removing the engine's environment: real venv and pip, tiny wheels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the test of the new environment imports, and the distributions' names.
MODULES = (
    "torch",
    "diffusers",
    "einops",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "PIL",
    "tqdm",
)
FAKE_TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="uses shell scripts as programs")


@pytest.fixture(scope="session")
def environment(addon_module):
    return addon_module("backend.environment")


@pytest.fixture(scope="session")
def check(addon_module):
    return addon_module("backend.python_check")


@pytest.fixture(scope="session")
def output(addon_module):
    return addon_module("backend.pip_output")


@pytest.fixture
def bare(tmp_path):
    """A Python of somebody else's with nothing in it."""
    folder = tmp_path / "théir own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def site_packages(folder: Path) -> Path:
    return next(folder.rglob("site-packages"))


def everything_in(folder: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*")}


def failed(task) -> str:
    task.wait(120)
    assert task.state == "failed", (task.state, list(task.lines))
    assert task.error.endswith(".") and "\n" not in task.error and "Traceback" not in task.error
    return task.error


# Test an existing Python.


def test_a_python_with_the_engine(check):
    task = check.test_python(sys.executable).wait(180)
    report = task.result
    assert task.state == "done" and report.ok and not report.missing, task.error
    assert report.version == ".".join(map(str, sys.version_info[:3]))
    assert report.versions["diffusers"] == metadata.version("diffusers")
    assert report.device in ("cpu", "cuda", "mps") and report.summary.count("torch") == 1


def test_a_python_that_lacks_packages_is_reported_and_not_written_to(check, bare):
    (site_packages(bare) / "numpy.py").write_text("__version__ = '2.4.6'\n")
    (site_packages(bare) / "torch.py").write_text(f"__version__ = '1.9'\n{FAKE_TORCH}")
    before = everything_in(bare)
    report = check.test_python(interpreter(bare)).wait(60).result
    assert everything_in(bare) == before, "the test wrote into a foreign environment"
    assert not report.ok and report.device == "cpu"
    assert "pillow" in report.missing and "diffusers" in report.missing
    assert "torch is 1.9, and 2.6 or newer is needed" in report.summary
    assert "numpy" not in report.summary


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_of_that_name", "torch lacks nothing_of_that_name"),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("print('hello'); raise SystemExit(3)", "torch does not load (SystemExit: 3)"),
    ],
)
def test_a_package_that_does_not_load(check, bare, code, says):
    (site_packages(bare) / "torch.py").write_text(code)
    report = check.test_python(interpreter(bare)).wait(60).result
    assert says in report.summary and "\n" not in report.summary


def test_what_is_no_python(check, tmp_path):
    assert "There is no Python at" in failed(check.test_python(tmp_path / "python"))
    text = tmp_path / "text"
    text.write_text("hello")
    assert "cannot be started" in failed(check.test_python(text))


@posix
def test_a_program_that_is_no_python(check, tmp_path):
    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\necho Blender 5.2.0\n")
    program.chmod(0o755)
    assert "did not answer as a Python does (Blender 5.2.0)" in failed(check.test_python(program))


def test_versions_are_compared_as_numbers(check):
    assert check.numbers("2.13.0+cpu") > check.numbers("2.6") > check.numbers("2.5.9rc1")
    assert check.numbers("unknown") == ()


# Make one.


def wheel(folder: Path, name: str, version: str, code: str = "", weight: int = 0) -> Path:
    """The smallest wheel of a module, and of some bytes."""
    distribution = {"PIL": "pillow"}.get(name, name)
    path = folder / f"{distribution}-{version}-py3-none-any.whl"
    info = f"{distribution}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = '{version}'\n{code}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    names = [*files, f"{info}/RECORD", f"{name}.bin"]
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{name}.bin", os.urandom(weight))
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in names))
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory, check):
    folder = tmp_path_factory.mktemp("whéels")
    for module in MODULES:
        code = FAKE_TORCH if module == "torch" else ""
        weight = 3_000_000 if module == "torch" else 0
        wheel(folder, module, f"{check.LOWEST[module]}.99", code, weight)
    lock = "".join(f"{check.package(m)}=={check.LOWEST[m]}.99\n" for m in MODULES)
    (folder / "requirements.txt").write_text(lock)
    return folder


class Index:
    """PyPI's simple index of a folder; `broken` breaks off big files in their middle."""

    def __init__(self, folder: Path) -> None:
        self.broken = True
        self.sent: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rstrip("/").rpartition("/")[2]
                if (folder / name).is_file():
                    data = (folder / name).read_bytes()
                    index.sent.append(name.split("-")[0])
                else:
                    links = [f.name for f in folder.glob("*.whl")
                             if f.name.split("-")[0].replace("_", "-") == name]  # fmt: skip
                    data = "".join(f'<a href="/files/{n}">{n}</a>\n' for n in links).encode()
                    if not links:
                        self.send_error(404)
                        return
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                half = index.broken and len(data) > 1_000_000
                self.wfile.write(data[: len(data) // 2] if half else data)
                if half:
                    self.connection.close()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/simple"


def watched(task) -> tuple[list[str], list[float]]:
    stages, fractions = [], []
    end = time.monotonic() + 180
    while not task.finished and time.monotonic() < end:
        if not task.poll():
            time.sleep(0.01)
        if task.stage and (not stages or stages[-1] != task.stage):
            stages.append(task.stage)
        if task.fraction is not None:
            fractions.append(task.fraction)
    return stages, fractions


def test_made_after_a_broken_download_used_and_removed(environment, wheels, tmp_path, monkeypatch):
    index = Index(wheels)
    for name in [name for name in os.environ if name.startswith(("PIP_", "pip_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "extension" / "environment 環境"
    lock = wheels / "requirements.txt"
    assert environment.environment_state(folder) == "absent"
    options = {"build": "mps", "requirements": lock}  # PyPI's own torch on every system

    broken = environment.make_environment(folder, **options)
    assert "continues where it stopped" in failed(broken)
    assert environment.environment_state(folder, lock) == "unfinished"
    fetched = set(index.sent) - {"torch"}

    index.broken = False
    index.sent.clear()
    task = environment.make_environment(folder, **options)
    stages, fractions = watched(task)
    assert task.state == "done", (task.error, list(task.lines))
    assert stages == ["venv", "pip", "download", "install", "test"]
    assert fractions and all(0 <= fraction <= 1 for fraction in fractions)
    assert not fetched & set(index.sent), "fetched again"
    report = task.result
    assert report.ok and report.versions["torch"] == "2.6.99" and report.device == "cpu"
    assert report.python == str(environment.environment_python(folder))
    assert environment.environment_state(folder, lock) == "ready"
    assert environment.environment_state(folder) == "outdated"  # by the add-on's own list
    assert "2.6.99" in (folder / "log.txt").read_text("utf-8")
    assert not (folder / "downloads").exists()

    # Renewed from a wheel folder, without a network.
    index.server.shutdown()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens there
    longer = tmp_path / "requirements.txt"
    longer.write_text(lock.read_text() + "unheard-of==1.0\n")
    offline = {"build": "cpu", "wheel_folder": wheels}
    lacking = environment.make_environment(folder, requirements=longer, **offline)
    assert "no wheel of unheard-of==1.0" in failed(lacking)
    assert environment.environment_state(folder, lock) == "unfinished"
    task = environment.make_environment(folder, requirements=lock, **offline).wait(120)
    assert task.state == "done", (task.error, list(task.lines))
    assert "+" not in (folder / "lock.txt").read_text(), "a wheel folder has the build it has"

    environment.remove_environment(folder)
    assert not folder.exists() and environment.environment_state(folder) == "absent"
    environment.remove_environment(folder)


def test_folders_that_are_not_ours_are_left_alone(environment, wheels, tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    assert environment.environment_state(tmp_path) == "foreign"
    assert "choose an empty folder" in failed(environment.make_environment(tmp_path))
    with pytest.raises(Exception, match="left alone"):
        environment.remove_environment(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]
    task = environment.make_environment(tmp_path / "new", wheel_folder=tmp_path / "missing")
    assert "no wheel folder" in failed(task) and not (tmp_path / "new").exists()


@posix
def test_a_python_without_pip(environment, tmp_path, wheels):
    # As Debian's: venv is there, ensurepip is not.
    base = tmp_path / "python"
    base.write_text(
        '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/bin"\n'
        "printf '#!/bin/sh\\necho \"$0: No module named ensurepip\" >&2; exit 1\\n'"
        ' > "$last/bin/python"\nchmod +x "$last/bin/python"\n'
    )
    base.chmod(0o755)
    task = environment.make_environment(tmp_path / "e", base_python=base, wheel_folder=wheels)
    assert "has no pip" in failed(task) and "python3-venv" in task.error


def test_cancel_returns_at_once_and_leaves_nothing_running(environment, wheels, tmp_path):
    task = environment.make_environment(tmp_path / "e", wheel_folder=wheels, build="cpu")
    while task.stage != "venv" or not task.lines:
        task.poll()
        time.sleep(0.01)
    start = time.monotonic()
    task.cancel()
    assert time.monotonic() - start < 0.2 and task.state == "cancelled"
    task.join(10)
    assert time.monotonic() - start < 5
    task.poll()
    assert task.state == "cancelled" and not task.error
    assert environment.environment_state(tmp_path / "e") == "unfinished"
    environment.remove_environment(tmp_path / "e")


@posix
def test_a_full_disk(environment, wheels, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        task = environment.make_environment(small / "e", wheel_folder=wheels, build="cpu")
        assert "The disk is full" in failed(task)
        assert environment.environment_state(small / "e") == "unfinished"
        environment.remove_environment(small / "e")
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
         "disk is full"),
        ("OSError: [WinError 112] There is not enough space on the disk", "disk is full"),
        ("/usr/bin/python3: No module named ensurepip", "has no pip"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError("
         "'<pip._vendor.urllib3>: Failed to establish a new connection')': /simple/torch/",
         "check the network"),
        ("WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.')'",
         "proxy could not be reached"),
        ("WARNING: ... SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...')",
         "certificate"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no wheel of torch==2.13.0"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'x'",
         "cannot be written"),
        ("ERROR: something new", "something new"),
    ],
)  # fmt: skip
def test_failures_are_one_message(output, line, says):
    message = output.failure_message(["Collecting torch", line], "/usr/bin/python3")
    assert says in message and message.endswith(".") and "\n" not in message
    assert output.failure_message([], "python").endswith(".")


def test_pips_progress_is_read(output):
    class Updated:
        def update(self, **fields):
            vars(self).update({"step": 0, "total": 0, **fields})

    task = Updated()
    progress = output.PipProgress(task, "torch==2.13.0\nnumpy==2.4.6\n# x==1\n")
    assert progress.on_line("  Downloading torch-2.13.0-cp311-none-any.whl.metadata (29 kB)")
    assert progress.on_line("  Downloading torch-2.13.0+cpu-cp311-none-any.whl (184.2 MB)")
    assert not progress.on_line("Progress 92100000 of 184200000")
    assert (task.step, task.total, task.detail) == (0.5, 2, "torch: 92 of 184 MB")
    assert progress.on_line("Using cached numpy-2.4.6-cp311-none-any.whl (15 MB)")
    assert task.step == 1
    assert progress.on_line("Installing collected packages: numpy, torch")
    assert (task.stage, task.total) == ("install", 0)
    assert progress.on_line("Progress in sight")


@pytest.mark.parametrize(
    ("build", "cards", "tag"),
    [
        ("cuda", [(8.9, 580)], "cu130"),
        ("cuda", [(8.9, 550)], "cu126"),
        ("cuda", [(6.1, 580)], "cu126"),
        ("cuda", [(12.0, 570)], "cu130"),  # CUDA 12.6 does not know this card at all
        ("cuda", [], "cu130"),
        ("mps", [], ""),
    ],
)
def test_the_build_fits_the_card_and_the_driver(environment, build, cards, tag):
    assert environment.wheel_tag(build, cards) == tag


def test_this_machine_has_a_build(environment):
    assert environment.detect_build() in environment.BUILDS


# The lists.


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found = [re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def test_the_lock_is_the_tested_versions_and_complete(check):
    lock, tested = pins("blender_addon/backend/requirements.txt"), pins("constraints.txt")
    assert lock == {name: tested[name] for name in lock}
    needed = {check.package(module).replace("_", "-") for module in check.LOWEST}
    for name in needed | lock.keys():
        assert name in lock
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in requires:
            requirement, _, marker = line.partition(";")
            other = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
            # Markers of extras, of old Pythons, and torch's CUDA parts, which it pins itself.
            if "extra" in marker or "python_version" in marker or name == "torch" and marker:
                continue
            assert other in lock, f"{name} needs {other}"


def test_the_lowest_versions_are_the_projects(check):
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for module, lowest in check.LOWEST.items():
        assert f'"{check.package(module)}>={lowest}",' in project


def test_a_proxys_password_is_in_no_command_line_and_in_no_text(environment, wheels, tmp_path):
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\n")
    proxy = "http://ann:s3cret@127.0.0.1:9"
    folder = tmp_path / "e"
    task = environment.make_environment(
        folder, proxy=proxy, build="mps", requirements=tmp_path / "requirements.txt"
    )
    seen = set()
    while not task.finished:
        task.poll()
        if task._process is not None:
            seen.update(task._process.args)
        time.sleep(0.001)
    assert task.state == "failed" and any("pip" in argument for argument in seen)
    text = (folder / "log.txt").read_text("utf-8")
    assert "127.0.0.1" in text or "proxy" in text.lower(), "the proxy was not used"
    for place in (*seen, text, task.error, *task.lines, *map(str, vars(task).values())):
        assert "s3cret" not in place and "ann:" not in place, place


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("proxy http://ann:s3cret@host:80/x failed", "proxy http://***@host:80/x failed"),
        ("HTTPS://u:p%40x@h", "HTTPS://***@h"),
        ("https://host/a@b and a@b", "https://host/a@b and a@b"),
    ],
)
def test_credentials_are_masked(addon_module, text, masked):
    assert addon_module("backend.background_task").without_credentials(text) == masked
