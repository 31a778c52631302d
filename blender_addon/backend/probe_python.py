# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by a Python that may become the engine's: prints what it has as one line of JSON.

    python -I -B probe_python.py MODULE ...

Imports the modules, as an installed package may fail to load; writes nothing.
"""

import importlib
import json
import sys

MARK = "MARIGOLD PROBE "


def probe(names):
    versions, problems = {}, {}
    for name in names:
        try:
            module = importlib.import_module(name)
            versions[name] = str(getattr(module, "__version__", "?"))
        except ModuleNotFoundError as error:
            problems[name] = "is missing" if error.name == name else "lacks " + str(error.name)
        except BaseException as error:  # a library built for another one can raise anything
            lines = str(error).strip().splitlines() or [""]
            problems[name] = "does not load (%s: %s)" % (type(error).__name__, lines[0])  # noqa: UP031
    return {"versions": versions, "problems": problems, "device": "", "device_name": ""}


def find_device(found):
    import torch

    if torch.cuda.is_available():
        found["device"], found["device_name"] = "cuda", torch.cuda.get_device_name(0)
    elif torch.backends.mps.is_available():
        found["device"] = "mps"
    else:
        found["device"] = "cpu"


if __name__ == "__main__":
    found = probe(sys.argv[1:])
    if "torch" in found["versions"]:
        find_device(found)
    found["python"] = ".".join(str(number) for number in sys.version_info[:3])
    print(MARK + json.dumps(found))
