"""Counters in compact columns: what a view can keep many of, and add up in any way.

A snapshot's row takes a kilobyte, most of it zeros. Here a row has cells: an id (a latency
bucket, or a counter) and a value that is not zero, so that 32,000 rows take two megabytes, and
every step is a few passes over arrays: a difference, a sum, a roll-up by any part of the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.xmm import VERDICTS
from hvtrace.stats.histogram import BUCKETS, LOWER_NS, UPPER_NS, extremes_ns
from hvtrace.stats.snapshot import KEY, NO_MIN, SIZES, Array, Snapshot, rollup
from hvtrace.stats.table import ATTEMPTS

Ints = NDArray[np.uint64]
Index = NDArray[np.intp]
Floats = NDArray[np.float64]

REP_SIZES, VAR_SIZES = SIZES["reps"].shape[0], SIZES["var"].shape[0]

# Ids of cells. Latency buckets come first, so that a row's first cells are its histogram.
REPS_AT = BUCKETS
VAR_AT = REPS_AT + REP_SIZES
_SCALARS = ("sum_ns", "unfinished", "reps", "xmm_input", *ATTEMPTS, "trips", "trip_ns")
_SCALARS_AT = VAR_AT + VAR_SIZES
CELL = {name: _SCALARS_AT + i for i, name in enumerate(_SCALARS)}
CELLS = _SCALARS_AT + len(_SCALARS)
assert CELLS <= 256  # an id is a byte

_AT_ONCE = 2048  # rows: what is worked on stays in a CPU's cache
_ROWS_AT_ONCE, _CELLS_AT_ONCE = 8192, 1 << 18  # likewise, of what takes less room

VM_SHIFT, TID_SHIFT, CODE_SHIFT = 40, 18, 2
VM_KEY = np.uint64(0xFFFFFF << VM_SHIFT)
TID_KEY = np.uint64(0x3FFFFF << TID_SHIFT)
CODE_KEY = np.uint64(0xFFFF << CODE_SHIFT)
FAST_KEY, VMM_KEY = np.uint64(2), np.uint64(1)


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows by key: VM (a number that its maker chose), thread, code, fast, handler.

    Row i has the cells `start[i]` to `start[i + 1]`, by ascending id. What is zero has no cell.
    """

    keys: Ints  # (rows,) ascending
    start: NDArray[np.int32]  # (rows + 1,)
    ids: NDArray[np.uint8]  # (cells,)
    values: NDArray[np.unsignedinteger]  # (cells,) uint32 where that holds them, else uint64
    calls: NDArray[np.unsignedinteger]  # (rows,) that are over: completed or not
    min_ns: Ints  # (rows,) NO_MIN where nothing has completed
    max_ns: Ints  # (rows,)
    failures: Ints  # (failures,) ascending: row << 16 | status
    failed: Ints  # (failures,) how many

    @property
    def nbytes(self) -> int:
        """Memory of it all."""
        return sum(getattr(self, name).nbytes for name in self.__slots__)

    @property
    def completed(self) -> Ints:
        """Calls of each row that got a result."""
        counts = self.calls.astype(np.uint64)
        never = np.flatnonzero(self.ids == CELL["unfinished"])
        counts[self.rows[never]] -= self.values[never]
        return counts

    @property
    def rows(self) -> Index:
        """The row of each cell."""
        return np.repeat(np.arange(len(self.keys)), np.diff(self.start))

    @property
    def places(self) -> NDArray[np.int64]:
        """One ascending number for each cell: its row << 8 | its id."""
        return self.rows << 8 | self.ids


def tally(snapshot: Snapshot, numbers: Sequence[int]) -> Tally:
    """All of `snapshot`; `numbers` are the VMs' numbers, in the order of `snapshot.vms`."""
    keys = _keys(snapshot, numbers)
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        return tally(rollup(snapshot, KEY), numbers)
    starts, ids, values = [np.zeros(1, np.int64)], [np.zeros(0, np.uint8)], [np.zeros(0, np.uint64)]
    calls = np.zeros(len(order), np.uint64)
    for first in range(0, len(order), _AT_ONCE):
        dense = _dense(snapshot, order[first : first + _AT_ONCE])
        calls[first : first + len(dense)] = (
            dense[:, :BUCKETS].sum(axis=1) + dense[:, CELL["unfinished"]]
        )
        at = np.flatnonzero(dense.ravel() != 0)  # of booleans: several times as fast
        row, id_of = np.divmod(at, CELLS)
        starts.append(starts[-1][-1] + np.cumsum(np.bincount(row, minlength=len(dense))))
        ids.append(id_of.astype(np.uint8))
        values.append(dense.ravel()[at])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    failures = _in_rows(snapshot.statuses["row"], snapshot.statuses["status"], rank)
    by_place = np.argsort(failures)
    return Tally(
        keys=keys[order],
        start=np.concatenate(starts).astype(np.int32),
        ids=np.concatenate(ids),
        values=_narrow(np.concatenate(values)),
        calls=_narrow(calls),
        min_ns=snapshot.rows["min_ns"][order],
        max_ns=snapshot.rows["max_ns"][order],
        failures=failures[by_place],
        failed=snapshot.statuses["count"][by_place].astype(np.uint64),
    )


EMPTY = Tally(
    *(np.zeros(0, np.uint64), np.zeros(1, np.int32), np.zeros(0, np.uint8)),
    *(np.zeros(0, np.uint32), np.zeros(0, np.uint32)),
    *(np.zeros(0, np.uint64) for _ in range(4)),
)
"""Nothing at all."""


def since(before: Tally, after: Tally) -> Tally:
    """What was counted after `before`; rows without anything new are left out.

    Sums and buckets are exact. The extremes are exact where those of the whole moved, else
    bounds of the outermost buckets. The counts of a thread that ended go on in the row of its
    VM's ended threads (tid 0), and are looked for there. A row with a count that fell has begun
    again, and all of it is new.
    """
    return _by_vms(_since, (before, after))


def _since(parts: Sequence[Tally]) -> Tally:
    before, after = parts
    if not len(after.keys):
        return EMPTY
    before, at, cells = _continued(before, after)
    values, calls = after.values.astype(np.uint64), after.calls.astype(np.uint64)
    values[cells] -= before.values
    calls[at] -= before.calls
    counts, known = after.failed.copy(), find(after.failures, _moved(before, at))
    there = known >= 0
    counts[known[there]] -= np.minimum(before.failed[there], counts[known[there]])
    left = np.flatnonzero(values)
    found = after.rows[left], after.ids[left], values[left]
    extremes = _extremes(after, before, at, found)
    return _build(after.keys, calls, found, extremes, (after.failures, counts))


def add(first: Tally, second: Tally) -> Tally:
    """Both together."""
    return _by_vms(_add, (first, second))


def _add(parts: Sequence[Tally]) -> Tally:
    first, second = parts
    keys = np.unique(np.concatenate((first.keys, second.keys)))
    at = [np.searchsorted(keys, part.keys) for part in (first, second)]
    calls, high = np.zeros((2, len(keys)), np.uint64)
    low = np.full(len(keys), NO_MIN)
    for part, rows in zip((first, second), at, strict=True):
        np.add.at(calls, rows, part.calls.astype(np.uint64))
        np.minimum.at(low, rows, part.min_ns)
        np.maximum.at(high, rows, part.max_ns)
    places, values = _sum(
        np.concatenate((_places(first, at[0]), _places(second, at[1]))),
        np.concatenate((first.values, second.values)),
    )
    failures, failed = _sum(
        np.concatenate((_moved(first, at[0]), _moved(second, at[1]))),
        np.concatenate((first.failed, second.failed)),
    )
    found = places >> 8, places.astype(np.uint8), values
    return _build(keys, calls, found, (low, high), (failures.astype(np.uint64), failed))


def join(parts: Sequence[Tally]) -> Tally:
    """All rows of `parts`, each of which is in one of them only."""
    return parts[0] if len(parts) == 1 else _by_vms(_join, parts)


def _join(parts: Sequence[Tally]) -> Tally:
    keys = np.concatenate([part.keys for part in parts])
    order = np.argsort(keys, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    count = np.concatenate([np.diff(part.start) for part in parts])
    begin = np.cumsum(count) - count  # of a row's cells, one part behind the other
    start = np.concatenate(([0], np.cumsum(count[order])))
    cells = np.repeat(begin[order] - start[:-1], count[order]) + np.arange(start[-1])
    above = np.cumsum([0, *(len(part.keys) for part in parts)])
    failures = [
        _moved(part, rank[first : first + len(part.keys)])
        for part, first in zip(parts, above.tolist(), strict=False)
    ]
    by_place = np.argsort(np.concatenate(failures))

    def all_of(name: str) -> NDArray[np.unsignedinteger]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Tally(
        keys=keys[order],
        start=start.astype(np.int32),
        ids=np.concatenate([part.ids for part in parts])[cells],
        values=all_of("values")[cells],
        calls=all_of("calls")[order],
        min_ns=np.concatenate([part.min_ns for part in parts])[order],
        max_ns=np.concatenate([part.max_ns for part in parts])[order],
        failures=np.concatenate(failures)[by_place],
        failed=np.concatenate([part.failed for part in parts])[by_place],
    )


def settled(counted: Tally) -> Tally:
    """The same for long: in one mapping, that goes back to the kernel as soon as it is not used.

    Many arrays that live for minutes amid others that live for a moment leave a heap of holes.
    """
    arrays = {name: getattr(counted, name) for name in counted.__slots__}
    ends = np.cumsum([-(-one.nbytes // 8) * 8 for one in arrays.values()]).tolist()
    room = mmap(-1, max(ends[-1], 1), MAP_PRIVATE | MAP_ANONYMOUS)
    copies = {
        name: np.frombuffer(room, one.dtype, len(one), end - -(-one.nbytes // 8) * 8)
        for (name, one), end in zip(arrays.items(), ends, strict=True)
    }
    for name, one in arrays.items():
        copies[name][:] = one
    return Tally(**copies)


_OUTLINE = np.isin(np.arange(CELLS), [CELL[name] for name in ("unfinished", "trips", *ATTEMPTS)])


def outline(counted: Tally) -> Tally:
    """All rows and failures, but only the counts of what is rare: a fraction of the cells.

    What is left of `since` and `add` are their counts, exactly; times mean nothing.
    """
    kept = np.flatnonzero(_OUTLINE[counted.ids])
    return replace(
        counted,
        start=np.searchsorted(kept, counted.start).astype(np.int32),
        ids=counted.ids[kept],
        values=counted.values[kept],
    )


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows added up. Of shape (groups,) but for `cells`."""

    cells: Floats  # (groups, CELLS), or without those before the counters: (groups, fewer)
    min_ns: Ints  # mean nothing where nothing has completed, as the next
    max_ns: Ints
    calls: Floats
    fast: Floats  # calls with parameters in registers
    vmm: Floats  # calls served by the VMM
    failures: Floats

    @property
    def buckets(self) -> Floats:
        """Completed calls by service time, (groups, BUCKETS)."""
        return self.cells[:, :BUCKETS]

    @property
    def completed(self) -> Floats:
        """Calls that got a result."""
        return self.calls - self["unfinished"]

    def take(self, groups: Index) -> Groups:
        """Only these, in this order."""
        return Groups(*(getattr(self, name)[groups] for name in self.__slots__))

    def __getitem__(self, name: str) -> Floats:
        """A counter, by its name in CELL."""
        return self.cells[:, CELL[name] - CELLS]


def group(counted: Tally, labels: Index, count: int, *, timed: bool = True) -> Groups:
    """Add up the rows of each label, 0 to `count` - 1; rows with label -1 are left out.

    Without `timed` the result has counters only: there is not more in an outline.
    """
    used = np.flatnonzero(labels >= 0)
    label = labels[used]
    calls = counted.calls[used].astype(np.float64)
    keys = counted.keys[used]

    def of_rows(weights: Floats) -> Floats:
        return _sums(label, weights, count)

    low, high = np.full(count, NO_MIN), np.zeros(count, np.uint64)
    np.minimum.at(low, label, counted.min_ns[used])
    np.maximum.at(high, label, counted.max_ns[used])
    of_failure = labels[(counted.failures >> np.uint64(16)).astype(np.intp)]
    failing = np.flatnonzero(of_failure >= 0)
    cells = _sums_of_cells(counted, labels, count, 0 if timed else _SCALARS_AT)
    if timed:
        low, high = extremes_ns(cells[:, :BUCKETS], low, high)
    return Groups(
        cells=cells,
        min_ns=low,
        max_ns=high,
        calls=of_rows(calls),
        fast=of_rows(np.where(keys & FAST_KEY, calls, 0.0)),
        vmm=of_rows(np.where(keys & VMM_KEY, calls, 0.0)),
        failures=_sums(of_failure[failing], counted.failed[failing], count),
    )


def _sums_of_cells(counted: Tally, labels: Index, count: int, first: int) -> Floats:
    """Sums of the cells from id `first` on, by label: (count, CELLS - first)."""
    width = CELLS - first
    sums = np.zeros(count * width)
    bounds = np.arange(0, len(counted.ids), _CELLS_AT_ONCE)
    cuts = [*np.searchsorted(counted.start[:-1], bounds).tolist(), len(labels)]
    for begin, end in pairwise(cuts):
        starts = counted.start[begin : end + 1]
        cells = slice(starts[0], starts[-1])
        place = np.repeat(labels[begin:end] * width - first, np.diff(starts))
        place += counted.ids[cells]
        values = counted.values[cells]
        if first or (labels[begin:end] < 0).any():
            kept = np.flatnonzero((counted.ids[cells] >= first) & (place >= 0))
            place, values = place[kept], values[kept]
        sums += _sums(place, values, len(sums))
    return sums.reshape(count, width)


def _sums(labels: Index, weights: NDArray[np.number], count: int) -> Floats:
    """Sum of the weights of each label."""
    return np.bincount(labels, weights, count).astype(np.float64, copy=False)  # of none: integers


def statuses_of(counted: Tally, rows: Index) -> dict[int, int]:
    """Failures of these rows together, by status; it is never 0."""
    chosen = np.isin(counted.failures >> np.uint64(16), rows)
    found: dict[int, int] = {}
    for place, number in zip(
        counted.failures[chosen].tolist(), counted.failed[chosen].tolist(), strict=True
    ):
        found[place & 0xFFFF] = found.get(place & 0xFFFF, 0) + number
    return found


def _keys(snapshot: Snapshot, numbers: Sequence[int]) -> Ints:
    rows, vm = snapshot.rows, np.array(numbers, dtype=np.uint64)
    keys: Ints = rows["fast"].astype(np.uint64) << np.uint64(1) | rows["handler"]
    if len(rows):
        keys |= vm[rows["vm"]] << np.uint64(VM_SHIFT)
    for name, shift in (("tid", TID_SHIFT), ("code", CODE_SHIFT)):
        keys |= rows[name].astype(np.uint64) << np.uint64(shift)
    return keys


def _dense(snapshot: Snapshot, some: Index) -> Ints:
    """All cells of some rows, zeros too."""
    rows = snapshot.rows
    dense = np.zeros((len(some), CELLS), np.uint64)
    dense[:, :BUCKETS] = rows["buckets"][some]
    for name in ("sum_ns", "unfinished", "reps", "xmm_input"):
        dense[:, CELL[name]] = rows[name][some]
    verdicts = rows["xmm_output"][some]
    for name in ATTEMPTS:
        dense[:, CELL[name]] = verdicts[:, VERDICTS.index(name)]
    if len(snapshot.sizes):
        dense[:, REPS_AT:VAR_AT] = snapshot.sizes["reps"][some]
        dense[:, VAR_AT : VAR_AT + VAR_SIZES] = snapshot.sizes["var"][some]
    if len(snapshot.trips):
        trips: Array = snapshot.trips[some]
        dense[:, CELL["trips"]] = trips["buckets"].sum(axis=1)
        dense[:, CELL["trip_ns"]] = trips["sum_ns"]
    return dense


def _by_vms(do: Callable[[Sequence[Tally]], Tally], parts: Sequence[Tally]) -> Tally:
    """`do` it with some VMs of all `parts` after the other: what is worked on stays small."""
    some = np.sort(np.concatenate([part.keys[::64] for part in parts]))
    bounds = np.unique(some[:: _ROWS_AT_ONCE // 64][1:] & VM_KEY)
    if not len(bounds):
        return do(parts)
    cuts = [[0, *np.searchsorted(part.keys, bounds).tolist(), len(part.keys)] for part in parts]
    return _chain(
        [
            do([_slice(part, *cut) for part, cut in zip(parts, of_parts, strict=True)])
            for of_parts in zip(*map(pairwise, cuts), strict=True)
        ]
    )


def _slice(counted: Tally, first: int, last: int) -> Tally:
    """Rows `first` to `last` - 1, without a copy of most."""
    cells = slice(counted.start[first], counted.start[last])
    failures = slice(*np.searchsorted(counted.failures, np.array([first, last], np.uint64) << 16))
    return Tally(
        keys=counted.keys[first:last],
        start=counted.start[first : last + 1] - counted.start[first],
        ids=counted.ids[cells],
        values=counted.values[cells],
        calls=counted.calls[first:last],
        min_ns=counted.min_ns[first:last],
        max_ns=counted.max_ns[first:last],
        failures=counted.failures[failures] - (np.uint64(first) << np.uint64(16)),
        failed=counted.failed[failures],
    )


def _chain(parts: Sequence[Tally]) -> Tally:
    """One behind the other: keys go on ascending."""

    def all_of(name: str) -> NDArray[np.unsignedinteger]:
        return np.concatenate([getattr(part, name) for part in parts])

    rows = np.cumsum([0, *(len(part.keys) for part in parts)]).astype(np.uint64)
    cells = np.cumsum([0, *(len(part.ids) for part in parts)])
    failures = [
        part.failures + (first << np.uint64(16)) for part, first in zip(parts, rows, strict=False)
    ]
    starts = [part.start[:-1] + first for part, first in zip(parts, cells, strict=False)]
    return Tally(
        keys=all_of("keys").astype(np.uint64),
        start=np.concatenate([*starts, cells[-1:]]).astype(np.int32),
        ids=np.concatenate([part.ids for part in parts]),
        values=all_of("values"),
        calls=all_of("calls"),
        min_ns=np.concatenate([part.min_ns for part in parts]),
        max_ns=np.concatenate([part.max_ns for part in parts]),
        failures=np.concatenate(failures),
        failed=np.concatenate([part.failed for part in parts]),
    )


def _build(
    keys: Ints,
    calls: NDArray[np.unsignedinteger],
    cells: tuple[Index, NDArray[np.uint8], NDArray[np.unsignedinteger]],
    extremes: tuple[Ints, Ints],
    failing: tuple[Ints, Ints],
) -> Tally:
    """A Tally of cells (their rows, ascending, ids, and values that are not 0).

    Rows without calls or cells are left out, all else is of all rows; so are failures that are 0.
    """
    (row, ids, values), (low, high), (failures, failed) = cells, extremes, failing
    count = np.bincount(row, minlength=len(keys))
    is_used = (count > 0) | (calls > 0)
    used = np.flatnonzero(is_used)
    rank = np.cumsum(is_used) - 1
    of_row = (failures >> np.uint64(16)).astype(np.intp)
    kept = np.flatnonzero((failed > 0) & is_used[of_row]) if len(failures) else of_row
    return Tally(
        keys=keys[used],
        start=np.concatenate(([0], np.cumsum(count[used]))).astype(np.int32),
        ids=ids,
        values=_narrow(values),
        calls=_narrow(calls[used]),
        min_ns=low[used],
        max_ns=high[used],
        failures=_in_rows(of_row[kept], failures[kept], rank),
        failed=failed[kept],
    )


def _in_rows(row: Index, status: NDArray[np.integer], rank: Index) -> Ints:
    """Failures where row i has become rank[i]; of `status` the lowest 16 bits count."""
    return rank[row].astype(np.uint64) << np.uint64(16) | status.astype(np.uint64) & np.uint64(
        0xFFFF
    )


def _narrow(values: NDArray[np.number]) -> NDArray[np.unsignedinteger]:
    most = values.max(initial=0)
    return values.astype(np.uint32 if most <= 0xFFFF_FFFF else np.uint64)


def _sum(
    places: NDArray[np.integer], values: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.integer], Ints]:
    """Ascending `places`, each once, and the sums of their `values`."""
    order = np.argsort(places, kind="stable")
    places = places[order]
    first = np.flatnonzero(np.append(True, places[1:] != places[:-1])[: len(places)])
    if not len(first):
        return places, np.zeros(0, np.uint64)
    return places[first], np.add.reduceat(values[order].astype(np.uint64), first)


def _continued(before: Tally, after: Tally) -> tuple[Tally, Index, Index]:
    """`before` as `after` goes on from it, where its rows are in there, and where its cells are."""
    while True:
        at = find(after.keys, before.keys)
        cells = _cells_in(after, before, at)
        fell = (cells < 0) | (after.values[cells] < before.values)
        gone = (at < 0) | (after.calls[at] < before.calls)
        gone[before.rows[fell]] = True
        if not gone.any():
            return before, at, cells
        ended = _select(before, gone & (before.keys & TID_KEY != 0))
        before = add(_select(before, ~gone), replace(ended, keys=ended.keys & ~TID_KEY))


def _cells_in(after: Tally, before: Tally, at: Index) -> Index:
    """Where the cells of `before` are in `after`, -1: nowhere; `at` says it of the rows.

    Most rows have the cells that they had: only what is not at its old place in its row is
    looked for, which would take most of the time.
    """
    count = np.diff(before.start)
    moved = np.where(at >= 0, after.start[at] - before.start[:-1], 0)
    cells: Index = np.arange(len(before.ids)) + np.repeat(moved, count)
    look = after.ids[np.minimum(cells, len(after.ids) - 1)] != before.ids
    look |= np.repeat(at < 0, count)
    some = np.flatnonzero(look)
    row = np.searchsorted(before.start, some, side="right") - 1
    cells[some] = find(after.places, at[row] << 8 | before.ids[some])
    return cells


def _select(counted: Tally, mask: NDArray[np.bool_]) -> Tally:
    """Only the rows where `mask`."""
    rows = counted.rows
    kept = np.flatnonzero(mask[rows])
    failures = mask[(counted.failures >> np.uint64(16)).astype(np.intp)]
    return _build(
        counted.keys,
        np.where(mask, counted.calls, 0),
        (rows[kept], counted.ids[kept], counted.values[kept]),
        (counted.min_ns, counted.max_ns),
        (counted.failures[failures], counted.failed[failures]),
    )


def _extremes(
    after: Tally,
    before: Tally,
    at: Index,
    cells: tuple[Index, NDArray[np.uint8], NDArray[np.unsignedinteger]],
) -> tuple[Ints, Ints]:
    """Minimum and maximum of what is left of `after` in `cells`, as far as they are known."""
    timed = np.flatnonzero(cells[1] < BUCKETS)
    rows, ids = cells[0][timed], cells[1][timed]
    lowest, highest = np.full((2, len(after.keys)), -1)
    lowest[rows[::-1]] = ids[::-1]  # of several, the last one written stays
    highest[rows] = ids
    low, high = after.min_ns.copy(), after.max_ns.copy()
    stood = at[low[at] == before.min_ns]
    low[stood] = np.maximum(low[stood], LOWER_NS[lowest[stood]].astype(np.uint64))
    stood = at[high[at] == before.max_ns]
    bound = np.minimum(UPPER_NS[highest[stood]], high[stood].astype(np.float64))
    high[stood] = bound.astype(np.uint64)
    nothing = highest < 0
    low[nothing], high[nothing] = NO_MIN, 0
    return low, high


def find(among: NDArray[np.integer], wanted: NDArray[np.integer]) -> Index:
    """Where each of `wanted` is in the ascending `among`; -1 where it is not."""
    if len(among) == len(wanted) and (among == wanted).all():  # as in most intervals
        return np.arange(len(among))
    at = np.searchsorted(among, wanted)
    at[at == len(among)] = -1
    there = among[at] == wanted if len(among) else np.zeros(len(wanted), bool)
    return np.where(there, at, -1)


def _places(counted: Tally, at: Index) -> NDArray[np.int64]:
    """`counted.places` where its row i is another tally's row at[i]."""
    return at[counted.rows] << 8 | counted.ids


def _moved(counted: Tally, at: Index) -> Ints:
    """`counted.failures`, likewise."""
    rows = at[(counted.failures >> np.uint64(16)).astype(np.intp)]
    return rows.astype(np.uint64) << np.uint64(16) | counted.failures & np.uint64(0xFFFF)
