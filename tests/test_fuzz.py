"""What fuzzing once found stays mended; `python tests/fuzz.py` looks for more."""

from __future__ import annotations

import fuzz
import pytest

pytestmark = pytest.mark.usefixtures("user_cache")


@pytest.mark.parametrize("name", fuzz.READERS)
def test_kept_inputs_and_some_new_ones(name):
    pytest.importorskip("accelerate" if name == "states" else "OpenEXR")
    kept = len(list((fuzz.CORPUS / name).glob("*")))
    sound = len(fuzz.READERS[name].seeds())
    counts = fuzz.run_reader(name, seconds=60, seed=1, most=sound + kept + 12)
    assert counts["inputs"] == sound + kept + 12
    assert counts["taken"] >= min(sound, 1)
