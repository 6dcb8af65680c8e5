"""The real commands as they run for long: when they begin to count, what they hold."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import memory
from benchmarks.scale import Guests, some_codes
from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf
from hvtrace.kernel.programs import EVENTS

STARTS, SCRAPES = 5, 7
SETTLED_SECONDS = 3.0  # a dozen of stat's snapshots
THREADS, CALLS = 1000, 16
_ATTACHED_SECONDS = 30.0
_PROG_GET_FD_BY_ID = 13  # include/uapi/linux/bpf.h
_LINKS = ("anon_inode:bpf_link", "anon_inode:[perf_event]")
_COMMAND = [sys.executable, "-m", "hvtrace"]


def figures() -> dict[str, float]:
    """{"process/COMMAND/measure": value}. Raises HvtraceError where a command does not start."""
    found = {"hvtrace stat": {**start(), **stat()}, "hvtrace exporter": exporter()}
    return {
        f"process/{command}/{measure}": value
        for command, measures in found.items()
        for measure, value in measures.items()
    }


def start() -> dict[str, float]:
    """Seconds from starting `hvtrace stat` to the command that it runs after its first snapshot."""

    def once() -> float:
        begin = time.time()
        argv = [*_COMMAND, "stat", "--anyway", "-o", "/dev/null", "--", "date", "+%s.%N"]
        run = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return float(run.stdout) - begin

    return {"start to first snapshot, s": statistics.median(once() for _ in range(STARTS))}


def stat() -> dict[str, float]:
    """Memory of `hvtrace stat`, which takes four snapshots a second."""

    def settle() -> None:
        time.sleep(SETTLED_SECONDS)

    with _running("stat") as process:
        until_attached(process.pid)
        return _memory(process.pid, settle)


def exporter() -> dict[str, float]:
    """Memory of `hvtrace exporter`, and milliseconds of a scrape with every slot in use."""
    with _running("exporter", "--listen", "127.0.0.1:0") as process:
        assert process.stderr
        url = None
        for line in process.stderr:
            if url := re.search(r"http://\S+", line):
                break
        if url is None:
            raise HvtraceError("hvtrace exporter ended before it served")
        times_ms: list[float] = []

        def scrape() -> None:
            times_ms.clear()
            for _ in range(SCRAPES):
                begin = time.perf_counter()
                urllib.request.urlopen(url[0]).read()
                times_ms.append((time.perf_counter() - begin) * 1e3)
                time.sleep(SETTLED_SECONDS / SCRAPES)

        found = _memory(process.pid, scrape)
        return {**found, f"scrape, {THREADS} x {CALLS}, ms": statistics.median(times_ms)}


def descriptor(number: int) -> int:
    """A descriptor of another process's program: BPF_PROG_GET_FD_BY_ID."""
    return bpf._bpf(_PROG_GET_FD_BY_ID, bpf._attr("<III", number, 0, 0))


@contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    argv = [*_COMMAND, *arguments, "--anyway"]
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def until_attached(pid: int) -> None:
    """Wait until the process has attached its programs, all of them."""
    deadline = time.monotonic() + _ATTACHED_SECONDS
    while not attached(pid):
        if time.monotonic() > deadline:
            raise HvtraceError(f"hvtrace has attached nothing in {_ATTACHED_SECONDS:.0f} s")
        time.sleep(0.1)


def attached(pid: int) -> bool:
    """Whether the process has attached its programs, all of them."""
    links = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links += str(file.readlink()).startswith(_LINKS)
    return links >= len(EVENTS)


def _memory(pid: int, use: Callable[[], None]) -> dict[str, float]:
    """Resident memory as it runs, before and while many threads' calls are counted."""
    use()
    programs = memory.programs(pid)
    found = {**memory.resident(pid), **memory.kernel(programs)}
    if not memory.are_raw(programs):  # since Linux 7.0: only its event can run such a program
        return found
    fds = [descriptor(program["id"]) for program in programs]
    guests = Guests(THREADS, dict(zip(EVENTS, fds, strict=True)))
    guests.round(some_codes(CALLS))
    use()
    busy = memory.resident(pid)
    guests.close()
    for fd in fds:
        os.close(fd)
    return {**found, **{f"{THREADS} x {CALLS}: {name}": size for name, size in busy.items()}}
