"""No command replaces its inputs, or files that it did not write itself."""

from __future__ import annotations

import os
import shutil
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marigold_core.cli.arguments import main
from marigold_core.depth import DepthMap

DEPTH = "a_depth.png"


class Engine:
    """In place of the model: depth grows to the right."""

    device, dtype = "cpu", "torch.float32"

    @classmethod
    def from_pretrained(cls, name, **options):
        return cls()

    def expect(self, *targets):
        assert "depth" in targets

    def __call__(self, image, options, *, mask, callback):
        depth = np.tile(np.linspace(0, 1, image.shape[1], dtype=np.float32), (len(image), 1))
        return DepthMap(depth, 0.1 * depth if options.ensemble_size > 1 else None, mask)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    module = types.ModuleType("marigold_core.engine")
    module.Marigold = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "marigold_core.engine", module)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main changes it
    monkeypatch.chdir(tmp_path)


def picture(name: str, colour: int = 200) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (colour, colour, colour)).save(name)
    return name


def gradient(name: str) -> str:
    Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600 + 1).save(name)
    return name


def refused(capsys, *arguments: str, about: str) -> None:
    """Nothing is written, and one message names the file."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(list(arguments)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert about in err
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_inputs_are_never_replaced(capsys, options):
    picture("a.png"), picture("b.png"), gradient("b_depth.png"), gradient(DEPTH)
    picture("a_color.png", colour=255)
    refused(capsys, "depth", "a.png", "--truth", DEPTH, "-o", ".", *options, about=DEPTH)
    mask = ["--mask", "a_color.png", "--format", "exr"]
    refused(capsys, "depth", "a.png", *mask, "-o", ".", *options, about="a_color.png")
    inputs = ["b.png", "b_depth.png"]
    refused(capsys, "depth", *inputs, "-o", ".", *options, about="b_depth.png")
    Path("c.glb").symlink_to("a.png")
    refused(capsys, "mesh", "a.png", "-o", "c.glb", *options, about="c.glb")
    os.link("a.png", "d.glb")
    refused(capsys, "mesh", "a.png", "-o", "d.glb", *options, about="d.glb")


def test_unrelated_files_are_replaced_only_when_asked(capsys):
    picture("a.png"), gradient(DEPTH)
    refused(capsys, "depth", "a.png", "-o", ".", about=DEPTH)
    assert main(["depth", "a.png", "-o", ".", "--overwrite"]) == 0
    Path("c.mtl").write_text("mine")
    mesh = ["mesh", picture("c.jpg"), "--tear", "inf", "-o", "c.obj"]
    refused(capsys, *mesh, about="c.mtl")
    Path("c.mtl").unlink()
    picture("c_texture.jpg", colour=3)
    refused(capsys, *mesh, about="c_texture.jpg")
    assert main([*mesh, "--overwrite"]) == 0


@pytest.mark.parametrize("format", ["png", "exr", "tiff", "npy"])
def test_a_command_can_be_repeated(capsys, format):
    command = ["depth", picture("a.png"), "-o", "out", "--format", format, "--ensemble", "2"]
    mesh = ["mesh", picture("c.jpg"), "--tear", "inf", "-o", "out/c.obj"]
    for repeated in (command, mesh):
        assert main(repeated) == 0
        assert main(repeated) == 0
    shutil.copytree("out", "copied")  # with other times
    assert main([*command[:3], "copied", *command[4:]]) == 0
    # What has been changed since is no longer what the command wrote.
    with Path(f"out/a_depth.{format}").open("ab") as file:
        file.write(b"edited")
    refused(capsys, *command, about=f"a_depth.{format}")


def test_another_pictures_outputs_are_unrelated(capsys):
    picture("x/a.png"), picture("y/a.png", colour=90)
    assert main(["depth", "x/a.png", "-o", "out"]) == 0
    refused(capsys, "depth", "y/a.png", "-o", "out", about=DEPTH)


def test_skip_existing_looks_into_the_files(capsys):
    command = ["depth", picture("a.png"), "-o", "out", "--skip-existing"]
    assert main(command) == 0
    whole = Path("out/a_depth.png").read_bytes()
    assert main(command) == 0
    assert "1 picture skipped" in capsys.readouterr().out
    Path("out/a_depth.png").write_bytes(b"")  # as XFS leaves it after a power cut
    assert main(command) == 0
    assert Path("out/a_depth.png").read_bytes() == whole
    Path("out/a_depth.png").write_bytes(whole[:-30])
    refused(capsys, *command, about="--overwrite")
    assert main([*command, "--overwrite"]) == 0
    assert Path("out/a_depth.png").read_bytes() == whole


def test_names_cannot_steer_the_terminal(capsys):
    assert main(["depth", picture("a\x1b[2J\n.png")]) == 0
    assert main(["mesh", "a\x1b[2J\n.png", "--tear", "inf"]) == 0
    assert main(["depth", "absent\x1b[2J\n.png"]) == 2
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err
    assert r"a\x1b[2J\n" in output.out


def test_damaged_records_are_ignored(capsys):
    command = ["depth", picture("a.png"), "-o", "out"]
    assert main(command) == 0
    record = next(path for path in Path("out").iterdir() if path.name.startswith("."))
    record.write_bytes(b"\xff{[]\n5\n" + record.read_bytes() + b'{"name": "a_depth.pn')
    assert main(command) == 0
    record.write_bytes(b"not JSON")
    refused(capsys, *command, about=DEPTH)
