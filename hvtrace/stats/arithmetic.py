"""Differences and sums of tallies. Pure.

Some VMs at a time: what is worked on for a moment stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hvtrace.stats.histogram import BUCKETS, LOWER_NS, UPPER_NS
from hvtrace.stats.snapshot import NO_MIN
from hvtrace.stats.tally import EMPTY, TID_KEY, VM_KEY, Index, Ints, Tally, find, in_rows, narrow

_ROWS_AT_ONCE = 8192


def since(before: Tally, after: Tally) -> Tally:
    """What was counted after `before`; rows without anything new are left out.

    Sums and buckets are exact. The extremes are exact where those of the whole moved, else
    bounds of the outermost buckets. The counts of a thread that ended go on in the row of its
    VM's ended threads (tid 0), and are looked for there. A row with a count that fell has begun
    again, and all of it is new.
    """
    return _by_vms(_since, (before, after))


def add(first: Tally, second: Tally) -> Tally:
    """Both together."""
    return _by_vms(_add, (first, second))


def join(parts: Sequence[Tally]) -> Tally:
    """All rows of `parts`, each of which is in one of them only."""
    return parts[0] if len(parts) == 1 else _by_vms(_join, parts)


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
        values=narrow(values),
        calls=narrow(calls[used]),
        min_ns=low[used],
        max_ns=high[used],
        failures=in_rows(of_row[kept], failures[kept], rank),
        failed=failed[kept],
    )


def _places(counted: Tally, at: Index) -> NDArray[np.int64]:
    """`counted.places` where its row i is another tally's row at[i]."""
    return at[counted.rows] << 8 | counted.ids


def _moved(counted: Tally, at: Index) -> Ints:
    """`counted.failures`, likewise."""
    rows = at[(counted.failures >> np.uint64(16)).astype(np.intp)]
    return rows.astype(np.uint64) << np.uint64(16) | counted.failures & np.uint64(0xFFFF)
