"""The one error that reaches a user: a clear line, and an exit status."""


class HvtraceError(Exception):
    """Something failed that a user can act on.

    The text is one line that says what happened and what to do; the command
    line prints it behind ``hvtrace: `` on stderr and exits with status 1.
    """
