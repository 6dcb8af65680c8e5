"""Counters in compact columns: what a view can keep many of, and add up in any way.

A snapshot's row takes a kilobyte, most of it zeros. Here a row has cells: an id (a latency
bucket, or a counter) and a value that is not zero, so that 32,000 rows take two megabytes, and
every step is a few passes over arrays: differences and sums (arithmetic.py), roll-ups (groups.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.xmm import VERDICTS
from hvtrace.stats.histogram import BUCKETS
from hvtrace.stats.snapshot import KEY, SIZES, Array, Snapshot, rollup
from hvtrace.stats.table import ATTEMPTS

Ints = NDArray[np.uint64]
Index = NDArray[np.intp]
Floats = NDArray[np.float64]

REP_SIZES, VAR_SIZES = SIZES["reps"].shape[0], SIZES["var"].shape[0]

# Ids of cells. Latency buckets come first, so that a row's first cells are its histogram.
REPS_AT = BUCKETS
VAR_AT = REPS_AT + REP_SIZES
_SCALARS = ("sum_ns", "unfinished", "reps", "xmm_input", *ATTEMPTS, "trips", "trip_ns")
SCALARS_AT = VAR_AT + VAR_SIZES
CELL = {name: SCALARS_AT + i for i, name in enumerate(_SCALARS)}
CELLS = SCALARS_AT + len(_SCALARS)
assert CELLS <= 256  # an id is a byte

_AT_ONCE = 2048  # rows: what is worked on stays in a CPU's cache

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


EMPTY = Tally(
    *(np.zeros(0, np.uint64), np.zeros(1, np.int32), np.zeros(0, np.uint8)),
    *(np.zeros(0, np.uint32), np.zeros(0, np.uint32)),
    *(np.zeros(0, np.uint64) for _ in range(4)),
)
"""Nothing at all."""


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
    failures = in_rows(snapshot.statuses["row"], snapshot.statuses["status"], rank)
    by_place = np.argsort(failures)
    return Tally(
        keys=keys[order],
        start=np.concatenate(starts).astype(np.int32),
        ids=np.concatenate(ids),
        values=narrow(np.concatenate(values)),
        calls=narrow(calls),
        min_ns=snapshot.rows["min_ns"][order],
        max_ns=snapshot.rows["max_ns"][order],
        failures=failures[by_place],
        failed=snapshot.statuses["count"][by_place].astype(np.uint64),
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


def find(among: NDArray[np.integer], wanted: NDArray[np.integer]) -> Index:
    """Where each of `wanted` is in the ascending `among`; -1 where it is not."""
    if len(among) == len(wanted) and (among == wanted).all():  # as in most intervals
        return np.arange(len(among))
    at = np.searchsorted(among, wanted)
    at[at == len(among)] = -1
    there = among[at] == wanted if len(among) else np.zeros(len(wanted), bool)
    return np.where(there, at, -1)


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


def in_rows(row: Index, status: NDArray[np.integer], rank: Index) -> Ints:
    """Failures where row i has become rank[i]; of `status` the lowest 16 bits count."""
    return rank[row].astype(np.uint64) << np.uint64(16) | status.astype(np.uint64) & np.uint64(
        0xFFFF
    )


def narrow(values: NDArray[np.number]) -> NDArray[np.unsignedinteger]:
    """In as few bytes as hold the greatest: uint32, or uint64."""
    most = values.max(initial=0)
    return values.astype(np.uint32 if most <= 0xFFFF_FFFF else np.uint64)
