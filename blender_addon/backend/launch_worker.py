# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the worker: python -I -B -u launch_worker.py ENGINE

ENGINE is the add-on's copy of the folder `marigold_core`. It becomes that package; nothing else
beside it (such as the wheels of other add-ons, built for Blender's Python) can be imported.
"""

import importlib.util
import os
import runpy
import sys

# The user may choose any Python, so older ones must be able to parse this file.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        f"{sys.executable} is Python {sys.version.split()[0]}; the engine needs 3.10 or newer."
    )


def main(engine):
    spec = importlib.util.spec_from_file_location(
        "marigold_core", os.path.join(engine, "__init__.py"), submodule_search_locations=[engine]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["marigold_core"] = package
    spec.loader.exec_module(package)
    try:
        runpy.run_module("marigold_core.worker", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable} has no {error.name}.")


if __name__ == "__main__":
    main(sys.argv[1])
