"""One run of the live view, in tmux, beside guests of which everything is known: what was seen.

Starting the view takes most of the time in an emulated machine, so it is started once: guests make
prime numbers of calls and rest while it is read at three sizes; then slow calls, and a minute of
typing while VMs come and go. Another `hvtrace top --batch --json` writes all the time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hvtrace.stats.snapshot import RecordingEnded
from hvtrace.top.columns import BY_KEY
from hvtrace.top.model import Model
from hvtrace.top.replay import Replay
from hvtrace.top.sheet import Scope, View, sheet
from tests.host.made import (
    VCPUS,
    VMS,
    Made,
    grouped,
    of_ledger,
)
from tests.host.reading import (
    Row,
    find,
    name_of,
    rows,
)
from tests.host.typist import guests, type_for_a_minute
from tests.tmux import HVTRACE, WAIT_SECONDS, Terminal, programs
from tests.vm.test_round_trip import Guest, close_vms, logging, machine
from tests.vm.test_single_calls import Logged, logged_calls

SIZES = ((80, 24), (120, 40), (200, 60))
GROUPINGS = {"1": "VM+call", "2": "VM", "3": "call", "4": "vCPU", "5": "host"}

LIMIT, LIMIT_NS, SLEEP_SECONDS = "250ms", 0.25e9, 0.6
"""Slow calls: the limit, and what the VMM takes for every third of them."""

DETAILS = {
    "post": ("1", "prime-1 post"),
    "vm": ("2", "prime-2"),
    "host": ("5", "0x"),
}
"""Rows whose detail is read: the key of their grouping, and a filter that only they match."""

REPLAYED = [
    "vm",
    "call",
    "calls",
    "mean",
    "p50",
    "p99",
    "max",
    "fast",
    "xmm",
    "vmm",
    "fail",
    "unfin",
    "xmm-out",
]


@dataclass
class Seen:
    """All that was read, and the truth."""

    ledger: dict[str, Any] = field(default_factory=dict)
    tables: dict[tuple[tuple[int, int], str], list[Row]] = field(default_factory=dict)
    details: dict[str, list[str]] = field(default_factory=dict)
    bottom: list[str] = field(default_factory=list)  # the lines of the screen that are always true
    programs: int = 0  # of BPF, that the view brought into the kernel
    slow: list[str] = field(default_factory=list)
    logged: list[tuple[Logged, int]] = field(default_factory=list)
    intervals: list[dict[str, Any]] = field(default_factory=list)
    replayed: list[Row] = field(default_factory=list)
    typed: Counter[str] = field(default_factory=Counter)
    last: dict[str, Any] = field(default_factory=dict)  # the ledger of the last guests
    last_rows: list[Row] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def made(self) -> list[Made]:
        return [of_ledger(call) for call in self.ledger["calls"]]

    @property
    def told(self) -> list[dict[str, Any]]:
        """Calls of the guests in all intervals."""
        calls = [call for interval in self.intervals for call in interval["calls"]]
        return [call for call in calls if call["vm"]["name"].startswith("prime-")]


def read_table(view: Terminal, expected: int, of: str = "") -> list[Row]:
    """All rows, page by page; with `of`, those of VMs that are named so."""
    found: dict[tuple[str, ...], Row] = {}

    def all_there(lines: list[str]) -> bool:
        named = {name_of(row): row for row in rows(lines)}
        found.update({name: row for name, row in named.items() if name[0].startswith(of)})
        return len(found) >= expected

    view.type("Home")
    deadline = time.monotonic() + 60
    while not all_there(view.until("Pause")):
        assert time.monotonic() < deadline, view.lines
        view.type("PageDown")
        time.sleep(0.3)
    return list(found.values())


def read_detail(view: Terminal, grouping: str, words: str) -> list[str]:
    """All that is known of the only row that matches `words`."""
    view.type(grouping, "/")
    view.until("keeps the filter")
    view.write(words)
    view.type("Enter")
    view.until(f"/{words}: 1 row")
    view.type("Enter")
    lines = view.until(lambda lines: "Previous row" in lines[-1] and find(lines, "Sizes ─"))
    view.type("Escape")
    view.until("Group")
    view.type("Escape")
    view.until(lambda lines: "Esc drops" not in "\n".join(lines))
    return lines


def leave_slowly(found: list[int]) -> None:
    """A VMM that takes its time for every third of 17 calls, in this process."""
    found.append(threading.get_native_id())
    guest = Guest(machine(1), 0)
    for i in range(17):
        guest.leave()
        time.sleep(SLEEP_SECONDS if i % 3 == 0 else 0)
        guest.until_stop()
    guest.call_kernel(23)


def run(folder: Path, view: Terminal) -> Seen:
    """Both views first, then the guests; they are held until everything has been read."""
    seen, lines = Seen(), folder / "lines"
    guest = [HVTRACE, "guest", "--mix", str(folder / "prime.json"), "--json", "--vcpus", "2"]
    before = programs()
    view.run("top", "-i", "5", "--slow", LIMIT)
    view.until("No VM makes hypercalls")
    seen.programs = len(programs() - before)
    with lines.open("w") as file, tracing(file) as tracer:
        wait_for_lines(lines, 1)
        with held([*guest, "--vms", str(VMS)]) as process:
            seen.ledger = json.loads(said(process))
            wait_for_lines(lines)
            seen.replayed = replayed(lines)
            for size in SIZES:
                view.resize(*size)
                read_all(view, seen, size)
            view.resize(100, 150)
            seen.details = {name: read_detail(view, *how) for name, how in DETAILS.items()}
            view.resize(*SIZES[1])  # there is room for all of the last line
            release = seen.ledger["kernel"]
            seen.bottom = view.until(lambda lines: "Quit" in lines[-1] and release in lines[-2])
            view.resize(*SIZES[0])
            read_slow(view, seen)
            wait_for_lines(lines)
        view.resize(160, 40)
        seen.typed, seen.last, seen.last_rows = type_and_count(view, guest)
        view.type("q")
        seen.statuses["top"] = view.status()
    seen.statuses["batch"] = tracer.returncode
    seen.intervals = [json.loads(line) for line in lines.read_text().splitlines()]
    return seen


@contextmanager
def tracing(file: TextIO) -> Iterator[subprocess.Popen[str]]:
    """Another tracer, that writes lines of JSON until the end."""
    command = [HVTRACE, "top", "--batch", "--json", "-i", "1", "--slow", LIMIT]
    with subprocess.Popen(command, stdout=file, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


@contextmanager
def held(guest: list[str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """A guest that makes its calls and rests until it has been looked at."""
    pipe = subprocess.PIPE
    command = [*guest, "--hold", *options]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        # Leaving closes its stdin, and so ends it.
    assert process.returncode == 0


def said(process: subprocess.Popen[str]) -> str:
    """The next line of a guest."""
    assert process.stdout is not None
    return process.stdout.readline()


def replayed(lines: Path) -> list[Row]:
    """What the view would show of a recording in the end, by its own arithmetic."""
    model, source = Model(), Replay(lines)
    with suppress(RecordingEnded):
        while True:
            frame = model.feed(source.snapshot())
    shown = sheet(frame, View(scope=Scope.TOTAL))
    texts = [BY_KEY[key].texts(shown) for key in REPLAYED]
    return [dict(zip(REPLAYED, row, strict=True)) for row in zip(*texts, strict=True)]


def read_slow(view: Terminal, seen: Seen) -> None:
    """The pane of slow calls, and the kernel's log of the same."""
    tids: list[int] = []
    with logging() as log:
        work = threading.Thread(target=leave_slowly, args=(tids,))
        work.start()
        work.join()
        seen.logged = logged_calls(log.read())[tids[0]]
    close_vms()
    view.type("l")
    seen.slow = view.until(lambda lines: sum("vmm    mem" in line for line in lines) >= 6)
    view.type("q")
    view.until("Group")


def type_and_count(
    view: Terminal, guest: list[str]
) -> tuple[Counter[str], dict[str, Any], list[Row]]:
    """A minute of typing, then a reset; what was typed, and what guests after that made."""
    with held([*guest, "--vms", "2", "--name", "last"], "--pause") as process:
        said(process)  # ready
        with guests(guest) as running:
            typed = type_for_a_minute(view, running)
        # Off any screen, no filter, the present, counted anew.
        view.type("Escape", "Escape", "Escape", "Escape")
        view.until("q Quit")
        if "PAUSED" in "\n".join(view.lines):
            view.type("p")
        view.until(lambda lines: "PAUSED" not in "\n".join(lines))
        view.type("r", "1", "/")
        view.until("keeps the filter")
        view.write("last-")
        view.type("Enter")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        ledger = json.loads(said(process))
        calls = sum(call["calls"] for call in ledger["calls"])
        if "total " not in view.lines[0]:
            view.type("t")
        lines = view.until(
            lambda lines: (
                "total " in lines[0]
                and sum(int(row["calls"]) for row in rows(lines) if row["calls"] != "-") >= calls
            )
        )
        return typed, ledger, rows(lines)


def read_all(view: Terminal, seen: Seen, size: tuple[int, int]) -> None:
    """The tables of all groupings at a size."""
    for key, word in GROUPINGS.items():
        view.type(key)
        view.until(
            lambda lines, word=word: (  # type: ignore[misc]
                len(lines) == size[1]
                and lines[0].endswith(f"by {word}")
                and "xmm-out" in lines[1]
                and "Pause" in lines[-1]
            )
        )
        expected = len(grouped(seen.made, key)) if key != "4" else VMS * VCPUS
        seen.tables[size, key] = read_table(view, expected)


def wait_for_lines(file: Path, count: int = 2) -> None:
    """Wait for that many more lines: with two, for an interval that began after now."""
    wanted, deadline = file.read_text().count("\n") + count, time.monotonic() + WAIT_SECONDS
    while file.read_text().count("\n") < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.5)
