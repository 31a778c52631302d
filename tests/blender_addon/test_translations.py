"""Every word of the add-on's interface is in the table of translations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from blender_addon.backend.environment import BUILDS
from blender_addon.ui.translations import TABLE, translations

ADDON = Path(__file__).parents[2] / "blender_addon"
SOURCES = [path for path in ADDON.rglob("*.py") if "import bpy" in path.read_text("utf-8")]
SHOWN = {"label", "operator", "prop", "row", "menu"}
TRANSLATED = {"pgettext_iface", "pgettext_tip", "iface", "refuse"}


def text(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*text(node.body), *text(node.orelse))


def words(tree: ast.Module) -> Iterator[str]:
    """Labels, tooltips, enum items, texts of the panel, reasons of grey buttons."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            if any("bpy.types.Operator" in ast.unparse(base) for base in node.bases):
                yield " ".join((ast.get_docstring(node) or "").split())
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "bl_label":
                    yield from text(line.value)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            for keyword in node.keywords:
                if name.startswith("bpy.props") and keyword.arg in ("name", "description"):
                    yield from text(keyword.value)
                elif name.startswith("bpy.props") and keyword.arg == "items":
                    for item in ast.walk(keyword.value):
                        if isinstance(item, ast.Tuple):
                            yield from (word for part in item.elts[1:] for word in text(part))
                elif name.split(".")[-1] in SHOWN and keyword.arg in ("text", "heading"):
                    yield from text(keyword.value)
            if name.split(".")[-1] in TRANSLATED:
                yield from (word for part in node.args for word in text(part))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STAGES":
            yield from (word for value in node.value.values for word in text(value))


def test_every_word_has_its_translations():
    table = {line.split("\t")[0] for line in TABLE.read_text("utf-8").splitlines()}
    for path in SOURCES:
        for word in words(ast.parse(path.read_text("utf-8"))):
            if re.search("[A-Za-z]", word):
                assert word in table, f"{path.name}: {word!r}"
    for build in BUILDS.values():
        assert build.label in table and build.size in table


def test_sliders_are_translated():
    tree = ast.parse((ADDON / "ui" / "panel.py").read_text("utf-8"))
    (sliders,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SLIDERS"
    )
    table = translations()["ja_JP"]
    for group in ast.literal_eval(sliders):
        assert all(("*", name) in table for name in group)


@pytest.mark.parametrize("language", ["zh_HANS", "ja_JP", "ko_KR"])
def test_translations_say_something_and_keep_the_gaps(language):
    for (context, english), other in translations()[language].items():
        assert other.strip() == other and other, english
        assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", other)), english
        assert context in ("*", "Operator")


def test_no_line_stands_twice():
    lines = [line.split("\t")[0] for line in TABLE.read_text("utf-8").splitlines()]
    assert len(lines) == len(set(lines))
