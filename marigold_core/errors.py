"""Errors that the user can do something about, and how to recognise that memory ran out.

Front ends show the message without a traceback. No torch here.
"""

from __future__ import annotations

import unicodedata


class MarigoldError(ValueError):
    """Bad input; the message says in one line what was wrong and what to do."""

    def __init__(self, message: object = "") -> None:
        # Names of files and tensors come from strangers and end on a terminal.
        super().__init__(printable(str(message)))


class CheckpointError(MarigoldError):
    """A checkpoint that cannot be used; the message names the file and the fact."""


class Cancelled(MarigoldError):
    """Raised by a progress callback to stop a run; the engine stays usable."""


class MarigoldWarning(UserWarning):
    """The result is usable, but not what was asked for; the message says why."""


class EnsembleWarning(MarigoldWarning):
    """Some members, or frames, could not be aligned; the message names them and the reason."""


def printable(text: object) -> str:
    r"""`text` on one line, with control characters as escapes: "a\x1b[2J.png" for a real escape.

    Line breaks, terminal escapes, marks that reverse the direction of writing, and bytes of a file
    name that are not UTF-8 are shown, not obeyed.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in str(text)
    )


# How allocators say it when they raise a plain RuntimeError: torch's CPU allocator and MPS, cuBLAS
# and cuDNN (CUDA's caching allocator has a class of its own), and Metal.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "insufficient memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch.OutOfMemoryError, and what other allocators raise instead."""
    if isinstance(error, MemoryError) or any(
        cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__
    ):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
