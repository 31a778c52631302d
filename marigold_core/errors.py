"""What goes wrong in a way that the user can mend: one sentence, no traceback at the doors."""


class MarigoldError(ValueError):
    """Bad input; the message says in one sentence what was wrong and what to do."""


class CheckpointError(MarigoldError):
    """A checkpoint that cannot be used; the message names the file and the fact."""


class Cancelled(MarigoldError):
    """Raised by a progress callback to stop a run; the engine stays usable."""


class MarigoldWarning(UserWarning):
    """The result is usable, but not what was asked for; the message says why."""


class EnsembleWarning(MarigoldWarning):
    """Some members, or frames, could not be aligned; the message names them and the reason."""
