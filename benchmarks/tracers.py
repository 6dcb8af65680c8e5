"""Tracers to be measured: contexts in which one is attached, to be used in the VM lab.

Each gives a `Counted`, and has filled it in when it is left: one that silently did nothing
would be the cheapest of all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf, features, live, loader
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.loader import Program
from hvtrace.kernel.programs import counters
from hvtrace.stats.snapshot import completed

HERE = Path(__file__).parent
EVENTS = ("kvm_hv_hypercall", "kvm_hv_hypercall_done")
TRACEFS = Path("/sys/kernel/tracing")
PEERS = ("floor", "textbook")
_KEY_BYTES = 16  # struct key of peers.bpf.c


@dataclass
class Counted:
    """What a tracer has seen, known when it is over."""

    calls: int = 0


@dataclass(frozen=True)
class Tracer:
    """One row of the table.

    Attributes:
        name: as the table has it.
        attach: the context in which it is attached.
        counts: whether it is to see the calls; else it must see none of them.
        is_peer: whether hvtrace has to be cheaper.
    """

    name: str
    attach: Callable[[], AbstractContextManager[Counted]]
    counts: bool = True
    is_peer: bool = field(default=False, kw_only=True)


def tracers() -> list[Tracer]:
    """All of them, in the order of the table."""
    return [
        Tracer("nothing", nothing, counts=False),
        Tracer("two clock reads (raw tracepoints): the floor", floor, counts=False),
        Tracer("hvtrace", hvtrace),
        Tracer("hvtrace --evidence", lambda: hvtrace(evidence=True)),
        Tracer("hvtrace --round-trip", lambda: hvtrace(round_trip=True)),
        Tracer("hvtrace, sizes (top)", lambda: hvtrace(sizes=True)),
        Tracer("hvtrace, slow calls (top)", lambda: hvtrace(slow_ns=0)),
        Tracer("hvtrace --pid of another process", lambda: hvtrace(pid=1), counts=False),
        Tracer("hvtrace --code of another call", lambda: hvtrace(code=2), counts=False),
        Tracer("hvtrace, after all of these", hvtrace),
        Tracer("the kernel's own tracefs log", tracefs, is_peer=True),
        Tracer("textbook BCC (raw tracepoints)", textbook, is_peer=True),
        Tracer("bpftrace", bpftrace, is_peer=True),
        Tracer("perf record", perf, is_peer=True),
    ]


@contextmanager
def nothing() -> Iterator[Counted]:
    """The call as it is."""
    yield Counted()


@contextmanager
def hvtrace(pid: int | None = None, code: int | None = None, **options: int) -> Iterator[Counted]:
    """hvtrace as its commands start it; `options` are those of `live.open_source`."""
    # Loading takes 20 s on an emulated machine: what has no options is loaded once.
    if options:
        source = live.open_source(pid, code, say=print, **options)
    else:
        source = _without_options()
        source.attach()
        source.set_filter(pid, code)
    counted = Counted(-_completed(source))
    yield counted
    source.detach()
    counted.calls += _completed(source)
    if options:
        source.close()


@cache
def _without_options() -> LiveSource:
    host = features.probe(anyway=False, say=print)
    return LiveSource(counters(host).load(), host)


def _completed(source: LiveSource) -> int:
    return int(completed(source.snapshot().rows).sum())


@contextmanager
def floor() -> Iterator[Counted]:
    """Two programs that only read the clock. Counting would cost; that they ran is checked."""
    begin_ns = time.monotonic_ns()
    with _attached("floor") as peers:
        yield Counted()
        ((_, read),) = bpf.items(peers.maps["sink"], 4, 8)
        if int.from_bytes(read, "little") <= begin_ns:
            raise HvtraceError("the floor has not read the clock")


@contextmanager
def textbook() -> Iterator[Counted]:
    """The textbook's way."""
    counted = Counted()
    with _attached("textbook") as peers:
        yield counted
        items = bpf.items(peers.maps["counts"], _KEY_BYTES, 8)
        counted.calls = sum(int.from_bytes(value, "little") for _, value in items)


@contextmanager
def _attached(kind: str) -> Iterator[loader.Loaded]:
    peers = _peers()
    names = (f"{kind}_start", f"{kind}_done")
    links = [
        bpf.attach_raw_tracepoint(peers.programs[name], event)
        for name, event in zip(names, EVENTS, strict=True)
    ]
    yield peers
    for link in links:
        os.close(link)


@cache
def _peers() -> loader.Loaded:
    programs = [
        Program(f"{kind}_{what}", "raw", "") for kind in PEERS for what in ("start", "done")
    ]
    return loader.load([HERE / "peers.bpf.c"], [], programs, ["sink", "counts"])


@contextmanager
def tracefs() -> Iterator[Counted]:
    """The kernel's own log of the two events, which nobody reads."""
    counted = Counted()
    folder = TRACEFS / "instances" / "bench"
    folder.mkdir()
    events = [folder / f"events/kvm/{event}/enable" for event in EVENTS]
    for event in events:
        event.write_text("1")
    yield counted
    for event in events:
        event.write_text("0")
    counted.calls = logged((folder / "per_cpu/cpu0/stats").read_text())
    folder.rmdir()


def logged(stats: str) -> int:
    """Calls in a log of both events, from the statistics of its buffer: kept and overwritten."""
    return sum(map(int, re.findall(r"^(?:entries|overrun): (\d+)", stats, re.MULTILINE))) // 2


@contextmanager
def bpftrace() -> Iterator[Counted]:
    """peer.bt. LLVM takes its time on an emulated machine: it says when it is attached."""
    counted = Counted()
    command = ["bpftrace", "-f", "json", str(HERE / "peer.bt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if '"attached_probes"' in line:
                break
        yield counted
        process.send_signal(signal.SIGINT)
        counted.calls = in_histograms(process.stdout)


def in_histograms(lines: Iterable[str]) -> int:
    """Calls in the histograms of peer.bt, from what bpftrace prints at its end."""
    maps = [json.loads(line)["data"] for line in lines if '"@ns"' in line]
    return sum(
        bucket["count"] for one in maps for buckets in one["@ns"].values() for bucket in buckets
    )


@contextmanager
def perf() -> Iterator[Counted]:
    """perf record of the two events on all CPUs, into a file in memory."""
    counted = Counted()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        out = Path(folder) / "perf.data"
        ours, its = os.pipe()  # it writes "ack" when it has done what it was told
        command, told = os.pipe()
        record = [
            *("perf", "record", "-q", "-a", "-o", str(out)),
            *(word for event in EVENTS for word in ("-e", f"kvm:{event}")),
            *("--delay=-1", f"--control=fd:{command},{its}"),
        ]
        with subprocess.Popen(record, pass_fds=(command, its)) as process:
            os.close(its)
            os.write(told, b"enable\n")
            if not os.read(ours, 16):
                raise HvtraceError("perf record ended before it began")
            yield counted
            process.send_signal(signal.SIGINT)
        for fd in (ours, command, told):
            os.close(fd)
        report = subprocess.run(
            ["perf", "report", "--stats", "-i", str(out)],
            capture_output=True,
            text=True,
            check=True,
        )
        counted.calls = sampled(report.stdout)


def sampled(report: str) -> int:
    """Calls in a recording of both events, from `perf report --stats`: the total stands first."""
    found = re.search(r"SAMPLE events:\s+(\d+)", report)
    return int(found[1]) // 2 if found else 0


def versions() -> dict[str, str]:
    """Of what is measured here."""
    return {
        "kernel": os.uname().release,
        "BCC": _first_line("/usr/bin/python3", "-c", "import bcc; print(bcc.__version__)"),
        "bpftrace": _first_line("bpftrace", "--version").removeprefix("bpftrace "),
        "perf": _first_line("perf", "--version").removeprefix("perf version "),
        "numpy": np.__version__,
    }


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
