"""The structure: imports run one way, and facts that stand in two files agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import marigold_core

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PARTS = ("marigold_core", "nodes", "blender_addon", "training", "tests", "benchmarks")
# What a part may not import: ComfyUI's and Blender's modules belong to their front ends.
FOREIGN = {
    "marigold_core": {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "server",
                      "bpy", "bmesh", "mathutils"},
    "training": {"comfy", "comfy_api", "folder_paths", "nodes"},
    "nodes": {"bpy"},
    "blender_addon": {"comfy", "comfy_api", "folder_paths", "nodes"},
}  # fmt: skip
MACHINE_PATH = re.compile(r"(?:^|[^\w./:~$}])/(?:home|root|Users|work|farm|opt)/\w")
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".sh", ".js", ""}
NOT_OURS = {"build", "dist", "runs", "output", "marigold_output", "__pycache__"}


def files(*suffixes: str) -> list[Path]:
    """The repository's files, without environments, caches and outputs."""
    found = []
    for top in ROOT.iterdir():
        if top.name in NOT_OURS or (
            top.name.startswith(".") and top.name not in (".ci", ".github")
        ):
            continue
        found += [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    return [p for p in found if p.suffix in suffixes and not NOT_OURS.intersection(p.parts)]


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, absolutely: `marigold_core.depth` for `.depth` there."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom):
            above = node.level - 1
            # Above the root stands the name that ComfyUI gives the whole repository.
            assert above <= len(package), f"{file}: imports from outside the repository"
            base = package[: len(package) - above]
            if node.module:
                yield ".".join((*base, node.module))
            else:
                yield from (".".join((*base, name.name)) for name in node.names)


def modules_of(part: str) -> list[Path]:
    return sorted(path for path in files(".py") if path.relative_to(ROOT).parts[0] == part)


def loaded_by(statement: str) -> set[str]:
    code = (
        f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def dependencies(section: str = "dependencies") -> list[str]:
    """The strings of a TOML list of strings. (Python 3.10 has no tomllib.)"""
    match = re.search(rf"^{section} = \[\n(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)
    assert match, f"pyproject.toml has no list {section}"
    return re.findall(r'^\s*"([^"]+)",$', match[1], re.MULTILINE)


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def package_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def commands(name: str) -> list[str]:
    """The lines of the code block right after the marker."""
    blocks = re.findall(rf"^<!-- command: {name} -->\n```\w*\n(.*?)^```$", README, re.M | re.S)
    assert len(blocks) == 1, f"the README has {len(blocks)} blocks after the marker {name}"
    return blocks[0].splitlines()


@pytest.mark.parametrize("part", ["marigold_core", "nodes", "blender_addon", "training"])
def test_arrows_run_to_marigold_core_alone(part):
    others = {other for other in PARTS if other not in (part, "marigold_core")}
    # training/ has no package: its scripts import each other by their bare names.
    siblings = {path.stem for path in modules_of("training")} if part != "training" else set()
    siblings -= {path.stem for path in modules_of(part)} | {"__init__"}
    for file in modules_of(part):
        tops = {name.split(".")[0] for name in imports(file)}
        wrong = tops & (others | FOREIGN[part] | siblings) - {part}
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_the_engine_imports_itself_relatively():
    # ComfyUI loads the repository under another name, where `import marigold_core` finds nothing,
    # or another copy.
    for part in ("marigold_core", "nodes"):
        for file in modules_of(part):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names.append(node.module or "")
                absolute = [n for n in names if n.split(".")[0] == "marigold_core"]
                assert not absolute, f"{file.relative_to(ROOT)}:{node.lineno} imports {absolute[0]}"


# Top to bottom: a part of the engine imports nothing from a floor above its own.
FLOORS = (
    ("__main__", "cli", "worker"),
    ("metric.guided",),
    ("panorama",),
    ("engine",),
    ("targets",),
    ("denoising", "checkpoints"),
    ("memory", "diffusion", "ensemble", "depth", "metric", "resize", "progress"),
    ("normals", "intrinsics"),
    ("depth_files", "geometry"),
    ("images", "colormaps"),
    ("options",),
    ("errors", "files"),
)


def floor(module: str) -> int:
    """Of a module inside the engine, by its own entry or its folder's."""
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    return level[module] if module in level else level[module.split(".")[0]]


def test_the_engines_imports_run_down():
    for file in modules_of("marigold_core"):
        parts = file.relative_to(ROOT / "marigold_core").with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in imports(file):
            top, _, imported = name.partition(".")
            if top != "marigold_core" or imported.split(".")[0] in (parts[0], "", "__version__"):
                continue
            module = ".".join(parts)
            assert floor(imported) >= floor(module), f"{module} imports {name}"


def test_the_engine_shows_about_twenty_names():
    names = {path.name for path in (ROOT / "marigold_core").iterdir() if path.name[0] not in "._"}
    assert len(names) <= 24, sorted(names)


@pytest.mark.parametrize(
    "statement",
    ["import marigold_core", "import marigold_core.geometry.points", "import marigold_core.cli"],
)
def test_light_parts_load_no_torch(statement):
    assert not {"torch", "diffusers", "transformers", "scipy"} & loaded_by(statement)


@pytest.mark.parametrize("module", ["geometry.points", "metric.fit"])
def test_what_blender_uses_loads_no_pillow(module):
    assert "PIL" not in loaded_by(f"import marigold_core.{module}")  # Blender's Python has none


def test_every_public_name_is_there():
    for name in marigold_core.__all__:
        assert getattr(marigold_core, name).__name__ == name


def test_the_packages_are_the_engine_alone():
    folders = {path.parent.relative_to(ROOT) for path in modules_of("marigold_core")}
    assert dependencies("packages") == sorted(".".join(folder.parts) for folder in folders)


def test_readme_commands():
    for name in ("run", "test"):
        lines = commands(name)
        assert len(lines) == 1
        assert "-c constraints.txt" in lines[0]
        assert lines[0].startswith("python3 -m venv .venv")
    assert "marigold depth --example" in commands("run")[0]
    # `.ci/run` continues with the environment that this command made.
    assert commands("test")[0].endswith(".venv-test/bin/python -m pytest")


def test_nothing_that_comfyui_brings_is_moved():
    # ComfyUI-Manager installs requirements.txt whatever is there; install.py adds what is missing.
    assert requirements("requirements.txt") == []
    added = {"diffusers", "OpenEXR"}
    lines = [line for line in dependencies() if package_of(line) in {p.lower() for p in added}]
    text = (ROOT / "install.py").read_text(encoding="utf-8")
    assert re.findall(r'"([\w-]+>=[\d.]+)"', text) == lines


def test_ranges_have_a_lower_end_and_torch_no_upper_one():
    for line in dependencies():
        assert re.fullmatch(r"[\w-]+>=[\d.]+(,!=[\d.]+)*", line), line


def test_constraints_are_exact_and_for_every_platform():
    for name in ("constraints.txt", "constraints-oldest.txt"):
        pinned = {}
        for line in requirements(name):
            assert re.fullmatch(r"[\w.-]+==[\w.]+", line), f"{name}: {line}"
            pinned[package_of(line)] = line.split("==")[1]
        assert pinned["torch"] == "2.13.0"
        assert not [p for p in pinned if p.startswith(("nvidia", "cuda", "triton"))]
        wanted = {package_of(line) for line in dependencies() + dependencies("test")}
        assert wanted <= pinned.keys(), f"{name} leaves out {sorted(wanted - pinned.keys())}"


def test_the_oldest_versions_are_the_lower_ends():
    pins = dict(line.split("==") for line in requirements("constraints-oldest.txt"))
    pinned = {package_of(name): number for name, number in pins.items()}
    for line in dependencies():
        package, lower = package_of(line), line.split(">=")[1]
        if package != "torch":
            trimmed = pinned[package].removesuffix(".0")
            assert trimmed == lower.removesuffix(".0"), f"{line}, tested {pinned[package]}"


def test_every_dependency_has_its_reason_in_the_readme():
    table = README.split("## Dependencies")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| \S.*\|$", table, re.MULTILINE)
    lines = [*dependencies(), *dependencies("train"), "bpy"]
    assert [row.lower() for row in rows] == [re.split("[<>=!]", line)[0].lower() for line in lines]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no tomllib")
@pytest.mark.parametrize(
    ("python", "wanted"), [("3.11", {"bpy": "4.5", "numpy": "<2"}), ("3.13", {"bpy": "5.2"})]
)
def test_the_blender_extra_has_a_blender_for_this_python(python, wanted):
    import tomllib
    from packaging.requirements import Requirement

    extra = tomllib.loads(PROJECT)["project"]["optional-dependencies"]["blender"]
    lines = [Requirement(line) for line in extra]
    chosen = {
        line.name: str(line.specifier)
        for line in lines
        if line.marker is None or line.marker.evaluate({"python_version": python})
    }
    assert chosen.keys() == wanted.keys()
    assert all(wanted[name] in specifier for name, specifier in chosen.items())


def test_the_version_stands_in_one_place():
    assert 'version = { attr = "marigold_core.__version__" }' in PROJECT
    try:
        installed = version("marigold-kit")
    except PackageNotFoundError:
        pytest.skip("marigold-kit is not installed in this environment")
    assert installed == marigold_core.__version__


def test_the_changelog_has_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(marigold_core.__version__)} \S", changelog, re.MULTILINE)


@pytest.mark.parametrize("document", [p.relative_to(ROOT).as_posix() for p in files(".md")])
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"[a-z]+:|#", target):
            continue
        assert ((ROOT / document).parent / target.split("#")[0]).exists(), target


def test_documents_are_finished():
    for document in files(".md"):
        assert "TODO" not in document.read_text(encoding="utf-8"), document.relative_to(ROOT)


def test_no_paths_of_one_machine():
    for file in files(*TEXT):
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), start=1):
            assert not MACHINE_PATH.search(line), f"{file.relative_to(ROOT)}:{number}: {line}"


def test_workflows_pin_actions_by_commit_and_tools_by_hash():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = file.read_text(encoding="utf-8")
        for action in re.findall(r"uses: (\S+)", text):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), f"{file.name}: {action}"
        for line in re.findall(r"pip install (.+)", text):
            known = ("--require-hashes", "-c constraints.txt", "-r ComfyUI", "--extra-index-url")
            assert line.startswith(known), f"{file.name}: {line}"
    locked = (ROOT / ".github" / "tools.txt").read_text(encoding="utf-8")
    for block in re.split(r"\n(?=\S)", locked.strip()):
        assert re.match(r"[\w.-]+==\S+ ", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]
    for line in (ROOT / ".github" / "tools.in").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or f"\n{line.split('==')[0]}==" in f"\n{locked}", line
