# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface in other languages: a table with a line for each English string. No bpy."""

from __future__ import annotations

from pathlib import Path

TABLE = Path(__file__).with_name("translations.tsv")
# Blender looks up a string in its context; the labels of buttons have a separate one.
CONTEXTS = ("*", "Operator")


def translations() -> dict[str, dict[tuple[str, str], str]]:
    """As `bpy.app.translations.register` takes it: language -> (context, English) -> text."""
    head, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    table: dict[str, dict[tuple[str, str], str]] = {name: {} for name in head.split("\t")[1:]}
    for line in lines:
        english, *others = line.split("\t")
        for language, text in zip(table, others, strict=True):
            table[language].update({(context, english): text for context in CONTEXTS})
    return table
