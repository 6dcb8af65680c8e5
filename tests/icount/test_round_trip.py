"""Round trips against the kernel's log of the same exits and entries, in instructions.

As in test_latency.py, the log and hvtrace read the same clock one after the other: the log's
times are longer by 150 instructions, because hvtrace first reads why the vCPU exited.
"""

from __future__ import annotations

import numpy as np
import pytest

from hvtrace.kernel.live import open_source
from hvtrace.stats.calls import Call
from hvtrace.stats.histogram import UPPER_NS
from tests.icount.test_latency import APART_NS, TICK_NS, TICKS
from tests.vm import trips
from tests.vm.run import Run, record


@pytest.fixture(scope="module")
def run() -> Run:
    with open_source(round_trip=True) as source:
        return record(source, events=trips.EVENTS)


@pytest.fixture(scope="module")
def pairs(run: Run) -> list[tuple[Call, np.ndarray, np.ndarray]]:
    """(hvtrace's row, its buckets, the log's round trips in ns, ascending), of completed calls."""
    logged = run.logged_trips_ns
    rows = [
        (call, trip["buckets"].astype(int), np.sort(logged[key]))
        for (key, call), trip in zip(run.traced.items(), run.snapshot.trips, strict=True)
        if call.completed
    ]
    assert all(call.trips == call.completed == len(log_ns) for call, _, log_ns in rows)
    assert sum(call.completed for call, *_ in rows) > 1000
    assert {call.handler for call, *_ in rows} == {"kernel", "vmm"}
    assert (run.snapshot.lost.no_trip, run.snapshot.lost.missed) == (0, 0)
    return rows


def test_sums(pairs) -> None:
    for call, _, log_ns in pairs:
        ticks = 2 + TICKS * call.trips
        limit = APART_NS * call.trips + TICK_NS * ticks
        assert abs(int(log_ns.sum()) - call.round_trip.sum) <= limit, call


def test_extremes(pairs) -> None:
    for call, _, log_ns in pairs:
        assert abs(int(log_ns[0]) - call.round_trip.min) <= APART_NS + TICK_NS, call
        assert abs(int(log_ns[-1]) - call.round_trip.max) <= APART_NS + TICK_NS, call


def test_as_many_below_each_bound_as_in_the_log(pairs) -> None:
    """Of every row and bucket: between the log's count a tolerance lower and one higher."""
    for call, buckets, log_ns in pairs:
        ticks = 2 + TICKS * call.trips
        below = np.cumsum(buckets)[:-1]
        least = np.searchsorted(log_ns, UPPER_NS[:-1] - APART_NS, side="right")
        most = np.searchsorted(log_ns, UPPER_NS[:-1] + APART_NS, side="right")
        assert (below >= least - ticks).all(), call
        assert (below <= most + ticks).all(), call


def test_report_how_far_apart_they_are(pairs, record_property) -> None:
    """Not a check: the figure that the tolerance stands on, for the test report."""
    mean = [(int(log_ns.sum()) - call.round_trip.sum) / call.trips for call, _, log_ns in pairs]
    record_property("log_minus_hvtrace_trip_ns_median", float(np.median(mean)))
    print(f"log - hvtrace: median {np.median(mean):.0f} ns, {min(mean):.0f} to {max(mean):.0f}")
    assert np.isfinite(mean).all()
