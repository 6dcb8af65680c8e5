"""The real programs, loaded on this kernel and run without their events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtrace.hyperv.interface import Interface
from hvtrace.kernel import bpf, shape
from hvtrace.kernel.features import Features
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.programs import counters
from hvtrace.kernel.structures import RoundTrip, Structures
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.snapshot import rollup

HYPERV_EXIT = 27


class Programs:
    """Drives the programs as KVM would: each method is one tracepoint, in this thread."""

    def __init__(
        self,
        threads: int = 61,
        slots: int = 509,
        has_var_cnt: bool = True,
        can_output: bool = False,
        debugfs: Path | None = None,
        structures: Structures = Structures(),  # noqa: B008 (it is frozen)
        round_trip: RoundTrip | None = None,
        sizes: bool = False,
        slow_ns: int | None = None,
        **options: Any,
    ) -> None:
        events = shape.raw(has_var_cnt)
        interface = Interface(offered=can_output)
        host = Features(
            "test",
            events,
            interface,
            debugfs=debugfs,
            structures=structures,
            round_trip=round_trip,
        )
        has_trips, has_slow = round_trip is not None, slow_ns is not None
        job = counters(host, threads, slots, round_trip=has_trips, sizes=sizes, slow=has_slow)
        loaded = job.load()
        self.source = LiveSource(loaded, host, threads, slots, **options)
        self.source.set_filter(None, None)
        self.source.set_slow(slow_ns or 0)
        self._run = loaded.programs
        self._has_var_cnt = has_var_cnt
        # The only program whose event this kernel really has to send.
        self.link = bpf.attach_raw_tracepoint(
            loaded.programs["sched_process_exit"], "sched_process_exit"
        )

    def hypercall(self, code: int, fast: bool = False, var: int = 0, rep: int = 0) -> None:
        counts = (var, rep) if self._has_var_cnt else (rep,)
        self._fire("kvm_hv_hypercall", code, int(fast), *counts, 0, 0x1000, 0x2000)

    def done(self, result: int = 0) -> None:
        self._fire("kvm_hv_hypercall_done", result)

    def userspace_exit(self, reason: int = HYPERV_EXIT, errno: int = 0) -> None:
        self._fire("kvm_userspace_exit", reason, errno % (1 << 64))

    def exit(self, vcpu: int, isa: int) -> None:
        self._fire("trip_begin", vcpu, isa)

    def entry(self, vcpu: int) -> None:
        self._fire("trip_end", vcpu, 0)

    def call(self, code: int, result: int = 0, **fields: int) -> None:
        self.hypercall(code, **fields)  # type: ignore[arg-type]
        self.done(result)

    def _fire(self, name: str, *arguments: int) -> None:
        bpf.run_raw_tracepoint(self._run[name], *arguments)

    def calls(self) -> list[Call]:
        return calls(rollup(self.source.snapshot()))

    def only(self) -> Call:
        (call,) = self.calls()
        return call


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, which has ended for the kernel too on return."""
    thread = threading.Thread(target=work)
    thread.start()
    task = Path(f"/proc/self/task/{_native_id(thread)}")
    thread.join()
    while task.exists():  # join() returns before the kernel's exit
        pass


def _native_id(thread: threading.Thread) -> int:
    while thread.native_id is None:
        pass
    return thread.native_id


@pytest.fixture
def make_programs() -> Iterator[Callable[..., Programs]]:
    import os

    made: list[Programs] = []

    def make(**options: object) -> Programs:
        made.append(Programs(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for programs in made:
        os.close(programs.link)
        programs.source.close()


@pytest.fixture
def programs(make_programs: Callable[..., Programs]) -> Programs:
    return make_programs()
