from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.cli.batch import plan
from marigold_core.errors import MarigoldError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def targets(items, folder: Path) -> dict[str, str]:
    return {
        item.source.relative_to(folder).as_posix(): item.target.relative_to(folder).as_posix()
        for item in items
    }


def test_a_folder_keeps_its_structure_and_only_its_pictures(tmp_path):
    touch(tmp_path, "in/b.JPG", "in/a.png", "in/sub/a.webp", "in/notes.txt", "in/.hidden.png")
    touch(tmp_path, "in/.cache/c.png")
    assert targets(plan([tmp_path / "in"], tmp_path / "out"), tmp_path) == {
        "in/a.png": "out/a",
        "in/b.JPG": "out/b",
        "in/sub/a.webp": "out/sub/a",
    }


def test_a_second_run_does_not_take_its_own_outputs(tmp_path):
    touch(tmp_path, "a.jpg", "out/x.png", "a_depth.png", "a_color.png", "far_depth.png")
    assert targets(plan([tmp_path], tmp_path / "out"), tmp_path) == {
        "a.jpg": "out/a",
        "far_depth.png": "out/far_depth",  # no picture `far` beside it: the user's own
    }
    assert len(plan([tmp_path / "a_depth.png"], tmp_path)) == 1  # named: meant


def test_same_name_in_two_folders(tmp_path):
    touch(tmp_path, "x/a.jpg", "y/a.jpg", "y/b.jpg")
    items = plan([tmp_path / "x" / "a.jpg", tmp_path / "y"], tmp_path / "out")
    assert targets(items, tmp_path) == {
        "x/a.jpg": "out/x/a",
        "y/a.jpg": "out/y/a",
        "y/b.jpg": "out/b",
    }


def test_same_name_but_for_the_suffix_or_the_case(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "B.png", "b.jpg")
    found = targets(plan([tmp_path], tmp_path / "out"), tmp_path)
    assert found == {
        "a.jpg": "out/a_jpg",
        "a.png": "out/a_png",
        "B.png": "out/B_png",
        "b.jpg": "out/b_jpg",
    }


def test_a_picture_named_twice_is_taken_once(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(plan(["a.jpg", tmp_path, tmp_path / "a.jpg"], "out")) == 1


def test_names_that_cannot_be_kept_apart_are_refused(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "a_jpg.png")
    with pytest.raises(MarigoldError, match="same output files"):
        plan([tmp_path], tmp_path / "out")


@pytest.mark.parametrize(("name", "words"), [("none", "no file or folder"), ("", "no pictures")])
def test_nothing_there(tmp_path, name, words):
    with pytest.raises(MarigoldError, match=words):
        plan([tmp_path / name], tmp_path / "out")


paths = st.lists(
    st.tuples(st.sampled_from(["x", "y", "x/z"]), st.sampled_from("aAb"), st.sampled_from("jp")),
    min_size=1,
    max_size=10,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(paths=paths, as_folder=st.booleans())
def test_no_two_pictures_ever_share_a_target(tmp_path_factory, paths, as_folder):
    root = tmp_path_factory.mktemp("pictures")
    names = [f"{folder}/{stem}.{'jpg' if kind == 'j' else 'png'}" for folder, stem, kind in paths]
    touch(root, *names)
    inputs = [root] if as_folder else [root / name for name in names]
    items = plan(inputs, root / "out")
    assert len(items) == len(names)
    assert len({item.target for item in items}) == len(items)
    assert all((root / "out") in item.target.parents for item in items)
