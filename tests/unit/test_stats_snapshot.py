"""Roll-ups and deltas against plain counting of the same calls, one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import START, bucket_of, row, snapshot, vm

from hvtrace.stats.histogram import LOWER_NS, UPPER_NS
from hvtrace.stats.snapshot import (
    EVERY_VM,
    HANDLERS,
    KEY,
    NO_MIN,
    SIZE_SUMS,
    SUMS,
    TRIP_SUMS,
    Lost,
    SlowCall,
    Snapshot,
    Vm,
    completed,
    concat,
    delta,
    rollup,
    select,
)

# Structs of a kilobyte a row: fewer examples keep this file within seconds.
FEW = settings(max_examples=40, deadline=None)

# One name and pid for several VMs: only `identity` tells them apart.
VMS = (
    vm("win11", 1009, start_time=5),
    vm("win11", 1009, start_time=7),
    vm("win11", 1009, start_time=7, fd=11),
    vm("linux", 1013),
)


@dataclass(frozen=True)
class Event:
    """One call that is over."""

    vm: Vm
    tid: int
    code: int
    fast: bool
    handler: str
    latency_ns: int | None  # None: unfinished
    status: int
    reps: int


EVENTS = st.builds(
    Event,
    vm=st.sampled_from(VMS),
    tid=st.sampled_from((101, 103)),
    code=st.sampled_from((2, 3, 0xFFFF)),
    fast=st.booleans(),
    handler=st.sampled_from(HANDLERS),
    latency_ns=st.none() | st.integers(1, 10**4) | st.integers(1, 10**11),
    status=st.sampled_from((0, 0, 2, 5, 0xFFFF)),
    reps=st.integers(0, 4095),
)


def snapshot_of(events: list[Event], vms: list[Vm] | tuple[Vm, ...] = VMS, **more) -> Snapshot:
    """What a source would count of `events`: a row for each thread's (code, fast, handler)."""
    groups: dict[tuple, list[Event]] = defaultdict(list)
    for e in events:
        groups[e.vm, e.tid, e.code, e.fast, e.handler].append(e)
    rows = []
    for (owner, tid, code, fast, handler), same in groups.items():
        done = [e for e in same if e.latency_ns is not None]
        rows.append(
            row(
                owner,
                code,
                tid=tid,
                fast=fast,
                handler=handler,
                latencies_ns=[e.latency_ns for e in done],
                trips_ns=[3 * e.latency_ns for e in done if e.status != 2],  # 2: no entry yet
                vcpu=tid - 101 if tid else -1,
                sizes=[(e.reps, e.code & 1023) for e in same],
                unfinished=len(same) - len(done),
                statuses=Counter(e.status for e in done if e.status),
                reps=sum(e.reps for e in done),
            )
        )
    return snapshot(rows, vms, **more)


def as_dict(snap: Snapshot) -> dict[tuple, dict[str, object]]:
    """The rows by VM identity and key, with everything that adds up exactly."""
    out = {}
    for i, r in enumerate(snap.rows):
        owner = snap.vms[r["vm"]].identity
        key = (owner, *(int(r[name]) for name in KEY[1:]))
        assert key not in out, "two rows of one key"
        sums = {name: r[name].tolist() for name in SUMS}
        mine = snap.statuses[snap.statuses["row"] == i]
        failures = dict(zip(mine["status"].tolist(), mine["count"].tolist(), strict=True))
        assert len(failures) == len(mine), "two entries of one status"
        assert 0 not in failures.values()
        trip = snap.trips[i] if len(snap.trips) else None
        trips = {} if trip is None else {f"trip_{name}": trip[name].tolist() for name in TRIP_SUMS}
        sized = SIZE_SUMS if len(snap.sizes) else ()
        sizes = {f"size_{name}": snap.sizes[i][name].tolist() for name in sized}
        out[key] = {**sums, **trips, **sizes, "statuses": failures}
    return out


def extremes(snap: Snapshot) -> dict[tuple, tuple[int, int]]:
    return {
        (snap.vms[r["vm"]].identity, *(int(r[name]) for name in KEY[1:])): (
            int(r["min_ns"]),
            int(r["max_ns"]),
        )
        for r in snap.rows
    }


# --- rollup


@FEW
@given(st.lists(EVENTS, max_size=40))
def test_rollup_counts_what_the_threads_counted(events):
    rolled = rollup(snapshot_of(events))
    # The oracle: the same calls, made by one thread.
    oracle = snapshot_of([replace(e, tid=0) for e in events])
    assert as_dict(rolled) == as_dict(oracle)
    assert extremes(rolled) == extremes(oracle)


@FEW
@given(st.lists(EVENTS, max_size=40), st.randoms(use_true_random=False))
def test_rollup_does_not_depend_on_the_order_of_rows(events, random):
    mixed = events.copy()
    random.shuffle(mixed)
    one, other = rollup(snapshot_of(events)), rollup(snapshot_of(mixed))
    assert one.rows.tobytes() == other.rows.tobytes()
    assert one.statuses.tobytes() == other.statuses.tobytes()


@FEW
@given(st.lists(EVENTS, max_size=40), st.sets(st.sampled_from(KEY)))
def test_rollup_in_two_steps_equals_one(events, by):
    snap = snapshot_of(events)
    by = tuple(by)
    direct, in_steps = rollup(snap, by), rollup(rollup(snap, KEY), by)
    assert direct.rows.tobytes() == in_steps.rows.tobytes()
    assert direct.statuses.tobytes() == in_steps.statuses.tobytes()
    assert rollup(direct, by).rows.tobytes() == direct.rows.tobytes()


@FEW
@given(st.lists(EVENTS, min_size=1, max_size=40), st.sets(st.sampled_from(KEY)))
def test_rollup_loses_no_call(events, by):
    rolled = rollup(snapshot_of(events), tuple(by))
    done = [e for e in events if e.latency_ns is not None]
    assert completed(rolled.rows).sum() == len(done)
    assert rolled.rows["unfinished"].sum() == len(events) - len(done)
    assert rolled.rows["sum_ns"].sum() == sum(e.latency_ns for e in done)
    assert rolled.statuses["count"].sum() == sum(e.status != 0 for e in done)
    for name in set(KEY) - set(by):
        assert not rolled.rows[name].any()


def test_rollup_leaves_its_argument_alone():
    snap = snapshot([row(tid=1, latencies_ns=[5], statuses={2: 1}), row(tid=2, statuses={2: 1})])
    rows, statuses = snap.rows.tobytes(), snap.statuses.tobytes()
    rollup(snap, ("code",))
    assert (snap.rows.tobytes(), snap.statuses.tobytes()) == (rows, statuses)


def test_rollup_without_vm_stands_for_every_vm():
    snap = snapshot([row("a", 2, latencies_ns=[5]), row("b", 2, latencies_ns=[7])])
    rolled = rollup(snap, ("code",))
    assert rolled.vms == (EVERY_VM,)
    assert completed(rolled.rows).tolist() == [2]
    assert rollup(snap).vms == snap.vms


def test_rollup_of_nothing():
    rolled = rollup(snapshot())
    assert len(rolled.rows) == len(rolled.statuses) == 0


def test_rollup_keeps_losses_and_calls_in_flight():
    snap = snapshot([row()], lost=Lost(1, 2, 3, 5), in_flight=7)
    rolled = rollup(snap)
    assert (rolled.lost, rolled.in_flight, rolled.time) == (Lost(1, 2, 3, 5), 7, snap.time)


# --- delta

BY = st.sampled_from([("vm", "code", "fast", "handler"), KEY, ("code",), ("vm",), ()])


@FEW
@given(st.lists(EVENTS, max_size=30), st.lists(EVENTS, max_size=30), st.permutations(VMS), BY)
def test_delta_is_what_was_counted_between(before, between, moved, by):
    """The VMs' indices move between the snapshots; only their identity counts."""
    old = rollup(snapshot_of(before), by)
    new = rollup(snapshot_of(before + between, moved), by)
    found = delta(old, new)
    assert as_dict(found) == as_dict(rollup(snapshot_of(between, moved), by))
    for key, (low, high) in extremes(found).items():
        true_low, true_high = extremes(rollup(snapshot_of(between), by))[key]
        if true_low == NO_MIN:
            assert (low, high) == (NO_MIN, 0)
        else:
            assert low <= true_low <= true_high <= high
            assert bucket_of(low + 1) >= bucket_of(true_low)  # within the outermost bucket
            assert bucket_of(high) <= bucket_of(true_high)


@FEW
@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=20), st.permutations(VMS))
def test_before_and_delta_add_up_to_after(before, between, moved):
    old, new = rollup(snapshot_of(before)), rollup(snapshot_of(before + between, moved))
    total: dict[tuple, dict] = as_dict(old)
    for key, more in as_dict(delta(old, new)).items():
        have = total.setdefault(key, {})
        for name in more.keys() - {"statuses"}:
            have[name] = (np.array(have.get(name, 0)) + np.array(more[name])).tolist()
        have["statuses"] = dict(Counter(have.get("statuses", {})) + Counter(more["statuses"]))
    assert total == as_dict(new)


@FEW
@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=20))
def test_rollup_of_a_delta_of_threads_is_the_delta_of_rollups(before, between):
    old, new = snapshot_of(before), snapshot_of(before + between)
    of_threads = rollup(delta(rollup(old, KEY), rollup(new, KEY)))
    assert as_dict(of_threads) == as_dict(delta(rollup(old), rollup(new)))


@FEW
@given(st.lists(EVENTS, max_size=20))
def test_delta_to_itself_is_empty_and_from_nothing_is_all(events):
    snap = rollup(snapshot_of(events))
    assert len(delta(snap, snap).rows) == len(delta(snap, snap).statuses) == 0
    assert as_dict(delta(rollup(snapshot()), snap)) == as_dict(snap)
    assert extremes(delta(rollup(snapshot()), snap)) == extremes(snap)


@FEW
@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=20), st.sampled_from(VMS))
def test_rows_of_a_vm_that_vanished_are_left_out(before, between, gone):
    left = [v for v in VMS if v != gone]
    stay = [e for e in before if e.vm != gone]
    between = [e for e in between if e.vm != gone]
    found = delta(rollup(snapshot_of(before)), rollup(snapshot_of(stay + between, left)))
    assert as_dict(found) == as_dict(rollup(snapshot_of(between, left)))


def test_a_reused_pid_is_another_vm():
    first, second = vm(start_time=5), vm(start_time=6)
    old = snapshot([row(first, latencies_ns=[700] * 7)])
    new = snapshot([row(second, latencies_ns=[700] * 3)])
    assert completed(delta(old, new).rows).tolist() == [3]


@pytest.mark.parametrize(
    "less",
    [
        row(latencies_ns=[700] * 3, unfinished=5),  # fewer completed, more unfinished
        row(latencies_ns=[701] * 9, unfinished=1),  # the same number in another bucket
    ],
)
def test_a_count_that_fell_has_begun_again(less):
    """A KVM VM's descriptor can come back in one process: Prometheus' rule for a reset."""
    old = snapshot([row(latencies_ns=[100] * 9, unfinished=2, statuses={2: 5}), row(code=3)])
    found = delta(old, snapshot([less]))
    assert found.rows.tobytes() == snapshot([less]).rows.tobytes()
    assert len(found.statuses) == 0


def test_statuses_begin_again_with_their_row():
    old = snapshot([row(latencies_ns=[100] * 9, statuses={2: 2, 5: 7})])
    new = snapshot([row(latencies_ns=[100] * 8, statuses={2: 3, 6: 1})])
    assert as_dict(delta(old, new)) == as_dict(new)


def test_a_status_that_fell_in_a_row_that_did_not():
    old = snapshot([row(latencies_ns=[100] * 9, statuses={2: 5})])
    new = snapshot([row(latencies_ns=[100] * 11, statuses={2: 3})])
    assert as_dict(delta(old, new)) == as_dict(snapshot([row(latencies_ns=[100] * 2)])) | {
        key: value | {"statuses": {2: 3}, "sum_ns": 200}
        for key, value in as_dict(snapshot([row(latencies_ns=[100] * 2)])).items()
    }


def test_extremes_are_exact_where_the_whole_moved_and_bounds_elsewhere():
    old = snapshot([row(latencies_ns=[300, 9_000])])
    same = delta(old, snapshot([row(latencies_ns=[300, 9_000, 1_000])])).rows
    bucket = bucket_of(1_000)
    assert same["min_ns"].tolist() == [int(LOWER_NS[bucket])]
    assert same["max_ns"].tolist() == [int(UPPER_NS[bucket])]
    moved = delta(old, snapshot([row(latencies_ns=[300, 9_000, 299, 9_001])])).rows
    assert (moved["min_ns"].tolist(), moved["max_ns"].tolist()) == ([299], [9_001])


def test_extremes_of_the_open_last_bucket_are_finite():
    old = snapshot([row(latencies_ns=[300, 9 * 10**9])])
    new = delta(old, snapshot([row(latencies_ns=[300, 9 * 10**9, 5 * 10**9])])).rows
    assert (new["min_ns"].tolist(), new["max_ns"].tolist()) == ([4 * 10**9], [9 * 10**9])


def test_losses_are_subtracted_and_calls_in_flight_are_not():
    old = snapshot(lost=Lost(1, 2, 3, 5), in_flight=7, time=100.0)
    new = snapshot(lost=Lost(12, 15, 20, 28), in_flight=3, time=101.0)
    found = delta(old, new)
    assert (found.lost, found.in_flight, found.time) == (Lost(11, 13, 17, 23), 3, 101.0)
    assert [f.name for f in fields(Lost)] == [
        *("orphans", "no_slot", "no_thread", "no_status", "no_exit", "no_trip", "no_event"),
        "missed",
    ]


def test_delta_leaves_its_arguments_alone():
    old = snapshot([row(latencies_ns=[5, 7], statuses={2: 1})])
    new = snapshot([row(latencies_ns=[5, 7, 11], statuses={2: 2})])
    bytes_before = [(s.rows.tobytes(), s.statuses.tobytes()) for s in (old, new)]
    delta(old, new)
    assert [(s.rows.tobytes(), s.statuses.tobytes()) for s in (old, new)] == bytes_before


# --- sizes, vCPUs, slow calls


def test_sizes_go_with_their_rows():
    before = snapshot([row(code=2, tid=101, latencies_ns=[700], sizes=[(1, 0)])])
    after = snapshot(
        [
            row(code=3, tid=101, latencies_ns=[900], sizes=[(0, 0)]),
            row(code=2, tid=103, latencies_ns=[800] * 2, sizes=[(4095, 1023), (2048, 1)]),
            row(code=2, tid=101, latencies_ns=[700] * 2, sizes=[(1, 0), (3, 0)]),
        ]
    )
    whole = rollup(after)
    assert whole.rows["code"].tolist() == [2, 3]
    assert whole.sizes["reps"].tolist() == [[1, 1, *[0] * 9, 2], [0] * 12]
    assert whole.sizes["var"].tolist() == [[1, *[0] * 8, 1], [0] * 10]
    assert not select(whole, whole.rows["code"] == 3).sizes["reps"].any()
    assert concat(before, after).sizes["reps"].sum(axis=1).tolist() == [1, 0, 2, 2]
    since = delta(rollup(before), whole)
    assert since.sizes["reps"].tolist() == [[0, 1, *[0] * 9, 2], [0] * 12]
    assert len(delta(whole, whole).sizes) == len(delta(whole, whole).rows) == 0


def test_the_vcpu_stays_with_its_thread_only():
    snap = snapshot([row(tid=101, vcpu=3, code=5), row(tid=101, vcpu=3), row(tid=103, vcpu=0)])
    assert rollup(snap, ("vm", "tid")).rows[["tid", "vcpu"]].tolist() == [(101, 4), (103, 1)]
    assert rollup(rollup(snap, KEY), KEY).rows["vcpu"].tolist() == [4, 4, 1]
    assert not rollup(snap).rows["vcpu"].any()
    assert not rollup(snapshot([row(tid=101, vcpu=3)])).rows["vcpu"].any()  # nothing to add up


def test_how_many_vcpus_a_vm_has_does_not_make_it_another():
    few, many = vm(vcpus=1), vm(vcpus=8)
    assert (few, hash(few)) == (many, hash(many))
    assert completed(delta(snapshot([row(few)]), snapshot([row(many)])).rows).tolist() == []


def test_a_delta_has_the_slow_calls_of_its_end():
    slow = SlowCall(START, vm(), 3, 101, 2, False, "kernel", 0, 5, 0, 5, 10**7)
    before = replace(snapshot([row()]), slow=(replace(slow, tid=103),))
    after = replace(snapshot([row(latencies_ns=[5])]), slow=(slow,))
    assert delta(before, after).slow == rollup(after).slow == (slow,)
    assert select(after, np.zeros(1, dtype=bool)).slow == (slow,)
    assert concat(before, after).slow == (slow,)


# --- round trips


def test_round_trips_go_with_their_rows():
    before = snapshot([row(code=2, tid=101, latencies_ns=[700], trips_ns=[1_700])])
    after = snapshot(
        [
            row(code=3, tid=101, latencies_ns=[900], trips_ns=[]),  # its vCPU has not entered yet
            row(code=2, tid=103, latencies_ns=[800] * 2, trips_ns=[1_800, 2_900]),
            row(code=2, tid=101, latencies_ns=[700] * 2, trips_ns=[1_700, 1_300]),
        ]
    )
    whole = rollup(after)
    assert whole.rows["code"].tolist() == [2, 3]
    assert completed(whole.trips).tolist() == [4, 0]
    assert whole.trips["sum_ns"].tolist() == [7_700, 0]
    assert whole.trips["min_ns"].tolist() == [1_300, NO_MIN]
    assert whole.trips["max_ns"].tolist() == [2_900, 0]
    assert completed(select(whole, whole.rows["code"] == 3).trips).tolist() == [0]
    assert completed(concat(before, after).trips).tolist() == [1, 0, 2, 2]
    since = delta(rollup(before), whole)
    assert completed(since.trips).tolist() == [3, 0]
    assert since.trips["sum_ns"].tolist() == [6_000, 0]


def test_a_round_trip_that_ends_after_its_call_is_of_the_next_interval():
    before = rollup(snapshot([row(latencies_ns=[700], trips_ns=[])]))
    after = rollup(snapshot([row(latencies_ns=[700], trips_ns=[1_700])]))
    since = delta(before, after)
    assert completed(since.rows).tolist() == [0]
    assert completed(since.trips).tolist() == [1]
    assert (since.trips["min_ns"][0], since.trips["max_ns"][0]) == (1_700, 1_700)
    assert len(delta(after, after).rows) == 0
