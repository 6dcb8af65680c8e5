"""Many vCPU threads, many calls: the real programs, run by real threads on this kernel.

A thread is known to the programs by its tid, so each one runs them itself, through
BPF_PROG_TEST_RUN, which needs no event and no guest.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from benchmarks import memory
from hvtrace.errors import HvtraceError
from hvtrace.hyperv import codes
from hvtrace.kernel import bpf, shape
from hvtrace.kernel.features import Features
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.programs import counters
from hvtrace.kernel.room import SLOTS, threads_for

SNAPSHOTS, CHANGED_SNAPSHOTS = 31, 7
MORE_THREADS, MORE_CALLS = 13, 31  # than there is room for
_STACK_BYTES = 1 << 18  # of a thread: a thousand of them shall not be felt
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Size:
    """How many threads make how many different calls, and the room there is for them."""

    threads: int
    calls: int
    room_threads: int
    room_slots: int

    @property
    def name(self) -> str:
        """As figures have it."""
        return f"{self.threads} threads x {self.calls} calls"


SIZES = (
    Size(1000, 16, threads_for(SLOTS), SLOTS),
    Size(1024, 32, threads_for(32768), 32768),
)


class Guests:
    """Threads that all make the same calls in a round, and then wait."""

    def __init__(self, threads: int, programs: dict[str, int]) -> None:
        """Started; nothing is called yet. `programs` by event."""
        self._codes: list[int] = []
        self._start, self._done = (
            programs["kvm_hv_hypercall"],
            programs["kvm_hv_hypercall_done"],
        )
        self._begin = threading.Barrier(threads + 1)
        self._end = threading.Barrier(threads + 1)
        self._stop = False
        self._failure: OSError | None = None
        usual = threading.stack_size(_STACK_BYTES)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()
        threading.stack_size(usual)

    def round(self, codes_made: list[int] | None = None) -> None:
        """Every thread makes each of these calls once; None: the same as the last time.

        Raises HvtraceError where a thread cannot.
        """
        self._codes = self._codes if codes_made is None else codes_made
        try:
            self._begin.wait(_TIMEOUT_SECONDS)
            self._end.wait(_TIMEOUT_SECONDS)
        except threading.BrokenBarrierError:
            why = self._failure or f"they took {_TIMEOUT_SECONDS:.0f} s"
            raise HvtraceError(f"threads cannot run the programs: {why}") from None
        while self._begin.n_waiting < len(self._threads):  # some are still on their way there
            time.sleep(0.001)

    def close(self) -> None:
        """End the threads."""
        self._stop = True
        self._begin.wait(_TIMEOUT_SECONDS)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with suppress(threading.BrokenBarrierError):
            while True:
                self._begin.wait()
                if self._stop:
                    return
                try:
                    self._calls()
                except OSError as error:
                    self._failure = error
                    self._end.abort()
                self._end.wait(_TIMEOUT_SECONDS)

    def _calls(self) -> None:
        for code in self._codes:
            bpf.run_raw_tracepoint(self._start, code, 0, 0, 0, 0, 0x1000, 0)
            bpf.run_raw_tracepoint(self._done, 0)


def figures() -> dict[str, float]:
    """Of every size. Raises HvtraceError where a call is neither counted nor known as lost."""
    result: dict[str, float] = {}
    for size in SIZES:
        for measure, value in measure_size(size).items():
            result[f"scale/{size.name}/{measure}"] = value
    return result


def measure_size(size: Size) -> dict[str, float]:
    """{measure: value} of one size."""
    host = Features("bench", shape.raw())
    begin = time.perf_counter()
    loaded = counters(host, size.room_threads, size.room_slots).load()
    source = LiveSource(loaded, host, size.room_threads, size.room_slots)
    source.snapshot()
    found = {"start to first snapshot, s": time.perf_counter() - begin}
    with source:
        source.set_filter(None, None)
        guests = Guests(size.threads, loaded.programs)
        guests.round(some_codes(size.calls))
        found["slots used"] = size.threads * size.calls
        found |= _snapshots(source, guests, size)
        found |= memory.kernel(memory.programs(os.getpid(), loaded.programs.values()))
        found |= _beyond(source, guests, size, loaded.programs)
        guests.close()
    return found


def some_codes(count: int) -> list[int]:
    """So many calls of the TLFS."""
    return sorted(codes.CODES)[:count]


def _snapshots(source: LiveSource, guests: Guests, size: Size) -> dict[str, float]:
    """Milliseconds of a snapshot: the first, one of many, and one where every slot has changed."""

    def timed() -> float:
        begin = time.perf_counter()
        snapshot = source.snapshot()
        took_ms = (time.perf_counter() - begin) * 1e3
        _expect("slots", len(snapshot.rows), size.threads * size.calls)
        return took_ms

    def after_a_round() -> float:
        guests.round()
        return timed()

    return {
        "first snapshot (who is who), ms": timed(),
        "snapshot, ms": _median(timed, SNAPSHOTS),
        "snapshot, every slot changed, ms": _median(after_a_round, CHANGED_SNAPSHOTS),
    }


def _median(measure: Callable[[], float], times: int) -> float:
    return statistics.median(measure() for _ in range(times))


def _beyond(
    source: LiveSource, guests: Guests, size: Size, programs: dict[str, int]
) -> dict[str, float]:
    """Fill up the room that is left, and more: a call is counted, or counted as lost."""
    free_slots = size.room_slots - size.threads * size.calls
    free_entries = size.room_threads - size.threads
    guests.round([0x7001])  # of every thread one slot more
    newcomers = Guests(free_entries + MORE_THREADS, programs)
    newcomers.round([0x7001 + i for i in range(MORE_CALLS)])
    snapshot = source.snapshot()
    newcomers.close()
    no_slot = max(0, size.threads - free_slots) + free_entries * MORE_CALLS
    _expect("slots", len(snapshot.rows), size.room_slots)
    _expect("calls without a slot", snapshot.lost.no_slot, no_slot)
    _expect("calls without an entry", snapshot.lost.no_thread, MORE_THREADS * MORE_CALLS)
    _expect("completions without an entry", snapshot.lost.orphans, MORE_THREADS * MORE_CALLS)
    return {
        "beyond the room: calls lost for want of a slot": no_slot,
        "beyond the room: calls lost for want of a thread's entry": MORE_THREADS * MORE_CALLS,
    }


def _expect(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise HvtraceError(f"{found} {what}, where there must be {wanted}")
