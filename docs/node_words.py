"""Copy the nodes' changed texts to their help pages and the English locale.

    PYTHONPATH=tests python docs/node_words.py

Rewrites locales/en/nodeDefs.json and the tables in web/docs/, and prints which texts of the other
languages were translated from a text that has changed. With COMFYUI_PATH set, the nodes are loaded
in that ComfyUI.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from node_infos import NODES, inputs_of

ROOT = Path(__file__).parents[1]
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
Words = dict[str, Any]


def words_of(node: Words) -> Words:
    inputs = inputs_of(node)
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            # The frontend looks nested inputs up with an underscore for the dot.
            name.replace(".", "_"): {"name": name.split(".")[-1], "tooltip": declared[1]["tooltip"]}
            for name, declared in inputs.items()
        },
        "outputs": {
            str(number): {"name": name, "tooltip": tooltip}
            for number, (name, tooltip) in enumerate(outputs)
        },
    }


def flat(words: Words, path: str = "") -> dict[str, str]:
    """{"Node.inputs.seed.tooltip": "..."}"""
    found: dict[str, str] = {}
    for key, value in words.items():
        here = f"{path}.{key}".lstrip(".")
        found |= flat(value, here) if isinstance(value, dict) else {here: value}
    return found


def with_tables(page: str, words: Words) -> str:
    """The page with the rows of both tables as the node has them now."""
    for title, slots in (("Inputs", words["inputs"]), ("Outputs", words["outputs"])):
        rows = "".join(f"| `{slot['name']}` | {slot['tooltip']} |\n" for slot in slots.values())
        table = re.compile(rf"(^## {title}\n\n\| .*\n\|---\|---\|\n)((?:\| .*\n)*)", re.MULTILINE)
        page = table.sub(lambda match, rows=rows: match[1] + rows, page)
    return page


def main() -> None:
    before = json.loads(ENGLISH.read_text(encoding="utf-8"))
    now = {name: words_of(node) for name, node in NODES.items()}
    ENGLISH.write_text(json.dumps(now, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for name, words in now.items():
        page = ROOT / "web" / "docs" / f"{name}.md"
        if page.exists():
            page.write_text(with_tables(page.read_text("utf-8"), words), encoding="utf-8")
        else:
            print(f"write {page.relative_to(ROOT)}")
    old, new = flat(before), flat(now)
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            print(f"translate {path}: {old.get(path)!r} -> {new.get(path)!r}")


if __name__ == "__main__":
    main()
