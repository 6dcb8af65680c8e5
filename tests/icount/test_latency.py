"""Latencies against the kernel's log of the same calls, where the clock counts instructions.

Under QEMU's -icount the clock advances by 1 ns an instruction, whatever the
machine around it does, so two readings of it can be compared.

The log and hvtrace read the same clock one after the other at the same
tracepoint: first the log, then our program, as its last act at the start of a
call and early at its end. So the log's latency is longer by a few dozen
instructions (54 measured), and by more where the call made its thread's entry.
Now and then a timer tick falls in between: hence the few that may differ by more.
"""

from __future__ import annotations

import numpy as np
import pytest

from hvtrace.kernel.live import open_source
from hvtrace.stats.calls import Call
from hvtrace.stats.histogram import UPPER_NS
from tests.vm.run import Run, record

APART_NS = 400
TICKS = 0.01  # share of calls that may differ by more; and two of each row
TICK_NS = 50_000  # by no more than this


@pytest.fixture(scope="module")
def run() -> Run:
    with open_source() as source:
        return record(source)


@pytest.fixture(scope="module")
def pairs(run: Run) -> list[tuple[Call, np.ndarray]]:
    """(what hvtrace says, the log's latencies in ns, ascending), of all rows that completed."""
    logged, _ = run.logged
    rows = [(call, logged[key]) for key, call in run.traced.items() if call.completed]
    assert all(call.completed == len(one.latencies_ns) for call, one in rows)
    assert sum(call.completed for call, _ in rows) > 1000
    return [(call, np.sort(one.latencies_ns)) for call, one in rows]


def test_sums(pairs) -> None:
    for call, log_ns in pairs:
        ticks = 2 + TICKS * call.completed
        limit = APART_NS * call.completed + TICK_NS * ticks
        assert abs(int(log_ns.sum()) - call.latency.sum) <= limit, call


def test_extremes(pairs) -> None:
    for call, log_ns in pairs:
        assert abs(int(log_ns[0]) - call.latency.min) <= APART_NS + TICK_NS, call
        assert abs(int(log_ns[-1]) - call.latency.max) <= APART_NS + TICK_NS, call


def test_as_many_calls_below_each_bound_as_in_the_log(pairs) -> None:
    """Of every row and bucket: between the log's count a tolerance lower and one higher."""
    for call, log_ns in pairs:
        ticks = 2 + TICKS * call.completed
        below = np.cumsum(call.buckets)[:-1].astype(int)
        least = np.searchsorted(log_ns, UPPER_NS[:-1] - APART_NS, side="right")
        most = np.searchsorted(log_ns, UPPER_NS[:-1] + APART_NS, side="right")
        assert (below >= least - ticks).all(), call
        assert (below <= most + ticks).all(), call


def test_report_how_far_apart_they_are(pairs, record_property) -> None:
    """Not a check: the figure that the tolerance stands on, for the test report."""
    mean = [(int(log_ns.sum()) - call.latency.sum) / call.completed for call, log_ns in pairs]
    record_property("log_minus_hvtrace_ns_median", float(np.median(mean)))
    print(f"log - hvtrace: median {np.median(mean):.0f} ns, {min(mean):.0f} to {max(mean):.0f}")
    assert np.isfinite(mean).all()
