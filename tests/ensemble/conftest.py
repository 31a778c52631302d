from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "ensemble.py"


@pytest.fixture(scope="session")
def benchmark():
    specification = importlib.util.spec_from_file_location("benchmarks_ensemble", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
