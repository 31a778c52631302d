"""`python -m marigold_core.worker` serves requests on stdin; see `server.py`."""

from .server import main

main()
