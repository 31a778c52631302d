"""The training scripts are siblings in a folder, not a package: put that folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))
