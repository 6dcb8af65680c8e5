"""Synthetic snapshots for tests of everything that takes them.

    snapshot([row(vm="win11", code=2, fast=True, latencies_ns=[700, 911], statuses={2: 1})])

Each view works on a snapshot, so each is tested on these, without privileges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hvtrace.hyperv.interface import Interface
from hvtrace.stats.histogram import UPPER_NS
from hvtrace.stats.snapshot import (
    HANDLERS,
    NO_MIN,
    ROW,
    SIZES,
    STATUS,
    TRIP,
    VERDICTS,
    Lost,
    Snapshot,
    Vm,
)

START = 1_700_000_000.0
"""Unix seconds of `snapshot`'s default time."""


@dataclass(frozen=True)
class Row:
    """One row to be; what the arguments mean is said in `row`."""

    vm: str | Vm
    code: int
    fast: bool
    handler: str
    latencies_ns: tuple[int, ...]
    unfinished: int
    statuses: Mapping[int, int]
    tid: int
    reps: int
    xmm_input: int
    xmm_output: Mapping[str, int] = field(default_factory=dict)
    trips_ns: tuple[int, ...] | None = None
    vcpu: int = -1
    sizes: tuple[tuple[int, int], ...] | None = None


def row(
    vm: str | Vm = "win11",
    code: int = 2,
    *,
    fast: bool = False,
    handler: str = "kernel",
    latencies_ns: Iterable[int] = (),
    unfinished: int = 0,
    statuses: Mapping[int, int] | None = None,
    tid: int = 0,
    reps: int = 0,
    xmm_input: int = 0,
    xmm_output: Mapping[str, int] | None = None,
    trips_ns: Iterable[int] | None = None,
    vcpu: int = -1,
    sizes: Iterable[tuple[int, int]] | None = None,
) -> Row:
    """A row: one completed call for each of `latencies_ns`, and the `unfinished`.

    `vm` is a name (of one of the snapshot's VMs, or a new one) or a Vm.
    `statuses` maps a failure's status to its count, part of the completed calls.
    `xmm_output` maps a verdict to its count; without it all calls are "memory" or "none".
    `trips_ns` are its round trips, `sizes` the (rep count, variable header) of its calls:
    of all rows of a snapshot, or of none. `vcpu` is KVM's number, -1 where unknown.
    """
    latencies = tuple(latencies_ns)
    if xmm_output is None:
        xmm_output = {"none" if fast else "memory": len(latencies) + unfinished}
    return Row(
        vm,
        code,
        fast,
        handler,
        latencies,
        unfinished,
        statuses or {},
        tid,
        reps,
        xmm_input,
        xmm_output,
        None if trips_ns is None else tuple(trips_ns),
        vcpu,
        None if sizes is None else tuple(sizes),
    )


def vm(name: str = "win11", pid: int = 1009, vmm: str = "qemu", **more: object) -> Vm:
    """A VM; `more` are further fields of Vm."""
    return Vm(pid=pid, name=name, vmm=vmm, **more)  # type: ignore[arg-type]


def snapshot(
    rows: Sequence[Row] = (),
    vms: Sequence[Vm] | None = None,
    *,
    time: float = START,
    lost: Lost | None = None,
    in_flight: int = 0,
) -> Snapshot:
    """A snapshot of `rows`; VMs that only the rows name are appended to `vms`.

    New VMs get the pids 1009, 1010... in the order of their first row.
    """
    known = list(vms or ())
    array = np.zeros(len(rows), dtype=ROW)
    failures = []
    for i, r in enumerate(rows):
        array[i] = _array_row(r, _vm_index(known, r.vm))
        failures += [(i, status, count) for status, count in r.statuses.items()]
    return Snapshot(
        time=time,
        monotonic_ns=round((time - START) * 1e9) + 10**12,
        vms=tuple(known),
        rows=array,
        statuses=np.array(failures, dtype=STATUS),
        lost=lost or Lost(),
        in_flight=in_flight,
        trips=np.array([_trip(r.trips_ns) for r in rows if r.trips_ns is not None], dtype=TRIP),
        sizes=np.array([_sizes(r.sizes) for r in rows if r.sizes is not None], dtype=SIZES),
    )


def _trip(trips_ns: tuple[int, ...]) -> np.void:
    out = np.zeros((), dtype=TRIP)
    _count(out, trips_ns)
    return out[()]


def _sizes(of_calls: tuple[tuple[int, int], ...]) -> np.void:
    out = np.zeros((), dtype=SIZES)
    for reps, var in of_calls:
        for name, size in (("reps", reps), ("var", var)):
            if size:
                out[name][size.bit_length() - 1] += 1
    return out[()]


def _vm_index(known: list[Vm], wanted: str | Vm) -> int:
    for i, candidate in enumerate(known):
        if wanted in (candidate, candidate.name):
            return i
    known.append(vm(wanted, pid=1009 + len(known)) if isinstance(wanted, str) else wanted)
    return len(known) - 1


def _array_row(r: Row, vm_index: int) -> np.void:
    out = np.zeros((), dtype=ROW)
    out["vm"], out["tid"], out["code"], out["vcpu"] = vm_index, r.tid, r.code, r.vcpu + 1
    out["fast"], out["handler"] = r.fast, HANDLERS.index(r.handler)
    _count(out, r.latencies_ns)
    out["unfinished"], out["reps"], out["xmm_input"] = r.unfinished, r.reps, r.xmm_input
    for verdict, count in r.xmm_output.items():
        out["xmm_output"][VERDICTS.index(verdict)] = count
    return out[()]


def _count(out: np.ndarray, times_ns: tuple[int, ...]) -> None:
    out["sum_ns"] = sum(times_ns)
    out["min_ns"] = min(times_ns, default=NO_MIN)
    out["max_ns"] = max(times_ns, default=0)
    for time_ns in times_ns:
        out["buckets"][bucket_of(time_ns)] += 1


def bucket_of(latency_ns: int) -> int:
    """Index of the bucket ``(low, high]`` that holds `latency_ns`."""
    return int(np.searchsorted(UPPER_NS, latency_ns))


class FakeSource:
    """A Source that gives `snapshots` one after another, then the last again and again."""

    kernel = "6.12.0-fake"
    interface = Interface(exit_bytes=56)

    def __init__(self, *snapshots: Snapshot) -> None:
        self.left = list(snapshots)
        self.taken = 0
        self.looks = 0
        self.closed = False
        self.filters: list[tuple[int | None, int | None]] = []

    def snapshot(self) -> Snapshot:
        self.taken += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def look(self) -> None:
        self.looks += 1

    def set_filter(self, pid: int | None, code: int | None) -> None:
        self.filters.append((pid, code))

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
