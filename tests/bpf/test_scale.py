"""As many vCPU threads as there is room for: the real programs, run by real threads."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks import memory
from hvtrace.kernel import maps
from hvtrace.kernel.room import SLOTS, threads_for
from hvtrace.stats.snapshot import Lost, Snapshot, completed
from tests.bpf.conftest import Programs

TIMEOUT_SECONDS = 120.0
STACK_BYTES = 1 << 18
MORE, CALLS_OF_EACH = 0x7FF1, 3


class Vcpus:
    """Threads that make calls when they are told to, all at once."""

    def __init__(self, programs: Programs, count: int) -> None:
        self._programs = programs
        self._step = threading.Barrier(count + 1)
        self._codes: Sequence[int] | None = ()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def make(self, codes: Sequence[int] | None) -> None:
        """Every thread makes each of these calls CALLS_OF_EACH times; None: it ends."""
        self._codes = codes
        self._step.wait(TIMEOUT_SECONDS)
        if codes is not None:
            self._step.wait(TIMEOUT_SECONDS)

    def end(self) -> None:
        self.make(None)
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _run(self) -> None:
        while True:
            self._step.wait(TIMEOUT_SECONDS)
            if self._codes is None:
                return
            for code in self._codes:
                for _ in range(CALLS_OF_EACH):
                    self._programs.call(code)
            self._step.wait(TIMEOUT_SECONDS)


@pytest.fixture
def small_stacks() -> Iterator[None]:
    usual = threading.stack_size(STACK_BYTES)
    yield
    threading.stack_size(usual)


@contextmanager
def vcpus(programs: Programs, count: int) -> Iterator[Vcpus]:
    running = Vcpus(programs, count)
    yield running
    running.end()


def live(snapshot: Snapshot) -> np.ndarray:
    """Rows of threads that have not ended."""
    return snapshot.rows[snapshot.rows["tid"] != 0]


def test_every_slot_is_counted_in_and_what_is_beyond_is_counted_out(
    make_programs: Callable[..., Programs], small_stacks: None
) -> None:
    """`--slots 32768`: 1,024 threads x 32 calls, and exactly that."""
    slots, threads, codes = 32768, 1024, range(0x4001, 0x4021)
    programs = make_programs(slots=slots, threads=threads)
    with vcpus(programs, threads) as full:
        full.make(codes)
        snapshot = programs.source.snapshot()
        assert snapshot.lost == Lost()
        assert len(snapshot.rows) == slots
        assert np.unique(snapshot.rows["tid"]).size == threads
        assert (completed(snapshot.rows) == CALLS_OF_EACH).all()
        of_codes, rows_of_code = np.unique(snapshot.rows["code"], return_counts=True)
        assert (of_codes.tolist(), set(rows_of_code)) == ([*codes], {threads})

        full.make([MORE])  # one call more of each thread
        no_slot = threads * CALLS_OF_EACH
        assert programs.source.snapshot().lost == Lost(no_slot=no_slot)

        with vcpus(programs, 7) as late:  # and threads more
            late.make([MORE])
            beyond = 7 * CALLS_OF_EACH
            lost = Lost(no_slot=no_slot, no_thread=beyond, orphans=beyond)
            assert programs.source.snapshot().lost == lost

        full.make(codes)  # what has its slot goes on
        snapshot = programs.source.snapshot()
        assert (completed(snapshot.rows) == 2 * CALLS_OF_EACH).all()
        assert snapshot.lost == lost


def most_mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of the arrays beside slots that are mapped from now on: what was the most so far."""
    most, now, real = [0], [0], mmap.mmap

    class Counted(real):  # type: ignore[misc, valid-type]
        def __init__(self, *_: object, **__: object) -> None:
            now[0] += len(self)
            most[0] = max(most[0], now[0])

        def __del__(self) -> None:
            now[0] -= len(self)

    monkeypatch.setattr(maps.mmap, "mmap", Counted)
    return most


def test_all_room_comes_back_when_threads_end(
    make_programs: Callable[..., Programs], small_stacks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three generations, each of which needs every slot and every entry."""
    slots, threads, codes = 8192, 512, range(0x4001, 0x4011)
    programs = make_programs(slots=slots, threads=threads, sizes=True)
    mapped = most_mapped(monkeypatch)
    for generation in range(1, 4):
        with vcpus(programs, threads) as now:
            now.make(codes)
            rows = live(programs.source.snapshot())
            assert len(rows) == slots
            assert (completed(rows) == CALLS_OF_EACH).all(), "a slot was not empty"
        left = wait_for_none(programs)
        assert len(left.rows) == len(codes)
        assert (completed(left.rows) == generation * threads * CALLS_OF_EACH).all()
        assert left.lost == Lost()
    assert 3 << 20 < mapped[0] <= 4 << 20  # of eight: mapped pages are memory of ours


def wait_for_none(programs: Programs) -> Snapshot:
    """The snapshot in which all threads have ended: join() returns before the kernel's exit."""
    end = time.monotonic() + 10
    while len(live(snapshot := programs.source.snapshot())):
        assert time.monotonic() < end, "threads that ended are not collected"
    return snapshot


def test_a_look_collects_what_ended_threads_leave(programs: Programs) -> None:
    with vcpus(programs, 5) as few:
        few.make([MORE])
        assert [vm.vcpus for vm in programs.source.snapshot().vms] == [5]
    before = wait_for_none(programs)
    assert [vm.vcpus for vm in before.vms] == [0]
    for _ in range(61 // 5 + 1):  # more than there are entries, one look after each
        with vcpus(programs, 5) as few:
            few.make([MORE])
        end = time.monotonic() + 10
        while programs.source._maps.threads["state"].any():
            assert time.monotonic() < end, "a look gives no entry back"
            programs.source.look()
    after = wait_for_none(programs)
    assert after.lost == Lost()
    calls = completed(after.rows) - completed(before.rows)
    assert calls.tolist() == [13 * 5 * CALLS_OF_EACH]


def test_kernel_memory_of_the_usual_size(make_programs: Callable[..., Programs]) -> None:
    """16 MiB for 1,000 vCPU threads x 16 calls: as the kernel accounts for it, on any machine."""
    programs = make_programs(slots=SLOTS, threads=threads_for(SLOTS))
    found = memory.kernel(memory.programs(os.getpid(), programs.source.loaded.programs.values()))
    assert found["maps for every CPU"] == 0
    assert 15 < found[memory.TOTAL] <= 16
