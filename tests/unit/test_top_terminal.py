"""The live view on a real (pseudo-)terminal: however it ends, the terminal is as it was."""

from __future__ import annotations

import fcntl
import os
import pty
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


class Terminal:
    """`hvtrace top` over a fake source, on a terminal of 80x24."""

    def __init__(
        self,
        folder: Path,
        *,
        refuse: bool = False,
        vanish: bool = False,
        term: str = "xterm-256color",
    ) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        program = PROGRAM.format(unit=str(UNIT), log=str(self.log), refuse=refuse, vanish=vanish)
        self.child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": term},
            start_new_session=True,
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


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_a_key_ends_it(tmp_path, key):
    with Terminal(tmp_path) as terminal:
        terminal.until(b"Flush")
        os.write(terminal.ours, key)
        assert terminal.ended() == 0
        assert LEAVE in terminal.seen
        assert terminal.log.read_text() == "closed "


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
        assert b"xmm-out" not in terminal.seen
        fcntl.ioctl(terminal.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        terminal.child.send_signal(signal.SIGWINCH)
        terminal.until(b"xmm-out")
        os.write(terminal.ours, b"q")
        assert terminal.ended() == 0


def test_a_dumb_terminal_is_refused(tmp_path):
    with Terminal(tmp_path, term="dumb") as terminal:
        assert terminal.ended() == 1
        line = b"hvtrace: top needs a terminal; without one: hvtrace top --batch\r\n"
        assert terminal.seen == line
        assert terminal.log.read_text() == ""
