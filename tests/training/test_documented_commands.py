"""Every command that the README and the docs name is one that its program takes."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from marigold_core.cli.arguments import build_parser

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
LAUNCHED = r"(?:python|accelerate launch(?: --\w+ \d+)*) (training/\w+\.py)"
COMMAND = re.compile(rf"(?:{LAUNCHED}|marigold(?= (?:depth|mesh|checkpoints) )) ?(.*)")


def documented() -> dict[str, tuple[str, list[str]]]:
    """The command as it stands -> its program, and the words it is given."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        lines = "\n".join(
            block for language, block in blocks if not language
        ).splitlines() + re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            match = COMMAND.search(line)
            if match and "..." not in line and (match[2] or not match[1]):
                program = match[1] or "marigold"
                found[line.strip()] = program, shlex.split(match[2], comments=True)
    return found


COMMANDS = documented()


class Taken(Exception):
    """The program's own parser took its words; nothing more is asked of it."""


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_taken(command: str, monkeypatch) -> None:
    program, words = COMMANDS[command]
    if program == "marigold":
        build_parser().parse_args(words)
        return
    if program.endswith("finetune.py"):
        pytest.importorskip("accelerate", reason="finetune.py needs accelerate")
    original = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Taken

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(Taken):
        runpy.run_path(str(ROOT / program), run_name="__main__")


def test_they_are_found() -> None:
    programs = {program for program, _ in COMMANDS.values()}
    assert {"marigold", "training/finetune.py", "training/evaluate.py"} <= programs
    assert len(COMMANDS) > 30
