"""A row over the moments of the history: its sparkline, its heatmap, all of its detail."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from samples import START, bucket_of, row, snapshot, vm

from hvtrace.stats.histogram import BUCKETS
from hvtrace.top.detail import MOST_PARTS, detail
from hvtrace.top.history import FRAME_BYTES, History
from hvtrace.top.model import Model
from hvtrace.top.past import SPARK_SECONDS, Sparks, moments, spread
from hvtrace.top.sheet import Grouping, Scope, View, sheet

WIN11, WIN12 = vm("win11", 1009, vcpus=2), vm("win12", 1013, vcpus=1)
NAN = math.nan


def lived(*moments_of_rows, seconds=1.0, **limits):
    """A history of cumulative rows, one list for each moment, and its newest frame."""
    model, history = Model(), History(**limits)
    for i, rows in enumerate([[], *moments_of_rows]):
        frame = model.feed(snapshot(rows, [WIN11, WIN12], time=START + i * seconds))
        history.append(frame)
    return history, frame


def flushes(*counts):
    """Growing counts of one call of win11, and a constant one of win12."""
    done, out = 0, []
    for i, count in enumerate(counts, 1):
        done += count
        out.append(
            [
                row(WIN11, 2, latencies_ns=[700] * done, tid=31, vcpu=0),
                row(WIN12, 3, latencies_ns=[1500] * 5 * i, tid=37, vcpu=0),
            ]
        )
    return out


def close(found, expected):
    np.testing.assert_allclose(found, expected)


def test_moments_are_spread_over_equal_stretches():
    ends, spans = np.array([2.0, 3.0, 5.0]), np.array([2.0, 1.0, 2.0])
    rates = np.array([3.0, 7.0, 11.0])
    close(spread(ends, spans, rates, np.array([0.0, 2, 4, 6])), [3, 9, 11])
    close(spread(ends, spans, rates, np.array([-2.0, 0, 1, 2, 2.5])), [NAN, 3, 3, 7])
    two = np.stack([rates, 2 * rates], axis=1)
    close(spread(ends, spans, two, np.array([0.0, 2, 4])), [[3, 6], [9, 18]])


def test_where_there_is_no_moment_nothing_is_known():
    nothing = np.zeros(0)
    close(spread(nothing, nothing, nothing, np.arange(4.0)), [NAN] * 3)
    close(spread(nothing, nothing, np.zeros((0, 2)), np.arange(3.0)), [[NAN] * 2] * 2)


def test_rates_of_the_last_minute_newest_last():
    history, frame = lived(*flushes(3, 5, 7))
    found = Sparks(history).rates(sheet(frame, View()), 60)
    assert found.shape == (2, 60)
    assert np.isnan(found[:, :-3]).all()
    close(found[:, -3:], [[3, 5, 7], [5, 5, 5]])


def test_rates_in_fewer_columns_are_means():
    history, frame = lived(*flushes(*[2, 4] * 30))
    close(Sparks(history).rates(sheet(frame, View()), 6)[0], [3] * 6)


def test_rates_follow_grouping_filter_and_rows():
    history, frame = lived(*flushes(3, 5, 7))
    sparks = Sparks(history)
    for view, expected in (
        (View(), [[7], [5]]),
        (View(Grouping.HOST), [[12]]),
        (View(Grouping.HOST, filter="win12"), [[5]]),
        (View(Grouping.VCPU), [[7], [5]]),
        (View(), [[7], [5]]),
    ):
        found = sheet(frame, view)
        close(sparks.rates(found, 60)[:, -1:], expected)
        order = np.arange(len(found))[::-1]
        close(sparks.rates(found.take(order), 60)[:, -1:], expected[::-1])


def test_rates_end_with_the_picture_that_is_looked_at():
    history, frame = lived(*flushes(3, 5, 7))
    earlier = history.before(frame)
    close(Sparks(history).rates(sheet(earlier, View()), 60)[0, -2:], [3, 5])


def test_a_row_that_was_not_there_called_nothing():
    late = [[], [], [row(WIN11, 2, latencies_ns=[700] * 7)]]
    history, frame = lived(*late)
    close(Sparks(history).rates(sheet(frame, View()), 60)[0, -3:], [0, 0, 7])


def test_only_new_moments_are_added_up():
    history, frame = lived(*flushes(*[3] * 70))
    sparks, view = Sparks(history), View()
    first = sparks.rates(sheet(frame, view), 60)
    kept = dict(sparks._moments)
    assert len(kept) == SPARK_SECONDS
    close(sparks.rates(sheet(frame, view), 60), first)
    assert all(sparks._moments[number] is sums for number, sums in kept.items())


def test_moments_of_a_row():
    rows = [
        [row(WIN11, 2, latencies_ns=[700] * 3, tid=31), row(WIN11, 2, latencies_ns=[700], tid=37)],
        [
            row(WIN11, 2, latencies_ns=[700] * 3 + [10**6] * 2, tid=31),
            row(WIN11, 2, latencies_ns=[700] * 8, tid=37),
            row(WIN11, 3, latencies_ns=[9] * 99, tid=37),
        ],
    ]
    history, frame = lived(*rows, seconds=2.0)
    found = sheet(frame, View())
    heat, ends, spans, rates = moments(history, found, int(found.keys[0]), 60)
    assert heat.shape == (2, BUCKETS)
    assert heat[:, bucket_of(700)].tolist() == [4, 7]
    assert heat[:, bucket_of(10**6)].tolist() == [0, 2]
    assert heat.sum() == 13
    close(ends, [START + 2, START + 4])
    close(spans, [2, 2])
    close(rates, [2, 4.5])


BUSY = [
    row(
        WIN11,
        2,
        fast=True,
        latencies_ns=[700] * 11,
        tid=31,
        vcpu=0,
        xmm_input=7,
        reps=23,
        statuses={5: 2, 3: 3},
        xmm_output={"refused": 5, "used-gpr": 2},
        sizes=[(1, 0)] * 5 + [(4, 3)] * 2,
    ),
    row(
        WIN11,
        2,
        fast=True,
        handler="vmm",
        latencies_ns=[10**6] * 2,
        unfinished=3,
        tid=37,
        vcpu=1,
        sizes=[],
    ),
    row(WIN12, 2, latencies_ns=[900] * 5, tid=41, vcpu=0, sizes=[]),
    row(WIN11, 3, latencies_ns=[900] * 17, tid=31, vcpu=0, sizes=[]),
]


def detail_of(label, view):
    history, frame = lived(BUSY)
    found = sheet(frame, view)
    titles = [detail(found, i, history).title for i in range(len(found))]
    return detail(found, titles.index(label), history)


def parts(some):
    return [(part.label, part.calls) for part in some]


def test_detail_of_a_call_of_a_vm():
    found = detail_of("win11  FlushVirtualAddressSpace", View())
    assert (found.code, found.span, found.seconds) == (2, "last 1.00s", 1)
    assert (found.whole.calls, found.completed, found.unfinished) == (16, 13, 3)
    assert (found.fast, found.xmm_input, found.reps_completed) == (16, 7, 23)
    assert found.verdicts == {"refused": 5, "used-gpr": 2}
    assert found.statuses == {
        "SUCCESS": 8,
        "INVALID_HYPERCALL_INPUT": 3,
        "INVALID_PARAMETER": 2,
    }
    assert found.buckets.sum() == found.heat.sum() == 13
    assert found.reps.tolist() == [5, 0, 2, *[0] * 9]
    assert found.var.tolist() == [0, 2, *[0] * 8]
    assert parts(found.handlers) == [("vmm", 5), ("kernel", 11)]  # by time
    assert parts(found.vcpus) == [("vCPU 1", 5), ("vCPU 0", 11)]
    assert found.calls == found.vms == ()
    vmm = found.handlers[0]
    assert (vmm.time_ns, vmm.mean_ns, vmm.p50_ns, vmm.max_ns) == (2e6, 1e6, 1e6, 1e6)


@pytest.mark.parametrize(
    ("view", "title", "calls", "vms", "vcpus"),
    [
        (
            View(Grouping.VM),
            "win11",
            [("FlushVirtualAddressSpace", 16), ("FlushVirtualAddressList", 17)],
            [],
            [("vCPU 1", 5), ("vCPU 0", 28)],
        ),
        (
            View(Grouping.CALL),
            "FlushVirtualAddressSpace",
            [],
            [("win11", 16), ("win12", 5)],
            [("win11 vCPU 1", 5), ("win11 vCPU 0", 11), ("win12 vCPU 0", 5)],
        ),
        (
            View(Grouping.VCPU),
            "win12  vCPU 0",
            [("FlushVirtualAddressSpace", 5)],
            [],
            [("vCPU 0", 5)],
        ),
        (
            View(Grouping.HOST),
            "all VMs",
            [("FlushVirtualAddressSpace", 21), ("FlushVirtualAddressList", 17)],
            [("win11", 33), ("win12", 5)],
            [("win11 vCPU 1", 5), ("win11 vCPU 0", 28), ("win12 vCPU 0", 5)],
        ),
        (
            View(Grouping.HOST, filter="win12"),
            "all VMs",
            [("FlushVirtualAddressSpace", 5)],
            [("win12", 5)],
            [("win12 vCPU 0", 5)],
        ),
    ],
)
def test_detail_of_other_rows_is_split(view, title, calls, vms, vcpus):
    found = detail_of(title, view)
    assert parts(found.calls) == calls
    assert parts(found.vms) == vms
    assert parts(found.vcpus) == vcpus
    whole = sum(count for _, count in vcpus)
    assert found.whole.calls == whole == found.completed + found.unfinished
    assert (found.code is None) == (view.grouping is not Grouping.CALL)


def test_detail_since_the_start():
    history, frame = lived(*flushes(3, 5, 7))
    found = detail(sheet(frame, View(scope=Scope.TOTAL)), 0, history)
    assert (found.span, found.whole.calls) == ("total 3.00s", 15)
    close(found.rates, [3, 5, 7])


def test_detail_of_a_row_that_rests():
    history, frame = lived(*flushes(3, 0))
    found = detail(sheet(frame, View()), 0, history)
    assert found.whole.calls == found.completed == 0
    assert math.isnan(found.whole.mean_ns)
    assert found.statuses == {}
    assert found.handlers == found.vcpus == ()
    close(found.rates, [3, 0])


def test_sizes_are_unknown_where_the_source_has_none():
    history, frame = lived(*flushes(3))
    found = detail(sheet(frame, View()), 0, history)
    assert found.reps is found.var is None


def test_threads_of_a_recording_are_not_told_apart():
    history, frame = lived([row(WIN11, 2, latencies_ns=[700] * 3)])
    assert detail(sheet(frame, View()), 0, history).vcpus == ()


def test_a_split_has_a_bounded_number_of_parts():
    many = [
        row(WIN11, 2, latencies_ns=[700] * (i + 1), tid=31 + i, vcpu=i)
        for i in range(MOST_PARTS + 7)
    ]
    history, frame = lived(many)
    found = detail(sheet(frame, View()), 0, history).vcpus
    assert len(found) == MOST_PARTS + 1
    assert found[-1].label == "7 more"
    assert found[-1].calls == sum(range(1, 8))
    assert sum(part.calls for part in found) == sum(range(1, MOST_PARTS + 8))
    assert found[-1].mean_ns == 700


def test_vms_that_are_not_shown_any_more_are_in_no_detail():
    history, frame = lived(BUSY)
    view = View(Grouping.HOST)
    frame = replace(frame, vms={0: WIN11})
    found = detail(sheet(frame, view), 0, history)
    assert found.whole.calls == 33 == sum(part.calls for part in found.handlers)


def test_joined_moments_have_their_own_length():
    history, frame = lived(*flushes(*[7] * 40), most_bytes=10 * (FRAME_BYTES + 200))
    found = detail(sheet(frame, View()), 0, history)
    assert len(found.spans) < 40
    close(found.rates, [7] * len(found.spans))
    close(found.heat.sum(axis=1), found.spans * 7)
