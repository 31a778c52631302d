"""What validates: a share of what is trained on, or the whole of a folder of its own."""

from __future__ import annotations

from argparse import Namespace

from data_builders import rendered_folder
from validation import validation_samples


def names(data: list[str], val_data: list[str] | None) -> list[str]:
    recipe = Namespace(
        target="depth", data=data, val_data=val_data, val_samples=64, resolution=None, farthest=None
    )
    return [sample.name for samples in validation_samples(recipe).values() for sample in samples]


def test_a_folder_of_its_own_validates_whole(tmp_path):
    trained = f"folder:{rendered_folder(tmp_path / 'trained', 40, 16, 16)}"
    own = rendered_folder(tmp_path / "own", 40, 16, 16)
    assert len(names([trained], None)) == len(names([trained], [trained])) == 2
    assert len(names([trained], [f"{trained}/../trained"])) == 2
    assert len(names([trained], [f"folder:{own}"])) == 40
    lines = (own / "manifest.jsonl").read_text().splitlines()
    lines[7] = lines[7].replace("{", '{"split": "val", ', 1)
    (own / "manifest.jsonl").write_text("\n".join(lines))
    assert len(names([trained], [f"folder:{own}"])) == 1
