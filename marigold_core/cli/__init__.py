"""The command `marigold`: arguments, what each command does, and what it prints."""

from .arguments import main

__all__ = ["main"]
