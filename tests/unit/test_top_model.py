"""From snapshots to frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import START, row, snapshot, vm

from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import Lost, Probe
from hvtrace.stats.tally import CODE_KEY, TID_SHIFT, VM_SHIFT
from hvtrace.top.model import KEEP_ENDED_SECONDS, NEW_SECONDS, Frame, Model

FLUSH, IPI = 0x2, 0xB


def at(seconds: float, *rows, **more):
    return snapshot(rows, time=START + seconds, **more)


def by_code(counted) -> dict[int, int]:
    if counted is None:
        return {}
    codes = ((counted.keys & CODE_KEY) >> np.uint64(2)).tolist()
    return dict(zip(codes, counted.calls.tolist(), strict=True))


def names(frame: Frame) -> list[str]:
    return sorted(frame.labels.values())


def test_the_first_frame_has_what_the_source_has_counted_and_no_interval():
    frame = Model().feed(at(0, row(code=FLUSH, latencies_ns=[700] * 3)))
    assert by_code(frame.total) == {FLUSH: 3}
    assert frame.counted is None
    assert (frame.time, frame.seconds, frame.total_seconds) == (START, 0, 0)


def test_interval_and_total():
    model = Model()
    model.feed(at(0, row(code=FLUSH, latencies_ns=[700] * 3)))
    model.feed(at(1, row(code=FLUSH, latencies_ns=[700] * 10)))
    frame = model.feed(
        at(3, row(code=FLUSH, latencies_ns=[700] * 10 + [900]), row(code=IPI, unfinished=2))
    )
    assert by_code(frame.total) == {FLUSH: 11, IPI: 2}
    assert by_code(frame.counted) == {FLUSH: 1, IPI: 2}
    assert (frame.seconds, frame.total_seconds) == (2, 3)


def test_frames_are_numbered():
    model = Model()
    assert [model.feed(at(second)).number for second in range(3)] == [1, 2, 3]


def test_reset_counts_from_the_next_snapshot_on():
    model = Model()
    lost = Lost(no_slot=3, orphans=2)
    model.feed(at(0, row(latencies_ns=[700] * 3), lost=lost))
    model.reset()
    frame = model.feed(at(1, row(latencies_ns=[700] * 5), lost=lost))
    assert by_code(frame.total) == by_code(frame.counted) == {}
    assert (frame.lost, frame.total_seconds) == (Lost(), 0)
    frame = model.feed(at(3, row(latencies_ns=[700] * 12), lost=replace(lost, no_slot=4)))
    assert by_code(frame.total) == by_code(frame.counted) == {2: 7}
    assert (frame.lost, frame.total_seconds) == (Lost(no_slot=1), 2)


def test_orphans_of_the_start_are_no_loss():
    model = Model()
    assert model.feed(at(0, lost=Lost(orphans=5, no_slot=1))).lost == Lost(no_slot=1)
    assert model.feed(at(1, lost=Lost(orphans=6, no_slot=1))).lost == Lost(orphans=1, no_slot=1)


def test_a_vm_has_one_number_whatever_its_place():
    model = Model()
    a, b = vm("a", 1009), vm("b", 1013)
    first = model.feed(snapshot([row(vm=a, latencies_ns=[1])], [a, b]))
    second = model.feed(snapshot([row(vm=a, latencies_ns=[1])], [b, a], time=START + 1))
    assert first.labels == second.labels
    assert first.total.keys.tolist() == second.total.keys.tolist()
    assert by_code(second.counted) == {}


def test_vms_of_one_name_have_their_pid():
    a, b, c = vm("win", 1009), vm("win", 1013), vm("lin\x1b[2J", 1019)
    assert names(Model().feed(snapshot([], [a, b, c]))) == ["lin?[2J", "win/1009", "win/1013"]


def test_a_vm_that_ended_is_shown_for_a_while_with_its_counts():
    model = Model()
    gone = vm("gone", 1009)
    model.feed(at(0, row(vm=gone, latencies_ns=[700] * 3), vms=[gone]))
    gone = replace(gone, ended=True)
    for second, shown in ((2, True), (2 + KEEP_ENDED_SECONDS, True), (17.5, False)):
        frame = model.feed(at(second, row(vm=gone, latencies_ns=[700] * 3), vms=[gone]))
        assert names(frame) == (["gone"] if shown else [])
        assert by_code(frame.total) == {2: 3}


def test_a_vm_is_new_for_a_while_but_not_at_the_start():
    model = Model()
    old, new = vm("old", 1009), vm("new", 1013)
    assert model.feed(at(0, vms=[old])).new == frozenset()
    frame = model.feed(at(5, vms=[old, new]))
    assert [frame.labels[number] for number in frame.new] == ["new"]
    assert model.feed(at(5 + NEW_SECONDS - 1, vms=[old, new])).new == frame.new
    assert model.feed(at(5 + NEW_SECONDS + 1, vms=[old, new])).new == frozenset()


def test_a_new_vm_that_has_ended_is_not_new():
    model = Model()
    model.feed(at(0))
    assert model.feed(at(1, vms=[vm("short", 1013, ended=True)])).new == frozenset()


def test_vcpus_are_known_by_their_threads_and_stay_so():
    model = Model()
    rows = [
        row(latencies_ns=[1], tid=31, vcpu=0),
        row(code=3, latencies_ns=[1], tid=31, vcpu=0),
        row(latencies_ns=[1], tid=37, vcpu=5),
        row(latencies_ns=[1], tid=41),
    ]
    frame = model.feed(snapshot(rows, [vm("first", 7), vm("win11", 11)]))
    expected = {1 << VM_SHIFT | 31 << TID_SHIFT: 0, 1 << VM_SHIFT | 37 << TID_SHIFT: 5}
    assert frame.vcpus == expected
    assert model.feed(at(1)).vcpus == expected


def test_slow_calls_and_sizes_are_handed_on():
    call = SlowCall(START, vm(), 0, 31, 2, False, "kernel", 0, 0, 0, 0, 10**6)
    frame = Model().feed(replace(at(0, row(latencies_ns=[1], sizes=[(1, 1)])), slow=(call,)))
    assert frame.slow == (call,)
    assert frame.sized
    assert not Model().feed(at(0, row(latencies_ns=[1]))).sized


def probes(*runs):
    kinds = ("kvm_hv_hypercall", "kvm_hv_hypercall_done")
    return tuple(
        Probe(name, True, count, ns) for name, (count, ns) in zip(kinds, runs, strict=True)
    )


def test_cost_is_of_all_programs_by_call():
    model = Model()
    first = model.feed(replace(at(0), probes=probes((0, 0), (0, 0))), 3.0)
    assert (first.cost.ns_per_call, first.cost.kernel_share, first.cost.own_share) == (
        None,
        None,
        0,
    )
    counted = at(2, row(latencies_ns=[700] * 2000))
    frame = model.feed(replace(counted, probes=probes((7, 700), (7, 1400))), 3.1)
    assert frame.cost.ns_per_call == 300
    assert frame.cost.kernel_share == pytest.approx(300 * 1000 / 1e9)
    assert frame.cost.own_share == pytest.approx(0.05)
