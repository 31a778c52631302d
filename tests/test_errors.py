from __future__ import annotations

import pytest

from marigold_core.errors import CheckpointError, MarigoldError, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("写真 é\u3000🌼.png", "写真 é\u3000🌼.png"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("two\nlines\r", r"two\nlines\r"),
        ("gnp.\u202ephoto", r"gnp.\u202ephoto"),
        ("not-utf8-\udcff", r"not-utf8-\udcff"),
        ("\x9b31m\x7f\u2028", r"\x9b31m\x7f\u2028"),
    ],
)
def test_names_from_strangers_cannot_steer_a_terminal(name, shown):
    assert printable(name) == shown
    for kind in (MarigoldError, CheckpointError):
        assert str(kind(f"{name} is broken.")) == f"{shown} is broken."
