"""Who sits before the VM: a pipe, or the user at a terminal."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Callable
from types import FrameType
from typing import Any

from hvtrace.errors import HvtraceError

_ALTERNATE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
# Out of the alternate screen; cursor on; mouse, focus, paste and kitty key reports off.
_SANE = (
    b"\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1004l\x1b[?2004l\x1b[?2048l\x1b[<u"
    b"\x1b[?1049l\x1b[?25h\x1b[0m"
)
STOP_KEY = b"\x1d"  # Ctrl-], as in telnet: every other key belongs to the program inside


class Front:
    """Hands on what the command inside prints; nobody types.

    Args:
        write: takes the bytes as they come.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    @property
    def window(self) -> tuple[int, int] | None:
        """(rows, columns) of the terminal that the command shall have; None for a pipe."""
        return None

    @property
    def keyboard(self) -> int | None:
        """A descriptor that is readable when the user has typed; None while there is none."""
        return None

    def show(self, data: bytes) -> None:
        """Some of what the command printed."""
        self._write(data)

    def typed(self) -> bytes:
        """What the user typed."""
        return b""

    def resized(self) -> tuple[int, int] | None:
        """The window's new (rows, columns), once after each change."""
        return None

    def release(self) -> None:
        """The VM is gone: leave everything as it was found."""


class Terminal(Front):
    """The user's terminal, given to the command inside.

    It is taken (raw mode) when the command first prints, so that until then Ctrl-C
    means what it always means; from then on `STOP_KEY` ends the VM.

    Args:
        keyboard, screen: descriptors of the terminal, to read from and to write to.
    """

    def __init__(self, keyboard: int, screen: int) -> None:
        super().__init__(self._write_out)
        self._in = keyboard
        self._out = screen
        self._found: list[Any] | None = None
        self._is_resized = False
        self._alternate = False
        signal.signal(signal.SIGWINCH, self._on_resize)

    @property
    def window(self) -> tuple[int, int]:
        """The size of the user's window now."""
        columns, rows = os.get_terminal_size(self._out)
        return rows, columns

    @property
    def keyboard(self) -> int | None:
        """The terminal, from the moment the terminal was taken."""
        return self._in if self._found is not None else None

    def show(self, data: bytes) -> None:
        """Write to the terminal, which is taken first."""
        if self._found is None:
            self._found = termios.tcgetattr(self._in)
            tty.setraw(self._in)
        on, off = (data.rfind(mark) for mark in _ALTERNATE_SCREEN)
        if on != off:
            self._alternate = on > off
        self._write(data)

    def typed(self) -> bytes:
        """What the user typed.

        Raises:
            HvtraceError: it was `STOP_KEY`.
        """
        data = os.read(self._in, 4096)
        if not data or STOP_KEY in data:
            raise HvtraceError("stopped")
        return data

    def resized(self) -> tuple[int, int] | None:
        """The window's size, when it has changed since the last call."""
        was, self._is_resized = self._is_resized, False
        return self.window if was else None

    def release(self) -> None:
        """Put the terminal back as it was."""
        if self._found is None:
            return
        if self._alternate:  # the program inside did not get to put it back
            os.write(self._out, _SANE)
            self._alternate = False
        termios.tcsetattr(self._in, termios.TCSAFLUSH, self._found)
        self._found = None

    def _write_out(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    def _on_resize(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_resized = True


def here() -> Front:
    """The terminal this process runs in, or its standard output where it has none."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return Terminal(sys.stdin.fileno(), sys.stdout.fileno())

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    return Front(write)
