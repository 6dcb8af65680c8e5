"""`hvtrace top` as it runs for long, on a terminal, with many VMs: what it takes, how fast it is.

200 processes of 8 threads --BPF_PROG_TEST_RUN--> the programs that `hvtrace top` has loaded
a pseudo-terminal          <--pictures, keys-->   hvtrace top
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte

from benchmarks import memory
from benchmarks.process import attached, descriptor, until_attached
from benchmarks.scale import some_codes
from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf
from hvtrace.kernel.programs import EVENTS

VMS, CALLS, VCPUS = 200, 20, 8
SLOTS = 32768
SIZE = f"{VMS} VMs x {CALLS} calls x {VCPUS} vCPUs"
ROWS, COLUMNS = 40, 120
SETTLED_SECONDS, MEASURED_SECONDS = 30.0, 30.0
KEYS = {
    "2": b"2", "3": b"3", "4": b"4", "5": b"5", "VM and call": b"1",
    "sort": b"\x1b[C", "turn": b"s", "scope": b"t", "down": b"\x1b[B", "end": b"\x1b[F",
    "filter": b"/", "a letter": b"w", "Esc": b"\x1b", "detail": b"\r", "out of it": b"q",
    "slow calls": b"l", "and back": b"q", "help": b"?", "close": b"q", "back": b"[",
    "back again": b"[", "forth": b"]", "live": b"p",
}  # fmt: skip
_WAIT_SECONDS = 60.0
_QUIET_SECONDS = 0.15  # after which nothing more comes of a key
_STACK_BYTES = 1 << 16


def figures() -> dict[str, float]:
    """{"top/SIZE/measure": value}. Raises HvtraceError where it does not start."""
    return {f"top/{SIZE}/{name}": value for name, value in measure().items()}


def measure() -> dict[str, float]:
    """{measure: value}."""
    with Terminal() as terminal:
        until_attached(terminal.pid)
        begin = time.monotonic()
        terminal.until(rb"\d VMs")
        found = {"first picture after the attach, s": time.monotonic() - begin}
        with _guests(terminal.pid):
            terminal.until(f"{VMS} VMs".encode())
            terminal.read_for(SETTLED_SECONDS)
            before = _cpu_seconds(terminal.pid)
            terminal.read_for(MEASURED_SECONDS)
            used = _cpu_seconds(terminal.pid) - before
            found["of a core, %"] = 100 * used / MEASURED_SECONDS
            found |= memory.resident(terminal.pid)
            found["resident at most, MiB"] = _most_resident(terminal.pid)
            answers = {name: terminal.answer_ms(key) for name, key in KEYS.items()}
            # Textual looks every 100 ms whether an Esc was a key, or began a sequence.
            found["Esc, ms"] = answers.pop("Esc")
            found["a key, median, ms"] = statistics.median(answers.values())
            slowest = max(answers, key=answers.__getitem__)
            found["a key, slowest, ms"] = answers[slowest]
            found |= {f"key: {name}, ms": value for name, value in answers.items()}
        terminal.key(b"q")
    return found


class Terminal:
    """`hvtrace top` on a pseudo-terminal that reads what it writes."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        argv = [sys.executable, "-m", "hvtrace", "top", "--anyway", "--slots", str(SLOTS)]
        self._process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(theirs)
        self._seen = b""
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._emulator = pyte.ByteStream(self._screen)

    @property
    def pid(self) -> int:
        """Of hvtrace."""
        return self._process.pid

    def __enter__(self) -> Terminal:
        # Nobody else reads while it starts, and a terminal that is full would hold it up.
        self._reader = threading.Thread(target=self._drain_until_attached, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(OSError):
            while self._process.poll() is None:
                self._read(0.1)
        os.close(self._ours)

    def _drain_until_attached(self) -> None:
        while self._process.poll() is None and not attached(self.pid):
            self._read(0.05)

    def _read(self, seconds: float) -> bytes:
        if not select.select([self._ours], [], [], seconds)[0]:
            return b""
        found = os.read(self._ours, 1 << 16)
        self._seen = (self._seen + found)[-(1 << 18) :]
        return found

    def until(self, pattern: bytes) -> None:
        """Read until `pattern` is there. Raises HvtraceError where it does not come."""
        self._reader.join()
        end = time.monotonic() + _WAIT_SECONDS
        while not re.search(pattern, self._seen):
            if time.monotonic() > end or self._process.poll() is not None:
                raise HvtraceError(f"hvtrace top shows no {pattern!r}: {self._seen[-300:]!r}")
            self._read(0.01)

    def read_for(self, seconds: float) -> None:
        """Read, as a terminal does."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._read(min(left, 0.1))

    def key(self, key: bytes) -> None:
        """Type."""
        os.write(self._ours, key)

    def answer_ms(self, key: bytes) -> float:
        """Milliseconds from a key until its picture is whole.

        Textual writes much of a picture twice: what changes nothing on the screen is no part of
        the answer. That is looked at when all has been read.
        """
        before = self._answer(1.5)  # a picture of its own, so that none comes between
        begin = time.monotonic()
        self.key(key)
        answer = self._answer(_WAIT_SECONDS)
        if not answer:
            raise HvtraceError(f"hvtrace top does not answer to {key!r}")
        for _, written in before:
            self._emulator.feed(written)
        end, shown = begin, self._shown()
        for at, written in answer:
            self._emulator.feed(written)
            if shown != (shown := self._shown()):
                end = at
        return (end - begin) * 1e3

    def _answer(self, seconds: float) -> list[tuple[float, bytes]]:
        """What is written within `seconds`, and until nothing more comes: when, and what."""
        found = []
        while written := self._read(_QUIET_SECONDS if found else seconds):
            found.append((time.monotonic(), written))
        return found

    def _shown(self) -> list[list[pyte.screens.Char]]:
        """Every cell of the screen, with its colours."""
        lines = (self._screen.buffer[y] for y in range(ROWS))
        return [[line[x] for x in range(COLUMNS)] for line in lines]


@contextmanager
def _guests(pid: int) -> Iterator[None]:
    """Processes whose threads call each second, by the programs that process `pid` has."""
    programs = [descriptor(one["id"]) for one in memory.programs(pid)]
    by_event = dict(zip(EVENTS, programs, strict=False))
    children = []
    try:
        for number in range(VMS):
            child = os.fork()
            if child == 0:
                _be_a_guest(number, by_event)
            children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        for fd in programs:
            os.close(fd)


def _be_a_guest(number: int, programs: dict[str, int]) -> None:
    """Make every call once a second on each thread, until killed."""
    done = bpf.RawTracepointRun(programs["kvm_hv_hypercall_done"], 0)
    start = programs["kvm_hv_hypercall"]
    starts = [bpf.RawTracepointRun(start, c, 0, 0, 0, 0, 0x1000, 0) for c in some_codes(CALLS)]

    def vcpu() -> None:
        while True:
            for call in starts:
                call.run()
                done.run()
            time.sleep(1 - (time.time() + number / VMS) % 1)  # each VM at its own time

    threading.stack_size(_STACK_BYTES)
    for _ in range(VCPUS):
        threading.Thread(target=vcpu, daemon=True).start()
    signal.pause()
    os._exit(0)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process: proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _most_resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024
