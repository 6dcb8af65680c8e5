"""The live kernel as a source of snapshots: attach, read by mmap, recycle.

    threads, slots  --mmap-->  copies  -->  rows of a Snapshot

Rows of threads that ended are added to their VM's final totals; their slots and
entries go back to the free lists, from which the programs take them: at once, or where
they are pinned with the end of their VM, for until then the maps have to hold all counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hvtrace.kernel import bpf, features, layout, loader
from hvtrace.kernel.attachment import Attachment
from hvtrace.kernel.entries import Entries
from hvtrace.kernel.layout import LOSSES
from hvtrace.kernel.maps import Maps
from hvtrace.kernel.measuring import Measuring
from hvtrace.kernel.pins import About, Pins
from hvtrace.kernel.programs import EVENTS, TRIPS, counters
from hvtrace.kernel.registry import Registry
from hvtrace.kernel.room import SLOTS, threads_for
from hvtrace.kernel.rows import add_up_vcpus, rows_of, statuses_of, trips_of, vcpus_of
from hvtrace.kernel.slow import SlowCalls
from hvtrace.kernel.vms import Identities
from hvtrace.stats.exits import Exit, add_up
from hvtrace.stats.snapshot import (
    Array,
    Lost,
    Probe,
    Snapshot,
    concat,
    empty,
    rollup,
    select,
)

_ROWS_AT_ONCE = 2048


def _say(text: str) -> None:
    print(f"hvtrace: {text}", file=sys.stderr, flush=True)


def open_source(
    pid: int | None = None,
    code: int | None = None,
    *,
    anyway: bool = False,
    slots: int = SLOTS,
    say: Callable[[str], None] = _say,
    keep_ended_seconds: float = float("inf"),
    evidence: bool = False,
    vcpus: bool = False,
    round_trip: bool = False,
    vcpu_times: bool = False,
    sizes: bool = False,
    slow_ns: int | None = None,
    measure: bool = False,
    pin: Path | None = None,
) -> LiveSource:
    """Check the host, load, attach.

    `pid` and `code` filter in the kernel; `anyway` goes on where KVM has no
    Hyper-V; `slots` is the room there is; `say` takes progress lines; VMs that
    ended stay in the snapshots for `keep_ended_seconds`; `evidence` looks at the
    exits of forwarded calls, `vcpus` loads what kernel.vcpus needs, `round_trip`
    counts times from exit to entry; all where this kernel's types are known. With
    `vcpu_times`, snapshots have the service time of each vCPU, with `sizes` what the
    calls' input values say. With `slow_ns`, completed calls that took so long are told
    one by one (0: none, until `set_slow`). With `measure`, the kernel measures the
    programs now and then. With `pin`, a folder of a BPF file system, counting outlives
    this process, and goes on with what is pinned there; not with `evidence`, `vcpus`,
    `sizes` or `slow_ns`.
    Raises HvtraceError with one clear line.
    """
    slow = slow_ns is not None
    assert not (pin and (evidence or vcpus or sizes or slow))
    with ExitStack() as undo:
        pins = undo.enter_context(Pins(pin)) if pin else None
        host = features.probe(anyway, say, round_trip=round_trip)
        if evidence and host.structures.problem:
            say(f"no evidence of exits: {host.structures.problem}")
            evidence = False
        if host.round_trip and (problem := host.structures.problem or host.round_trip.problem):
            say(f"no round trips: {problem}")
            round_trip = False
        vcpus = vcpus and host.structures.problem is None
        room = (threads_for(slots), slots)
        job = counters(
            host,
            *room,
            evidence=evidence,
            vcpus=vcpus,
            round_trip=round_trip,
            sizes=sizes,
            slow=slow,
        )
        about = About.of(job, host, slots=slots, pid=pid, code=code, round_trip=round_trip)
        loaded = pins.carry_on(job, about, say) if pins else None
        is_new = loaded is None
        if loaded is None:
            loaded = job.load()
            if pins:
                pins.begin(loaded, room[0])
        else:
            loader.dismiss_ahead()
        source = LiveSource(
            loaded,
            host,
            *room,
            keep_ended_seconds=keep_ended_seconds,
            say=say,
            vcpu_times=vcpu_times,
            pins=pins,
            is_new=is_new,
        )
        undo.callback(source.close)
        if slow_ns:
            source.set_slow(slow_ns)
        source.attach()
        if measure:
            source.measure()
        if is_new:
            source.set_filter(pid, code)
            if pins:
                pins.finish(about)
        undo.pop_all()
    return source


class LiveSource:
    """Counters of the running kernel. Not for use by two threads at once."""

    def __init__(
        self,
        loaded: loader.Loaded,
        host: features.Features,
        threads: int = threads_for(SLOTS),
        slots: int = SLOTS,
        *,
        keep_ended_seconds: float = float("inf"),
        say: Callable[[str], None] = _say,
        vcpu_times: bool = False,
        pins: Pins | None = None,
        is_new: bool = True,
    ) -> None:
        """Take over `loaded`, which was compiled for `threads` and `slots`, and `pins`.

        Where it `is_new`, it is not attached yet, and counts nothing before the first
        `set_filter`. Else both goes on from where another process left it.
        """
        self.kernel = host.release
        self.interface = host.interface
        self.host = host
        self.loaded = loaded
        self._pins = pins
        self._maps = Maps(loaded.maps, threads)
        if is_new:
            self._maps.prepare(slots)
        self._attachment = Attachment(loaded.programs, host, say, pins)
        self._registry = Registry(Identities(host.debugfs), keep_ended_seconds)
        self._entries = Entries(self._maps, self._registry, remember="exits" in loaded.maps)
        self._slow = SlowCalls(self._maps, self._entries)
        self._say = say
        self._measuring: Measuring | None = None
        self._vcpu_times = vcpu_times
        self._final = empty()  # of threads that ended; same VM indices as the registry

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def attach(self) -> None:
        """Attach what counts. Raises HvtraceError; nothing stays attached then."""
        self._attachment.attach()

    @property
    def probes(self) -> int:
        """How many programs are attached."""
        return len(self._attachment.attached)

    def detach(self) -> None:
        """Stop counting; the counters stay."""
        self._attachment.detach()

    def close(self) -> None:
        """Detach, and free everything that the kernel holds for us, but for what is pinned."""
        if self._measuring:
            self._measuring.stop()
            self._measuring = None
        self.detach()
        self.loaded.close()
        self.loaded = loader.Loaded({}, {})
        if self._pins:
            self._pins.close()
            self._pins = None

    def set_filter(self, pid: int | None, code: int | None) -> None:
        """Count only calls of process `pid` and of `code`; None: all of them.

        Takes effect at once. Calls that are open at this instant are not counted.
        """
        self._maps.set_filter(pid, code)

    def set_slow(self, limit_ns: int) -> None:
        """Tell completed calls that take so long one by one, from now on; 0: none.

        Only where the programs were loaded for it. Any thread may call this at any time.
        """
        self._maps.set_slow(limit_ns)

    def measure(self) -> None:
        """Let the kernel measure the programs now and then: see `Snapshot.probes`."""
        try:
            self._measuring = Measuring()
        except OSError as error:
            self._say(f"own cost is not measured: {error.strerror} (it takes CAP_SYS_ADMIN)")

    def snapshot(self) -> Snapshot:
        """All counters since the start, one row per (vCPU thread, code, fast, handler).

        Threads that ended have their rows added up under tid 0. Raises HvtraceError
        where KVM was replaced meanwhile.
        """
        self.look()
        now = self._whole(concat(self._final, self._read(self._entries.running())))
        self._expire()
        return now

    def parts(self) -> Iterator[Snapshot]:
        """A snapshot in parts of some thousand rows, each row in one of them, all else in the last.

        Who keeps less of a row than it is needs memory for one part at a time.
        """
        self.look()
        vms = self._entries.vms()
        owner, used = self._maps.used_slots(self._entries.running())
        for first in range(0, len(used), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            yield replace(self._rows_of(owner[part], used[part]), vms=vms)
        last = self._rows_of(owner[:0], used[:0])
        yield self._whole(concat(self._final, last))
        self._expire()

    def _whole(self, rows: Snapshot) -> Snapshot:
        """These rows with all that is no row."""
        calls = self._maps.threads["call"]
        counters = {name: bpf.counters(fd) for name, fd in self.loaded.programs.items()}
        return replace(
            rows,
            vcpus=self._vcpus(self._final, rows),
            vms=self._entries.vms(),
            lost=self._lost(counters),
            probes=self._probes(counters),
            exits=self._exits(),
            slow=self._slow.take(),
            in_flight=int(np.count_nonzero(calls & np.uint64(layout.CALL_OPEN))),
        )

    def look(self) -> None:
        """See who is there, and collect what threads that ended have left.

        Far cheaper than a snapshot, which begins with it. Raises HvtraceError
        where KVM was replaced meanwhile.
        """
        self._attachment.follow()
        ended = self._entries.look()
        if self._slow.look() and len(ended):
            left = self._read(ended)
            vcpus = self._vcpus(self._final, left)
            self._final = replace(rollup(concat(self._final, left)), vcpus=vcpus)
            if self._pins:  # what is added up here ends with this process
                self._entries.keep(ended)
            else:
                self._entries.recycle(ended)
        self._entries.mark_ended()

    def _read(self, threads: NDArray[np.intp]) -> Snapshot:
        """What `threads` (entries of known VMs) have counted."""
        return self._rows_of(*self._maps.used_slots(threads))

    def _rows_of(self, owner: NDArray[np.intp], used: NDArray[np.intp]) -> Snapshot:
        """What is counted in slots `used`, ascending, of the threads `owner`."""
        slots = self._maps.copies("slots", used)
        statuses = statuses_of(slots, self._maps.more_statuses(slots))
        tid = self._maps.threads["tid"][owner]
        vm, vcpu = self._entries.vm_of[owner], self._entries.vcpu_of[owner]
        rows = rows_of(slots, vm, tid, vcpu, self.host.interface.in_kernel)
        found = Snapshot(time.time(), time.monotonic_ns(), (), rows, statuses)
        trips = trips_of(self._maps.copies("trips", used))
        found = replace(found, trips=trips, sizes=self._maps.copies("sizes", used))
        if self._vcpu_times:
            found = replace(found, vcpus=vcpus_of(rows))
        return found

    def _vcpus(self, first: Snapshot, second: Snapshot) -> Array:
        return add_up_vcpus(first.vcpus, second.vcpus) if self._vcpu_times else first.vcpus

    def _exits(self) -> tuple[Exit, ...]:
        found = []
        for key, value in self._maps.exits():
            part = self.host.interface.part(key["type"])
            vm = self._entries.vm_by_thread.get((key["tgid"], key["tid"]))
            if vm is None:  # its first call is not over yet, or began after our look
                continue
            found.append(
                Exit(
                    vm=vm,
                    code=key["call"] & 0xFFFF,
                    fast=bool(key["call"] & layout.CALL_FAST),
                    type=key["type"],
                    size_bytes=part.size_bytes if part else None,
                    **value,
                )
            )
        return add_up(found)

    def _lost(self, counters: Mapping[str, bpf.Counters]) -> Lost:
        counted = {name: int(self._maps.control[name][0]) for name in LOSSES}
        names = counters.keys() & {*EVENTS, *(one.name for one in TRIPS)}
        counted["no_event"] += self._slow.dropped
        return Lost(**counted, missed=sum(counters[name].misses for name in names))

    def _probes(self, counters: Mapping[str, bpf.Counters]) -> tuple[Probe, ...]:
        attached = self._attachment.attached
        return tuple(
            Probe(name, name in attached, now.runs, now.run_ns) for name, now in counters.items()
        )

    def _expire(self) -> None:
        moved = self._entries.expire()
        if moved is None:
            return
        for part in (self._final.rows, self._final.vcpus):
            part["vm"] = moved[part["vm"]]
        final = select(self._final, self._final.rows["vm"] >= 0)
        self._final = replace(final, vcpus=final.vcpus[final.vcpus["vm"] >= 0])
