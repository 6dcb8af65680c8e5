"""The user's terminal: taken when the command first prints, given back as it was."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import signal
import struct
import sys
import termios

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import front
from hvtrace.lab.progress import Progress

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class User:
    """Sits at the other end of a terminal."""

    def __init__(self) -> None:
        self.end, self.terminal = pty.openpty()
        self.resize(31, 97)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def types(self, data: bytes) -> None:
        os.write(self.end, data)

    def sees(self, until: bytes) -> bytes:
        """What has come by the time that the given bytes have; it comes in pieces."""
        seen = b""
        while until not in seen:
            seen += os.read(self.end, 65536)
        return seen

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.terminal)[3] & termios.ICANON


@pytest.fixture
def user():
    someone = User()
    before = signal.getsignal(signal.SIGWINCH)
    yield someone
    signal.signal(signal.SIGWINCH, before)
    os.close(someone.terminal)
    os.close(someone.end)


@pytest.fixture
def terminal(user) -> front.Terminal:
    return front.Terminal(user.terminal, user.terminal)


def test_until_the_command_prints_the_terminal_is_the_users(user, terminal):
    assert terminal.window == (31, 97)
    assert terminal.keyboard is None
    assert not user.is_raw
    terminal.release()
    assert not user.is_raw


def test_from_then_on_every_byte_passes_untouched(user, terminal):
    terminal.show(b"a\nb")
    assert user.is_raw
    assert user.sees(b"b") == b"a\nb"
    assert terminal.keyboard == user.terminal
    user.types(b"\x03\x1b[A\r")
    assert terminal.typed() == b"\x03\x1b[A\r"
    terminal.release()
    assert not user.is_raw
    assert terminal.keyboard is None


def test_all_modes_come_back(user, terminal):
    before = termios.tcgetattr(user.terminal)
    terminal.show(b"x")
    assert termios.tcgetattr(user.terminal) != before
    terminal.release()
    assert termios.tcgetattr(user.terminal) == before


def test_one_key_ends_the_vm(user, terminal):
    terminal.show(b"x")
    user.types(b"a" + front.STOP_KEY)
    with pytest.raises(HvtraceError, match="stopped"):
        terminal.typed()
    terminal.release()
    assert not user.is_raw


def test_a_program_that_left_in_order_is_left_alone(user, terminal):
    terminal.show(ENTER + b"picture" + LEAVE)
    terminal.release()
    user.types(b"\r")
    assert user.sees(b"\n") == ENTER + b"picture" + LEAVE + b"\r\n"  # and the echo


@pytest.mark.parametrize("parts", [(ENTER, b"picture"), (ENTER + LEAVE + ENTER,)])
def test_after_a_program_that_died_the_screen_is_put_back(user, terminal, parts):
    for part in parts:
        terminal.show(part)
    terminal.release()
    seen = user.sees(b"\x1b[0m")
    assert seen.startswith(b"".join(parts))
    rest = seen[len(b"".join(parts)) :]
    assert LEAVE in rest
    assert b"\x1b[?25h" in rest
    terminal.release()
    user.types(b"\r")
    assert user.sees(b"\n") == b"\r\n"  # nothing but the echo: released once is enough


def test_a_changed_window_is_told_once(user, terminal):
    assert terminal.resized() is None
    user.resize(50, 132)
    signal.raise_signal(signal.SIGWINCH)
    assert terminal.resized() == (50, 132)
    assert terminal.resized() is None


def test_here_is_a_terminal(user, monkeypatch):
    with open(user.terminal, "r+b", buffering=0, closefd=False) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        found = front.here()
    assert isinstance(found, front.Terminal)
    assert found.window == (31, 97)


def test_here_is_a_pipe_when_one_end_is(user, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    with open(user.terminal, "r+b", buffering=0, closefd=False) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "stdout", out)
        pipe = front.here()
        pipe.show(b"\xe2\x82")
        pipe.show(b"\xac\n")  # half a character at a time, and seen at once
    assert out.buffer.getvalue() == b"\xe2\x82\xac\n"
    assert (pipe.window, pipe.keyboard, pipe.resized(), pipe.typed()) == (None, None, None, b"")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal():
    out = Terminal()
    progress = Progress(out)
    progress.say("fetching")
    progress.count("1 of 2 MB")
    progress.count("2 of 2 MB")
    progress.say("done")
    clear = "\r\033[K"
    assert out.getvalue() == f"fetching\n{clear}1 of 2 MB{clear}2 of 2 MB{clear}done\n"


def test_progress_in_a_pipe_has_no_counts():
    out = io.StringIO()
    progress = Progress(out)
    progress.say("fetching")
    progress.count("1 of 2 MB")
    progress.say("done")
    assert out.getvalue() == "fetching\ndone\n"
