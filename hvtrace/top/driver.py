"""Textual's terminal, but for one that goes away."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TextIO

from textual.drivers.linux_driver import LinuxDriver


class Lasting:
    """A terminal's file; where the terminal is gone, what is written goes nowhere."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write, or not."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """Flush, or not."""
        with suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)


class LastingDriver(LinuxDriver):
    """Its thread that writes does not end with the terminal.

    Who waits for that thread with a full queue (an ssh that stalls, and is cut off then) would
    wait for ever, and the probes would stay.
    """

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **more)
        self._file: Any = Lasting(self._file)
