"""Lines on stderr about what takes time; on a terminal a count replaces itself."""

from __future__ import annotations

import sys
from typing import TextIO


class Progress:
    """Where the lab reports what it does.

    Args:
        out: standard error, unless a test wants to see it.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stderr
        self._live = self._out.isatty()
        self._open = False

    def say(self, text: str) -> None:
        """One line that stays."""
        self._end_count()
        print(text, file=self._out, flush=True)

    def count(self, text: str) -> None:
        """A line that the next one replaces; nothing where there is no terminal."""
        if self._live:
            print(f"\r\033[K{text}", end="", file=self._out, flush=True)
            self._open = True

    def _end_count(self) -> None:
        if self._open:
            print("\r\033[K", end="", file=self._out)
            self._open = False
