"""`python -m marigold_core` is the `marigold` command."""

import sys

from .cli.arguments import main

sys.exit(main())
