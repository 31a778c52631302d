"""The worker's methods for normals and intrinsic images: what the engine itself returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checkpoint_builders import build_checkpoint

from marigold_core import Marigold
from marigold_core.errors import MarigoldError
from marigold_core.worker.methods import Session

PICTURE = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
SETTINGS: dict[str, Any] = {"seed": 7, "processing_resolution": 64, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    families = ("normals-v1-1", "iid-appearance", "iid-lighting")
    return {family: build_checkpoint(root / family, family) for family in families}


def ask(session: Session, method: str, folder: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    model = {"checkpoint": str(folder), "device": "cpu"}
    params = {"model": model, **SETTINGS}
    return session.call(method, params, {"image": PICTURE}, lambda *progress: None)


def test_normals_and_intrinsic_images_are_the_engines(folders):
    session = Session()
    for family in folders:
        expected = Marigold.from_pretrained(folders[family], device="cpu")(PICTURE, **SETTINGS)
        method = "normals" if family == "normals-v1-1" else "intrinsics"
        result, arrays = ask(session, method, folders[family])
        assert result["model"]["checkpoint"] == str(folders[family])
        if method == "normals":
            assert set(arrays) == {"normals"}
            assert (arrays["normals"] == expected.normals).all()
        else:
            assert list(arrays) == list(expected.maps)
            for name, values in arrays.items():
                assert (values == expected.linear(name)).all(), name
            assert result["up_to_scale"] == sorted(expected.up_to_scale)


def test_one_checkpoint_is_loaded_at_a_time(folders, monkeypatch):
    session, loaded = Session(), []

    def load(folder: str, **words: Any) -> Marigold:
        loaded.append(session.loaded)  # None: the one before is freed first
        return original(folder, **words)

    original = Marigold.from_pretrained
    monkeypatch.setattr(Marigold, "from_pretrained", load)
    for method, family in (
        ("normals", "normals-v1-1"), ("normals", "normals-v1-1"), ("intrinsics", "iid-lighting"),
    ):  # fmt: skip
        ask(session, method, folders[family])
    assert loaded == [None, None]


def test_a_checkpoint_for_something_else_is_named(folders):
    with pytest.raises(MarigoldError, match="estimates intrinsic images"):
        ask(Session(), "normals", folders["iid-appearance"])
