"""All counters at one instant, as numpy structs, and roll-ups and deltas of them.

A *source* makes snapshots (the live kernel, a recording), a *view* takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.interface import Interface
from hvtrace.hyperv.xmm import VERDICTS as VERDICTS  # noqa: PLC0414 (re-exported)
from hvtrace.stats.exits import Exit, difference
from hvtrace.stats.histogram import BUCKETS, LOWER_NS, UPPER_NS
from hvtrace.stats.slow import SlowCall as SlowCall  # noqa: PLC0414
from hvtrace.stats.vm import EVERY_VM as EVERY_VM  # noqa: PLC0414 (re-exported)
from hvtrace.stats.vm import Probe as Probe  # noqa: PLC0414
from hvtrace.stats.vm import Vm as Vm  # noqa: PLC0414

HANDLERS = ("kernel", "vmm")
NO_MIN = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

ROW = np.dtype(
    [
        ("code", "<u2"),
        ("fast", "u1"),
        ("handler", "u1"),  # index into HANDLERS
        ("vm", "<i4"),  # index into Snapshot.vms
        ("tid", "<i4"),  # vCPU thread; 0 where rolled up, or the thread has ended
        ("vcpu", "<u4"),  # KVM's number of it plus 1; 0 where unknown or rolled up
        ("sum_ns", "<u8"),  # of completed calls, as min, max and buckets
        ("min_ns", "<u8"),  # NO_MIN where nothing has completed
        ("max_ns", "<u8"),
        ("reps", "<u8"),
        ("xmm_input", "<u8"),
        ("unfinished", "<u8"),
        ("xmm_output", "<u8", (len(VERDICTS),)),
        ("spare_word", "<u8"),
        ("buckets", "<u8", (BUCKETS,)),
        ("spare_end", "<u8"),
    ]
)
"""One row of counters: a (vm, vCPU thread, code, fast, handler).

Counters stand where a slot of the kernel has them, so that a copied slot is made
a row in place (kernel/rows.py). What is spare means nothing.
"""

TRIP = np.dtype(
    [
        ("sum_ns", "<u8"),
        ("min_ns", "<u8"),  # NO_MIN where there was none
        ("max_ns", "<u8"),
        ("buckets", "<u8", (BUCKETS,)),
    ]
)
"""Round trips of a row's completed calls: from the exit that made the call to the next entry."""

SIZES = np.dtype([("reps", "<u8", (12,)), ("var", "<u8", (10,))])
"""Sizes in the input values of a row's calls: rep counts, and variable headers in 8 bytes.

Entry i counts calls of a size in [2^i, 2^(i+1)); a size of 0 is counted nowhere.
"""

STATUS = np.dtype([("row", "<i4"), ("status", "<u2"), ("count", "<u8")])
"""Failures: `row` is an index into Snapshot.rows, `status` is never 0."""

VCPU = np.dtype([("vm", "<i4"), ("vcpu", "<i4"), ("sum_ns", "<u8")])
"""Service time of one vCPU's completed calls; `vcpu` is KVM's number of it, -1 where unknown."""

KEY = ("vm", "tid", "code", "fast", "handler")
# A tid has 22 bits at most (PID_MAX_LIMIT, include/linux/threads.h).
_KEY_SHIFTS = {name: np.uint64(s) for name, s in zip(KEY, (40, 18, 2, 1, 0), strict=True)}
TRIP_SUMS = ("sum_ns", "buckets")
SIZE_SUMS = ("reps", "var")
SUMS = ("sum_ns", "unfinished", "reps", "xmm_input", "xmm_output", "buckets")
# Fields of Snapshot with one element for each row, where they were asked for, and what adds up.
_BESIDE = {"trips": TRIP_SUMS, "sizes": SIZE_SUMS}

Array = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Lost:
    """Everything that was not counted as a call, since the start."""

    orphans: int = 0  # completions without a start
    no_slot: int = 0  # calls: no free slot, or more calls per thread than its table holds
    no_thread: int = 0  # calls: more vCPU threads than room
    no_status: int = 0  # failures counted, their status not kept
    no_exit: int = 0  # forwarded calls whose exit was not seen (only with evidence)
    no_trip: int = 0  # completed calls whose round trip was not seen (only where asked for)
    no_event: int = 0  # slow calls that were counted, and not kept one by one: no room
    missed: int = 0  # events that the kernel withheld: the program was running on that CPU


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counters since the start, or (a delta) between two instants.

    ``rows`` has dtype ROW, ``statuses`` dtype STATUS. Success has no entry
    there: it is the completed calls less the failures. ``trips`` has dtype
    TRIP and ``sizes`` dtype SIZES, one for each of ``rows``; they are empty where
    they were not asked for. ``slow`` are the single calls above the limit since
    the snapshot before, also in a delta; as the losses, of all VMs.
    """

    time: float  # unix seconds
    monotonic_ns: int
    vms: tuple[Vm, ...]
    rows: Array
    statuses: Array
    lost: Lost = Lost()
    in_flight: int = 0  # calls open now, counted in no row yet
    exits: tuple[Exit, ...] = ()  # of forwarded calls, where evidence was asked for
    trips: Array = field(default_factory=lambda: np.zeros(0, dtype=TRIP))
    sizes: Array = field(default_factory=lambda: np.zeros(0, dtype=SIZES))
    slow: tuple[SlowCall, ...] = ()
    vcpus: Array = field(default_factory=lambda: np.zeros(0, dtype=VCPU))  # where asked for
    probes: tuple[Probe, ...] = ()


class Source(Protocol):
    """What gives snapshots."""

    kernel: str
    """Release of the kernel that is, or was, observed."""

    interface: Interface
    """How its KVM returns output in registers, if at all."""

    def snapshot(self) -> Snapshot:
        """All counters now. Raises RecordingEnded where there will be no more."""

    def look(self) -> None:
        """See who is there: between snapshots, or VMs are gone before they are known."""

    def close(self) -> None:
        """Detach and release everything."""


class RecordingEnded(Exception):
    """A recording is over. The text says what was wrong with its end, mostly nothing."""


def parts_of(source: Source) -> Iterator[Snapshot]:
    """A snapshot in parts, where the source is large enough to give it so: `LiveSource.parts`."""
    parts: Callable[[], Iterator[Snapshot]] | None = getattr(source, "parts", None)
    return parts() if parts else iter((source.snapshot(),))


def completed(rows: Array) -> NDArray[np.uint64]:
    """Completed calls of each row: the sum of its buckets, so never torn."""
    result: NDArray[np.uint64] = np.einsum("...i->...", rows["buckets"])  # faster than sum()
    return result


def empty() -> Snapshot:
    """A snapshot in which nothing was counted."""
    return Snapshot(0.0, 0, (), np.zeros(0, dtype=ROW), np.zeros(0, dtype=STATUS))


def select(snapshot: Snapshot, mask: NDArray[np.bool_]) -> Snapshot:
    """Only the rows where `mask`, and their statuses, round trips and sizes."""
    statuses = snapshot.statuses[mask[snapshot.statuses["row"]]]
    statuses["row"] = (np.cumsum(mask) - 1)[statuses["row"]]
    beside: dict[str, Any] = {name: part[mask] for name, part in _beside(snapshot).items()}
    return replace(snapshot, rows=snapshot.rows[mask], statuses=statuses, **beside)


def _beside(snapshot: Snapshot) -> dict[str, Any]:
    """What there is beside its rows, by field."""
    found = {name: getattr(snapshot, name) for name in _BESIDE}
    return {name: part for name, part in found.items() if len(part)}


def concat(first: Snapshot, second: Snapshot) -> Snapshot:
    """The rows of both; everything else is of `second`."""
    if not len(first.rows):
        return second
    statuses = second.statuses.copy()
    statuses["row"] += len(first.rows)
    joined: dict[str, Any] = {
        name: np.concatenate((getattr(first, name), getattr(second, name)))
        for name in ("rows", *_BESIDE)
    }
    return replace(second, statuses=np.concatenate((first.statuses, statuses)), **joined)


def rollup(
    snapshot: Snapshot,
    by: tuple[str, ...] = ("vm", "code", "fast", "handler"),
    sums: tuple[str, ...] = SUMS,
) -> Snapshot:
    """Add up all rows that agree in the key fields `by` (a subset of KEY).

    Fields of KEY outside `by` are 0 in the result, and without "tid" so is "vcpu"; its
    rows are sorted by the key. Without "vm", the only VM of the result is EVERY_VM. Of the counters
    only those of `sums` can be relied on. It may share rows with `snapshot`.
    """
    keys, rows, beside = keys_of(snapshot.rows, by), snapshot.rows, _beside(snapshot)
    kept = (*by, "vcpu") if "tid" in by else by
    vms = snapshot.vms if "vm" in by else (EVERY_VM,)
    if (keys[1:] > keys[:-1]).all():  # nothing to add up: it was done before
        if others := [n for n in (*KEY, "vcpu") if n not in kept and rows[n].any()]:
            rows = rows.copy()
            for name in others:
                rows[name] = 0
        return replace(snapshot, vms=vms, rows=rows, statuses=_add_up(snapshot.statuses))
    order = np.argsort(keys, kind="stable")
    if (keys[1:] < keys[:-1]).any():
        keys, rows = keys[order], np.take(rows, order)
        beside = {name: np.take(part, order) for name, part in beside.items()}
    first = np.ones(len(rows), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(first)
    out = _reduced(rows, starts, sums)
    for name in kept:
        out[name] = rows[name][starts]
    beside = {name: _reduced(part, starts, _BESIDE[name]) for name, part in beside.items()}
    group = np.empty(len(rows), dtype=np.intp)
    group[order] = np.cumsum(first) - 1
    statuses = snapshot.statuses.copy()
    statuses["row"] = group[statuses["row"]]
    return replace(snapshot, vms=vms, rows=out, statuses=_add_up(statuses), **beside)


def _reduced(rows: Array, starts: NDArray[np.intp], sums: tuple[str, ...]) -> Array:
    """One for each group of `rows`, which begin at `starts`: sums and extremes of them."""
    out = np.zeros(len(starts), dtype=rows.dtype)
    for name in sums:
        out[name] = np.add.reduceat(rows[name], starts, axis=0)
    if "min_ns" in (rows.dtype.names or ()):
        out["min_ns"] = np.minimum.reduceat(rows["min_ns"], starts)
        out["max_ns"] = np.maximum.reduceat(rows["max_ns"], starts)
    return out


def delta(before: Snapshot, after: Snapshot) -> Snapshot:
    """What was counted between two snapshots of one source.

    Both must be rolled up by the same key. Rows without a new call or round
    trip are left out. Sums and buckets are exact; the interval's extremes are exact where
    the extremes of the whole moved in it, else the bounds of its outermost
    buckets. A row with a count that fell has begun again, and all of it is
    new (Prometheus' rule for counters): a VM closed and opened again in one
    process can come back with its old identity. ``time`` is that of `after`.
    """
    new, old = common(before, after)
    rows = _less(after.rows, new, before.rows[old], SUMS)
    keep = (completed(rows) > 0) | (rows["unfinished"] > 0)
    beside = _beside(after)
    for name, part in beside.items():
        beside[name] = _less(part, new, getattr(before, name)[old], _BESIDE[name])
    if "trips" in beside:
        keep |= completed(beside["trips"]) > 0
    beside = {name: part[keep] for name, part in beside.items()}
    moved = dict(zip(old.tolist(), new.tolist(), strict=True))
    statuses = _status_delta(before.statuses, after.statuses, moved, keep)
    names = [one.name for one in fields(Lost)]
    lost = Lost(*(getattr(after.lost, name) - getattr(before.lost, name) for name in names))
    exits = difference(before.exits, after.exits)
    return replace(after, rows=rows[keep], statuses=statuses, lost=lost, exits=exits, **beside)


def _less(rows: Array, at: NDArray[np.intp], old: Array, sums: tuple[str, ...]) -> Array:
    """A copy of `rows`, those `at` less what was counted in `old`."""
    rows = rows.copy()
    for name in sums:
        rows[name][at] -= old[name]
    if "min_ns" in (rows.dtype.names or ()):
        _interval_extremes(rows, at, old)
    return rows


def keys_of(rows: Array, by: tuple[str, ...] = KEY) -> NDArray[np.uint64]:
    """One number for each row's key, in the order of KEY: a tenth of a struct's cost."""
    keys = np.zeros(len(rows), dtype=np.uint64)
    for name in by:
        keys |= rows[name].astype(np.uint64) << _KEY_SHIFTS[name]
    return keys


def common(before: Snapshot, after: Snapshot) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the rows that go on from `before`: (in `after`, in `before`).

    Not of those that have begun again: where a count fell.
    """
    vm_ids = {vm.identity: i for i, vm in enumerate(after.vms)}
    remap = np.array([vm_ids.get(vm.identity, -1) for vm in before.vms], dtype=np.int32)
    moved = remap[before.rows["vm"]].astype(np.uint64) << _KEY_SHIFTS["vm"]  # -1: no key has it
    old_keys = keys_of(before.rows, KEY[1:]) | moved
    _, new, old = np.intersect1d(keys_of(after.rows), old_keys, return_indices=True)
    fell = np.zeros(len(new), dtype=bool)
    for name in SUMS:
        less = after.rows[name][new] < before.rows[name][old]
        fell |= less.any(axis=tuple(range(1, less.ndim)))
    return new[~fell], old[~fell]


def _add_up(statuses: Array) -> Array:
    unique, group = np.unique(statuses[["row", "status"]], return_inverse=True)
    out = np.zeros(len(unique), dtype=STATUS)
    out["row"], out["status"] = unique["row"], unique["status"]
    np.add.at(out["count"], group, statuses["count"])
    return out


def _status_delta(
    before: Array, after: Array, moved: dict[int, int], keep: NDArray[np.bool_]
) -> Array:
    """Failures since `before`; `moved` maps its rows to those of `after`."""
    counts = {(row, status): count for row, status, count in after.tolist()}
    for row, status, count in before.tolist():
        key = (moved.get(row, -1), status)
        if counts.get(key, 0) >= count:
            counts[key] -= count
    index = np.cumsum(keep) - 1
    left = sorted((row, status, n) for (row, status), n in counts.items() if n and keep[row])
    return np.array([(index[row], status, n) for row, status, n in left], dtype=STATUS)


def _interval_extremes(rows: Array, at: NDArray[np.intp], old: Array) -> None:
    """Narrow min and max of `rows[at]`, which hold an interval's buckets now."""
    used = rows["buckets"][at] > 0
    any_used = used.any(axis=-1)
    lowest = LOWER_NS[used.argmax(axis=-1)].astype(np.uint64)
    highest = UPPER_NS[BUCKETS - 1 - used[:, ::-1].argmax(axis=-1)]
    low, high = rows["min_ns"][at], rows["max_ns"][at]
    low = np.where(low == old["min_ns"], np.maximum(low, lowest), low)
    capped = np.minimum(highest, high.astype(np.float64)).astype(np.uint64)
    high = np.where(high == old["max_ns"], capped, high)
    rows["min_ns"][at] = np.where(any_used, low, NO_MIN)
    rows["max_ns"][at] = np.where(any_used, high, 0)
