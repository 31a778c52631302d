"""The help pages and translations cover every node, input and output, and nothing that is gone.

After a change of the nodes' texts: `PYTHONPATH=tests python docs/node_words.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from node_infos import NODES, inputs_of

ROOT = Path(__file__).parents[2]
HELP = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh", "ja", "ko")
# Where a translation that has no letter of its language was forgotten, or is the same word.
SCRIPTS = {
    "zh": r"[\u4e00-\u9fff]",
    "ja": r"[\u3040-\u30ff\u4e00-\u9fff]",
    "ko": r"[\uac00-\ud7af]",
}
# Vue's message format would read these as its own in the names of nodes, inputs and outputs.
RESERVED = re.compile(r"[{}@|$]")


def options_of(declared):
    return declared[1] if len(declared) > 1 else {}


def translation(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def strings(value):
    if isinstance(value, str):
        yield value
    else:
        for one in value.values():
            yield from strings(one)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_is_translated(language):
    translated = translation(language)
    assert translated.keys() == NODES.keys()
    for name, node in NODES.items():
        words = translated[name]
        assert words.keys() == {"display_name", "description", "inputs", "outputs"}, name
        # Its lookup has an underscore for the dot of a nested input.
        keys = [slot.replace(".", "_") for slot in inputs_of(node)]
        assert list(words["inputs"]) == keys, name
        # ComfyUI's frontend looks outputs up by their number.
        assert list(words["outputs"]) == [str(n) for n in range(len(node["output"]))], name
        slots = {**words["inputs"], **{f"output {n}": w for n, w in words["outputs"].items()}}
        for slot, texts in slots.items():
            assert texts.keys() == {"name", "tooltip"}, f"{name}, {slot}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_words_that_the_frontend_can_show(language):
    for text in strings(translation(language)):
        assert text.strip() == text != ""
        assert not RESERVED.search(text), text


@pytest.mark.parametrize("language", SCRIPTS)
def test_sentences_are_in_their_language(language):
    for name, node in translation(language).items():
        slots = [*node["inputs"].values(), *node["outputs"].values()]
        for text in [node["description"], *(slot["tooltip"] for slot in slots)]:
            assert re.search(SCRIPTS[language], text), f"{name}: {text}"


def test_english_says_what_the_nodes_say():
    # The frontend prefers this file to the nodes' own words.
    for name, words in translation("en").items():
        node = NODES[name]
        assert words["display_name"] == node["display_name"]
        assert words["description"] == node["description"]
        for slot, declared in inputs_of(node).items():
            key = slot.replace(".", "_")
            assert words["inputs"][key]["tooltip"] == options_of(declared)["tooltip"], slot
        for number, tooltip in enumerate(node["output_tooltips"]):
            assert words["outputs"][str(number)]["tooltip"] == tooltip, f"{name}, {number}"


@pytest.mark.parametrize("name", NODES)
def test_a_help_page_has_every_input_and_output_and_a_picture(name):
    page = (HELP / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {NODES[name]['display_name']}\n")
    tables = re.findall(r"^## (Inputs|Outputs)\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    rows = {
        title: re.findall(r"^\| `([^`]+)` \| (\S.*) \|$", text, re.MULTILINE)
        for title, text in tables
    }
    inputs, node = inputs_of(NODES[name]), NODES[name]
    assert rows["Inputs"] == [
        (slot.split(".")[-1], options_of(one)["tooltip"]) for slot, one in inputs.items()
    ]
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    assert rows["Outputs"] == list(outputs)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert pictures
    for picture in pictures:
        assert (HELP / picture).is_file(), picture


def test_no_help_page_is_left_of_a_node_that_is_gone():
    assert {page.stem for page in HELP.glob("*.md")} == NODES.keys()
    shown = "".join(page.read_text(encoding="utf-8") for page in HELP.glob("*.md"))
    for picture in HELP.glob("images/*"):
        assert f"images/{picture.name})" in shown, f"no help page shows {picture.name}"


def test_the_guide_names_every_node():
    guide = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    for node in NODES.values():
        assert node["display_name"].split(" (")[0] in guide, node["display_name"]
