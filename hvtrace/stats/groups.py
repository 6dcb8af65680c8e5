"""Roll-ups of tallies: rows added up by any label. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hvtrace.stats.histogram import BUCKETS, extremes_ns
from hvtrace.stats.snapshot import NO_MIN
from hvtrace.stats.tally import (
    CELL,
    CELLS,
    FAST_KEY,
    SCALARS_AT,
    VMM_KEY,
    Floats,
    Index,
    Ints,
    Tally,
)

_CELLS_AT_ONCE = 1 << 18  # what is worked on stays small


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
    cells = _sums_of_cells(counted, labels, count, 0 if timed else SCALARS_AT)
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


def statuses_of(counted: Tally, rows: Index) -> dict[int, int]:
    """Failures of these rows together, by status; it is never 0."""
    chosen = np.isin(counted.failures >> np.uint64(16), rows)
    found: dict[int, int] = {}
    for place, number in zip(
        counted.failures[chosen].tolist(), counted.failed[chosen].tolist(), strict=True
    ):
        found[place & 0xFFFF] = found.get(place & 0xFFFF, 0) + number
    return found


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
