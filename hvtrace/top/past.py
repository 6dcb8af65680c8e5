"""How a row came to be what it is: its counters over the moments of the history. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvtrace.stats.histogram import BUCKETS
from hvtrace.stats.tally import CELLS, EMPTY, Floats, Index, Ints, Tally, find
from hvtrace.top.history import History
from hvtrace.top.model import Frame
from hvtrace.top.sheet import CALLS, Grouping, Sheet

SPARK_SECONDS = 60.0


def rows_in(counted: Tally, grouping: Grouping, key: int, calls_of_vms: Ints | None) -> Index:
    """The rows of `counted` that are added up in one row of a sheet, named by its key."""
    chosen = counted.keys & grouping.mask == np.uint64(key)
    if calls_of_vms is not None:
        chosen &= find(calls_of_vms, counted.keys & CALLS) >= 0
    return np.flatnonzero(chosen)


def spread(ends: Floats, spans: Floats, rates: Floats, edges: Floats) -> Floats:
    """`rates` of moments as rates of the equal stretches between `edges`.

    `ends` and `spans` say when each moment ended and how long it was, in seconds; `rates` has
    shape (moments, ...), the result (stretches, ...). NaN where no moment is.
    """
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(high, ends) - np.maximum(low, ends - spans), 0, None)
    covered = overlap.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = overlap / covered[:, None]
    shares[covered <= 0] = np.nan
    result: Floats = np.tensordot(shares, rates, axes=1) if len(ends) else _nothing(edges, rates)
    return result


def _nothing(edges: Floats, rates: Floats) -> Floats:
    return np.full((len(edges) - 1, *rates.shape[1:]), np.nan)


Sums = tuple[Ints, Floats]
"""Ascending keys, and the calls of each."""


class Sparks:
    """Rates of a sheet's rows in the last minute.

    Each moment is added up once for a grouping and a filter, not with every picture; and by VM
    and call once for all of those, but for vCPUs.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._of: tuple[Grouping, bytes | None] | None = None
        self._moments: dict[int, Sums] = {}  # by the frame's number
        self._calls: dict[int, Sums] = {}

    def rates(self, sheet: Sheet, width: int) -> Floats:
        """Calls per second of each row, shape (rows, width), the newest last; NaN: not known."""
        frame = sheet.frame
        frames = list(self._history.until(frame, SPARK_SECONDS))
        known_calls = self._calls
        self._calls = {one.number: known_calls.get(one.number) or _by_call(one) for one in frames}
        of = sheet.grouping, None if sheet.calls_of_vms is None else sheet.calls_of_vms.tobytes()
        known: dict[int, Sums] = self._moments if self._of == of else {}
        self._of = of
        self._moments = {
            one.number: known.get(one.number) or self._sums(one, sheet) for one in frames
        }
        counts = np.zeros((len(frames), len(sheet)))
        for i, (keys, calls) in enumerate(self._moments.values()):
            at = find(keys, sheet.keys)
            counts[i] = np.where(at >= 0, calls[at] if len(calls) else 0.0, 0.0)
        ends, spans = _times(frames)
        edges = np.linspace(frame.time - SPARK_SECONDS, frame.time, width + 1)
        rates = counts / np.maximum(spans, 1e-9)[:, None]
        return spread(ends, spans, rates, edges).T

    def _sums(self, frame: Frame, sheet: Sheet) -> Sums:
        """Calls of one moment by the sheet's keys."""
        keys, calls = self._calls[frame.number]
        if sheet.grouping is Grouping.VCPU and frame.counted:
            keys, calls = frame.counted.keys, frame.counted.calls.astype(np.float64)
        if sheet.calls_of_vms is not None:
            kept = find(sheet.calls_of_vms, keys & CALLS) >= 0
            keys, calls = keys[kept], calls[kept]
        return _added(keys & sheet.grouping.mask, calls)


def _by_call(frame: Frame) -> Sums:
    counted = frame.counted or EMPTY
    return _added(counted.keys & CALLS, counted.calls)


def _added(keys: Ints, calls: NDArray[np.number]) -> Sums:
    found, labels = np.unique(keys, return_inverse=True)
    return found, np.bincount(labels, calls, len(found)).astype(np.float64, copy=False)


def _times(frames: Sequence[Frame]) -> tuple[Floats, Floats]:
    return np.array([one.time for one in frames]), np.array([one.seconds for one in frames])


def moments(
    history: History, sheet: Sheet, key: int, seconds: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """One row over the last `seconds`: latency buckets (moments, BUCKETS), ends, spans, rates."""
    frames = list(history.until(sheet.frame, seconds))
    heat, calls = [], []
    for one in frames:
        counted = one.counted or EMPTY
        rows = rows_in(counted, sheet.grouping, key, sheet.calls_of_vms)
        # Not group(): of a thousand moments, only what is shown is added up.
        chosen = np.zeros(len(counted.keys), bool)
        chosen[rows] = True
        cells = np.repeat(chosen, np.diff(counted.start))
        sums = np.bincount(counted.ids[cells], counted.values[cells], CELLS)
        heat.append(sums[:BUCKETS])
        calls.append(counted.calls[rows].sum())
    ends, spans = _times(frames)
    rates = np.array(calls) / np.maximum(spans, 1e-9)
    return np.array(heat, dtype=np.float64).reshape(len(frames), BUCKETS), ends, spans, rates
