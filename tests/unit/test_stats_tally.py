"""Counters in compact columns, compared with the snapshots that they are made of."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import row, snapshot, vm

from hvtrace.stats.arithmetic import add, join, since
from hvtrace.stats.groups import group, statuses_of
from hvtrace.stats.histogram import BUCKETS
from hvtrace.stats.snapshot import Snapshot, completed, concat, delta, empty, rollup
from hvtrace.stats.table import ATTEMPTS
from hvtrace.stats.tally import (
    CODE_KEY,
    EMPTY,
    REPS_AT,
    VAR_AT,
    VM_KEY,
    VM_SHIFT,
    Tally,
    outline,
    tally,
)

VMS = [vm("win11", 1009), vm("win12", 1013)]
LATENCIES = st.lists(st.integers(1, 10**10), min_size=1, max_size=7)

ROWS = st.builds(
    dict,
    tid=st.integers(1, 3),
    vm=st.sampled_from(VMS),
    code=st.sampled_from([2, 0x5C, 0xFFFF]),
    fast=st.booleans(),
    handler=st.sampled_from(["kernel", "vmm"]),
    latencies_ns=LATENCIES,
    unfinished=st.integers(0, 3),
    reps=st.integers(0, 4095),
    xmm_input=st.integers(0, 2),
    statuses=st.dictionaries(st.integers(1, 9), st.just(1), max_size=1),
    xmm_output=st.dictionaries(st.sampled_from(ATTEMPTS), st.integers(1, 3), max_size=2),
)


def key_of(row):
    return row["vm"].pid, row["tid"], row["code"], row["fast"], row["handler"]


def grown(rows, more):
    """`rows` with the counts of `more` added: the same or new rows."""
    found = {key_of(one): one for one in rows}
    for one in more:
        old = found.get(key_of(one))
        if old is None:
            found[key_of(one)] = one
            continue
        found[key_of(one)] = {
            **old,
            "latencies_ns": [*old["latencies_ns"], *one["latencies_ns"]],
            **{name: old[name] + one[name] for name in ("unfinished", "reps", "xmm_input")},
            **{
                name: {
                    key: old[name].get(key, 0) + one[name].get(key, 0)
                    for key in {*old[name], *one[name]}
                }
                for name in ("statuses", "xmm_output")
            },
        }
    return list(found.values())


def taken(rows) -> Snapshot:
    return snapshot([row(**one) for one in rows], VMS)


def counted(shot: Snapshot) -> Tally:
    return tally(shot, range(len(shot.vms)))


def same_as(found: Tally, shot: Snapshot, *, extremes: bool = True) -> None:
    """`found` has the counters of `shot`, whichever threads they are of."""
    shot = rollup(shot)
    number = {one.identity: i for i, one in enumerate(VMS)}
    vms = np.array([number[one.identity] for one in shot.vms])
    kept = (completed(shot.rows) > 0) | (shot.rows["unfinished"] > 0)
    keys = [
        int(vms[one["vm"]]) << VM_SHIFT
        | int(one["code"]) << 2
        | int(one["fast"]) << 1
        | int(one["handler"])
        for one in shot.rows[kept]
    ]
    groups, labels = np.unique(found.keys & ~np.uint64(0x3FFFFF << 18), return_inverse=True)
    together = group(found, labels, len(groups))
    assert groups.tolist() == sorted(keys)
    order = np.argsort(keys)
    rows = shot.rows[kept][order]
    assert (together.buckets == rows["buckets"]).all()
    for name in ("sum_ns", "unfinished", "reps", "xmm_input"):
        assert together[name].tolist() == rows[name].tolist(), name
    for i, name in enumerate(("impossible", "refused", "used-gpr", "used-xmm", "claimed")):
        assert together[name].tolist() == rows["xmm_output"][:, 3 + i].tolist()
    assert together.calls.tolist() == (completed(rows) + rows["unfinished"]).tolist()
    assert (together.fast == np.where(rows["fast"], together.calls, 0)).all()
    assert (together.vmm == np.where(rows["handler"], together.calls, 0)).all()
    assert found.calls.sum() == together.calls.sum()
    if extremes:
        done = completed(rows) > 0
        assert together.min_ns[done].tolist() == rows["min_ns"][done].tolist()
        assert together.max_ns[done].tolist() == rows["max_ns"][done].tolist()
    by_row = np.flatnonzero(kept)[order].tolist()
    for i, at in enumerate(by_row):
        of_row = shot.statuses[shot.statuses["row"] == at]
        expected = {int(one["status"]): int(one["count"]) for one in of_row if one["count"]}
        assert statuses_of(found, np.flatnonzero(labels == i)) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=12, unique_by=key_of))
def test_nothing_is_lost_and_nothing_is_new(rows):
    same_as(counted(taken(rows)), taken(rows))


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=9, unique_by=key_of), st.lists(ROWS, max_size=9, unique_by=key_of))
def test_an_interval_is_what_delta_says(rows, more):
    before, after = taken(rows), taken(grown(rows, more))
    # By thread the interval's extremes are known better than of a roll-up: within its bounds.
    same_as(
        since(counted(before), counted(after)), delta(rollup(before), rollup(after)), extremes=False
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=7, unique_by=key_of), st.lists(ROWS, max_size=7, unique_by=key_of))
def test_extremes_of_an_interval_are_those_of_delta(rows, more):
    rows, more = ([{**one, "tid": 0} for one in part] for part in (rows, more))
    rows, more = grown([], rows), grown([], more)
    before, after = taken(rows), taken(grown(rows, more))
    same_as(since(counted(before), counted(after)), delta(rollup(before), rollup(after)))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, max_size=9, unique_by=key_of), st.lists(ROWS, max_size=9, unique_by=key_of))
def test_a_sum_takes_back_a_difference(rows, more):
    before, after = counted(taken(rows)), counted(taken(grown(rows, more)))
    same_as(add(before, since(before, after)), taken(grown(rows, more)), extremes=False)
    same_as(add(before, EMPTY), taken(rows))
    same_as(add(EMPTY, before), taken(rows))


def alike(found: Tally, other: Tally) -> None:
    """All but times is the same."""
    for name in ("keys", "start", "ids", "values", "calls", "failures", "failed"):
        assert getattr(found, name).tolist() == getattr(other, name).tolist(), name


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=9, unique_by=key_of), st.lists(ROWS, max_size=9, unique_by=key_of))
def test_an_outline_counts_as_the_whole(rows, more):
    before, after = counted(taken(rows)), counted(taken(grown(rows, more)))
    alike(since(outline(before), outline(after)), outline(since(before, after)))
    alike(add(outline(before), outline(after)), outline(add(before, after)))
    labels = np.arange(len(after.keys))
    of_all = group(after, labels, len(labels))
    of_outline = group(outline(after), labels, len(labels), timed=False)
    for name in ("calls", "completed", "fast", "vmm", "failures"):
        assert getattr(of_all, name).tolist() == getattr(of_outline, name).tolist()
    for name in ("unfinished", "trips", *ATTEMPTS):
        assert of_all[name].tolist() == of_outline[name].tolist()


def threads(*tids, latencies=(700,), unfinished=0, statuses=None):
    return [
        dict(
            vm=VMS[0],
            tid=tid,
            code=2,
            fast=True,
            handler="kernel",
            latencies_ns=list(latencies),
            unfinished=unfinished,
            reps=0,
            xmm_input=0,
            statuses=statuses or {},
            xmm_output={},
        )
        for tid in tids
    ]


def test_the_last_calls_of_a_thread_that_ended_are_an_intervals_only_once():
    """Its counts are under tid 0 then, with those of others that had ended before."""
    before = taken(
        threads(0, latencies=[700] * 11) + threads(5, latencies=[700] * 7, statuses={5: 3})
    )
    after = taken(threads(0, latencies=[700] * (11 + 7 + 2), statuses={5: 4}))
    found = since(counted(before), counted(after))
    assert found.keys.tolist() == [2 << 2 | 2]
    assert found.calls.tolist() == [2]
    assert statuses_of(found, np.array([0])) == {5: 1}


def test_extremes_are_not_of_rows_that_completed_nothing():
    """The fastest call of all was before, on a thread that has only given up since."""
    before = taken(threads(5, latencies=[300]) + threads(6))
    after = taken(threads(5, latencies=[300], unfinished=1) + threads(6, latencies=[700, 90000]))
    found = since(counted(before), counted(after))
    assert found.keys.tolist() == [5 << 18 | 2 << 2 | 2, 6 << 18 | 2 << 2 | 2]
    together = group(found, np.array([0, 0]), 1)
    assert together.completed.tolist() == [1]
    assert (together.min_ns[0], together.max_ns[0]) == (76293, 90000)  # the bucket's, and itself


def test_a_thread_that_ended_with_nothing_new_leaves_no_row():
    before = taken(threads(5, 6))
    after = taken(threads(0, latencies=[700, 700]))
    assert len(since(counted(before), counted(after)).keys) == 0


def test_a_tid_that_came_again_is_new():
    before = taken(threads(5, latencies=[700] * 13))
    after = taken(threads(0, latencies=[700] * 13) + threads(5, latencies=[900] * 3))
    found = since(counted(before), counted(after))
    assert found.calls.tolist() == [3]
    assert found.keys.tolist() == [5 << 18 | 2 << 2 | 2]


def test_what_fell_has_begun_again():
    before = taken(threads(0, latencies=[700] * 13))
    after = taken(threads(0, latencies=[700] * 5))
    assert since(counted(before), counted(after)).calls.tolist() == [5]


def test_a_vm_that_is_forgotten_takes_nothing_from_others():
    before = taken(threads(5))
    gone = since(counted(before), counted(empty()))
    assert len(gone.keys) == len(gone.values) == 0


def test_a_row_that_comes_twice_is_one():
    twice = concat(taken(threads(5)), taken(threads(5, latencies=[900])))
    assert counted(twice).calls.tolist() == [2]


def test_sizes_and_round_trips():
    shot = snapshot(
        [
            row(latencies_ns=[700, 800], sizes=[(1, 0), (7, 2)], trips_ns=[1500]),
            row(code=3, latencies_ns=[700], sizes=[(4095, 1023)], trips_ns=[]),
        ]
    )
    found = group(counted(shot), np.array([0, 1]), 2)
    assert np.flatnonzero(found.cells[0, REPS_AT:VAR_AT]).tolist() == [0, 2]
    assert np.flatnonzero(found.cells[0, VAR_AT : VAR_AT + 10]).tolist() == [1]
    assert np.flatnonzero(found.cells[1, REPS_AT:VAR_AT]).tolist() == [11]
    assert np.flatnonzero(found.cells[1, VAR_AT : VAR_AT + 10]).tolist() == [9]
    assert found["trips"].tolist() == [1, 0]
    assert found["trip_ns"].tolist() == [1500, 0]


def test_rows_without_a_label_are_left_out():
    shot = snapshot([row(latencies_ns=[700] * 3), row(code=3, latencies_ns=[900] * 5, fast=True)])
    found = group(counted(shot), np.array([-1, 0]), 1)
    assert found.calls.tolist() == [5] == found.fast.tolist()
    assert found.cells[:, :BUCKETS].sum() == 5
    untimed = group(counted(shot), np.array([-1, 0]), 1, timed=False)
    assert untimed.calls.tolist() == [5]
    assert untimed.min_ns.tolist() == [900]  # not within the bounds of its buckets


def test_groups_taken_out_are_in_that_order():
    shot = snapshot([row(latencies_ns=[700] * 3), row(code=3, latencies_ns=[900] * 5)])
    found = group(counted(shot), np.array([0, 1]), 2).take(np.array([1, 0]))
    assert found.calls.tolist() == [5, 3]
    assert found["sum_ns"].tolist() == [4500, 2100]


@pytest.mark.parametrize("count", [0xFFFF_FFFF, 0x1_0000_0000])
def test_large_numbers_are_kept(count):
    shot = snapshot([row(latencies_ns=[700], unfinished=count)])
    found = counted(shot)
    assert found.calls.tolist() == [count + 1]
    assert group(found, np.array([0]), 1)["unfinished"].tolist() == [count]


def test_nothing():
    found = counted(empty())
    assert found.nbytes < 100
    assert group(found, np.zeros(0, int), 0).calls.tolist() == []
    assert since(found, found).keys.tolist() == add(found, EMPTY).keys.tolist() == []


def test_vms_are_numbered_by_who_makes_the_tally():
    shot = snapshot([row(vm="a", latencies_ns=[1]), row(vm="b", code=3, latencies_ns=[1])])
    keys = tally(shot, [7, 5]).keys
    assert (keys >> np.uint64(VM_SHIFT)).tolist() == [5, 7]
    assert (keys & CODE_KEY).tolist() == [3 << 2, 2 << 2]
    assert int(VM_KEY) | 0xFF_FFFF_FFFF == 2**64 - 1
    assert replace(shot, vms=()).rows is shot.rows


@settings(max_examples=30, deadline=None)
@given(st.lists(ROWS, max_size=12, unique_by=key_of), st.randoms(use_true_random=False))
def test_parts_joined_are_the_whole(rows, random):
    """In whatever part a row is."""
    random.shuffle(rows)
    cuts = sorted(random.sample(range(len(rows) + 1), min(2, len(rows) + 1)))
    parts = [rows[a:b] for a, b in pairwise([0, *cuts, len(rows)])]
    same_as(join([counted(taken(part)) for part in parts]), taken(rows))
    joined = join([counted(taken(part)) for part in parts])
    assert (np.diff(joined.keys.astype(np.int64)) > 0).all()
    assert (np.diff(joined.failures.astype(np.int64)) > 0).all()
