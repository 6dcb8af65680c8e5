"""The live view on a real (pseudo-)terminal: however it ends, the terminal is as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

UNIT = Path(__file__).parent
WAIT_SECONDS = 60.0
LEAVE = b"\x1b[?1049l"  # the alternate screen

PROGRAM = """
import sys
sys.path.insert(0, {unit!r})
from samples import FakeSource, row, snapshot
from hvtrace import cli
from hvtrace.errors import HvtraceError
from hvtrace.kernel import live

class Source(FakeSource):
    def close(self):
        super().close()
        open({log!r}, "a").write("closed ")

    def snapshot(self):
        if {vanish!r} and self.taken > 1:
            raise HvtraceError("KVM was unloaded")
        return super().snapshot()

def open_source(**more):
    if {refuse!r}:
        raise HvtraceError("tracing needs root")
    return Source(snapshot([row(code=2, latencies_ns=[700])]))

live.open_source = open_source
sys.argv = ["hvtrace", "top", "-i", "0.1"]
cli.main()
"""


def _control() -> None:
    """Make the terminal the session's: what ends it, ends who uses it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """`hvtrace top` over a fake source, on a terminal of 80x24."""

    def __init__(
        self,
        folder: Path,
        *,
        refuse: bool = False,
        vanish: bool = False,
        term: str = "xterm-256color",
        environ: dict[str, str] | None = None,
    ) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        program = PROGRAM.format(unit=str(UNIT), log=str(self.log), refuse=refuse, vanish=vanish)
        # Not the size that pytest-xdist says: the terminal has its own.
        known = {name: os.environ[name] for name in os.environ.keys() - {"COLUMNS", "LINES"}}
        self.child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=known | {"TERM": term, "XDG_CONFIG_HOME": str(folder), **(environ or {})},
            start_new_session=True,
            preexec_fn=_control,  # noqa: PLW1509 - no thread of ours holds a lock
        )
        self.theirs = theirs
        self.seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self.ours)
        os.close(self.theirs)

    def read(self, seconds: float) -> None:
        if select.select([self.ours], [], [], seconds)[0]:
            self.seen += os.read(self.ours, 65536)

    def until(self, text: bytes) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            self.read(0.1)

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        end = time.monotonic() + WAIT_SECONDS
        while self.child.poll() is None:
            assert time.monotonic() < end, self.seen
            self.read(0.05)
        while select.select([self.ours], [], [], 0)[0]:
            self.read(0)
        assert b"Traceback" not in self.seen
        assert termios.tcgetattr(self.theirs) == self.before
        return self.child.returncode


def _resize(terminal: Terminal, rows: int, columns: int) -> None:
    """As a window is: the kernel sends SIGWINCH."""
    size = struct.pack("HHHH", rows, columns, 0, 0)
    fcntl.ioctl(terminal.theirs, termios.TIOCSWINSZ, size)


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_a_key_ends_it(tmp_path, key):
    with Terminal(tmp_path) as terminal:
        terminal.until(b"Flush")
        os.write(terminal.ours, key)
        assert terminal.ended() == 0
        assert LEAVE in terminal.seen
        assert terminal.log.read_text() == "closed "


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it(tmp_path, number):
    with Terminal(tmp_path) as terminal:
        terminal.until(b"Flush")
        terminal.child.send_signal(number)
        assert terminal.ended() == 0
        assert LEAVE in terminal.seen
        assert terminal.log.read_text() == "closed "


@pytest.mark.parametrize(
    ("what", "line"),
    [("refuse", b"hvtrace: tracing needs root"), ("vanish", b"hvtrace: KVM was unloaded")],
)
def test_an_error_is_one_line_after_the_screen_is_left(tmp_path, what, line):
    with Terminal(tmp_path, **{what: True}) as terminal:
        assert terminal.ended() == 1
        after = terminal.seen.rpartition(LEAVE)[2]
        assert line + b"\r\n" in after
        assert terminal.log.read_text() == ("closed " if what == "vanish" else "")


@pytest.mark.parametrize("stalled", [False, True])
def test_a_terminal_that_goes_away_ends_it(tmp_path, stalled):
    """An ssh that is cut off, a window that is closed: nothing goes on without being seen."""
    with Terminal(tmp_path) as terminal:
        terminal.until(b"Flush")
        if stalled:  # nobody reads: the program waits for the terminal, and goes no further
            time.sleep(1)
            for rows in (40, 24, 41, 25, 42, 26, 43, 27):
                _resize(terminal, rows, 200)
                time.sleep(0.1)
        for end in (terminal.theirs, terminal.ours):
            os.close(end)
        terminal.ours, terminal.theirs = os.openpty()  # to be closed at the end
        terminal.child.wait(WAIT_SECONDS)
        assert terminal.log.read_text() == "closed "


def test_stopped_and_continued(tmp_path):
    with Terminal(tmp_path) as terminal:
        terminal.until(b"Flush")
        os.write(terminal.ours, b"\x1a")
        _, status = os.waitpid(terminal.child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        terminal.until(LEAVE)
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        terminal.seen = b""
        terminal.child.send_signal(signal.SIGCONT)
        terminal.until(b"Flush")
        os.write(terminal.ours, b"q")
        assert terminal.ended() == 0


def test_resized(tmp_path):
    with Terminal(tmp_path) as terminal:
        terminal.until(b"Flush")
        assert b"minute" not in terminal.seen
        _resize(terminal, 40, 120)
        terminal.until(b"minute")
        os.write(terminal.ours, b"q")
        assert terminal.ended() == 0


def test_a_dumb_terminal_is_refused(tmp_path):
    with Terminal(tmp_path, term="dumb") as terminal:
        assert terminal.ended() == 1
        line = b"hvtrace: top needs a terminal; without one: hvtrace top --batch\r\n"
        assert terminal.seen == line
        assert terminal.log.read_text() == ""


def test_a_terminal_without_utf_8_is_refused(tmp_path):
    latin = {"PYTHONIOENCODING": "iso-8859-1"}
    with Terminal(tmp_path, environ=latin) as terminal:
        assert terminal.ended() == 1
        line = b"hvtrace: top needs UTF-8: set LC_ALL=C.UTF-8, or use hvtrace top --batch\r\n"
        assert terminal.seen == line


@pytest.mark.parametrize("term", ["linux", "screen", "xterm-16color", "vt100"])
def test_colours_are_the_terminals_own(tmp_path, term):
    """Sixteen at most but for those of a heatmap: right on dark screens and on light ones."""
    with Terminal(tmp_path, term=term, environ={"COLORTERM": ""}) as terminal:
        terminal.until(b"Flush")
        os.write(terminal.ours, b"q")
        assert terminal.ended() == 0
        assert b"38;2;" not in terminal.seen
        assert b"48;2;" not in terminal.seen
        assert b"38;5;" not in terminal.seen


def test_no_colour(tmp_path):
    with Terminal(tmp_path, environ={"NO_COLOR": "1"}) as terminal:
        terminal.until(b"Flush")
        os.write(terminal.ours, b"q")
        assert terminal.ended() == 0
        styles = re.findall(rb"\x1b\[([0-9;]+)m", terminal.seen)
        codes = {int(code) for style in styles for code in style.split(b";")}
        assert 7 in codes  # the cursor is seen all the same
        assert not codes & {*range(30, 39), *range(40, 49), *range(90, 108)}
