"""The training scripts are siblings in a folder, not a package: put that folder on the path.

Fixtures of the tests of finetune.py, which a file may replace by its own.
"""

import sys
from pathlib import Path

import pytest
from training_runs import SIX, build_base, build_pictures, flags, train

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return build_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def whole(base, pictures, tmp_path_factory):
    """A run that nothing stopped: 6 steps, a state and a validation every 2."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(flags(base, pictures, output, *SIX))
    return output
