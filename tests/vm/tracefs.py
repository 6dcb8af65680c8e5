"""The kernel's own log of the same tracepoints, read to the nanosecond.

A trace instance of its own on the clock that BPF reads (mono), taken from
trace_pipe_raw, because the text form rounds to microseconds. The format of
ring-buffer pages: events/header_page and events/header_event in tracefs, and
include/linux/ring_buffer.h.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
EVENTS = ("kvm_hv_hypercall", "kvm_hv_hypercall_done", "kvm_userspace_exit")
PAGE = 4096
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31  # type_len beyond the data events
HYPERV_EXIT = 27


@dataclass(frozen=True)
class Event:
    """One event: its clock in ns, the thread, and its fields by name."""

    ns: int
    tid: int
    name: str
    fields: dict[str, int]


class Log:
    """Logs `events` of KVM while open."""

    def __init__(
        self, name: str = "truth", buffer_kb: int = 65536, events: Sequence[str] = EVENTS
    ) -> None:
        self._events = events
        self.folder = TRACEFS / "instances" / name
        self.folder.mkdir()
        self._write("trace_clock", "mono")
        self._write("buffer_size_kb", str(buffer_kb))
        self.formats = {}
        for event in events:
            text = (TRACEFS / "events" / "kvm" / event / "format").read_text()
            number = int(re.search(r"ID: (\d+)", text)[1])  # type: ignore[index]
            found = re.findall(r"field:.*?(\w+);\s*offset:(\d+);\s*size:(\d+);", text)
            self.formats[number] = (event, [(n, int(o), int(s)) for n, o, s in found])
            self._write(f"events/kvm/{event}/enable", "1")

    def _write(self, file: str, text: str) -> None:
        (self.folder / file).write_text(text)

    def close(self) -> None:
        for event in self._events:
            self._write(f"events/kvm/{event}/enable", "0")
        self.folder.rmdir()

    def read(self) -> list[Event]:
        """All events so far, in time order; they are taken out of the buffer."""
        events = [event for cpu in self.folder.glob("per_cpu/cpu*") for event in self._cpu(cpu)]
        return sorted(events, key=lambda event: event.ns)

    def _cpu(self, folder: Path) -> Iterator[Event]:
        overrun = re.search(r"overrun: (\d+)", (folder / "stats").read_text())
        assert overrun is not None
        assert overrun[1] == "0", "the trace buffer was too small"
        fd = os.open(folder / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:
                try:
                    page = os.read(fd, PAGE)
                except BlockingIOError:
                    return
                if not page:
                    return
                yield from self._page(page)
        finally:
            os.close(fd)

    def _page(self, page: bytes) -> Iterator[Event]:
        ns, commit = struct.unpack_from("<QQ", page)
        at, end = 16, 16 + (commit & 0xFFFFF)
        while at < end:
            (head,) = struct.unpack_from("<I", page, at)
            kind, delta = head & 31, head >> 5
            if kind == PADDING:
                if not delta:
                    return
                at += 4 + struct.unpack_from("<I", page, at + 4)[0]
                continue
            if kind in (TIME_EXTEND, TIME_STAMP):
                more = struct.unpack_from("<I", page, at + 4)[0] << 27
                ns = ns + more + delta if kind == TIME_EXTEND else more + delta
                at += 8
                continue
            ns += delta
            start, size = at + 4, 4 * kind
            if kind == 0:
                size = struct.unpack_from("<I", page, at + 4)[0] - 4
                start = at + 8
            yield from self._event(ns, page[start : start + size])
            at = start + size

    def _event(self, ns: int, data: bytes) -> Iterator[Event]:
        number, tid = struct.unpack_from("<H2xi", data)
        if number in self.formats:
            name, fields = self.formats[number]
            values = {n: int.from_bytes(data[o : o + s], "little") for n, o, s in fields}
            yield Event(ns, tid, name, values)


@dataclass
class Tally:
    """What the log says of one (code, fast, handler) on one set of threads."""

    completed: int = 0
    unfinished: int = 0
    reps: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ns: list[int] = field(default_factory=list)


def tally(events: list[Event]) -> tuple[dict[tuple[int, int, bool, str], Tally], int]:
    """Pair calls and completions by thread: ({(tid, code, fast, handler): Tally}, orphans).

    The rules are those of any tracer keyed by thread; written anew here, from
    the log, so that they check the BPF programs and are not them.
    """
    tallies: defaultdict[tuple[int, int, bool, str], Tally] = defaultdict(Tally)
    open_calls: dict[int, list] = {}  # tid -> [ns, code, fast, handler]
    orphans = 0
    for event in events:
        call = open_calls.get(event.tid)
        if event.name == "kvm_hv_hypercall":
            if call:
                tallies[event.tid, *call[1:]].unfinished += 1
            fast = bool(event.fields["fast"])
            open_calls[event.tid] = [event.ns, event.fields["code"], fast, "kernel"]
        elif event.name == "kvm_userspace_exit":
            interrupted = event.fields["errno"] >= 1 << 31
            if call and event.fields["reason"] == HYPERV_EXIT and not interrupted:
                call[3] = "vmm"
        elif call:
            result = event.fields["result"]
            done = tallies[event.tid, *call[1:]]
            done.completed += 1
            done.reps += result >> 32 & 0xFFF
            done.statuses[result & 0xFFFF] += 1
            done.latencies_ns.append(event.ns - call[0])
            del open_calls[event.tid]
        else:
            orphans += 1
    for tid, call in open_calls.items():
        tallies[tid, *call[1:]].unfinished += 1
    return dict(tallies), orphans
