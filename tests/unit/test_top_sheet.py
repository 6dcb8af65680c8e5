"""A frame as a table: rows by every grouping, filters and order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import START, row, snapshot, vm

from hvtrace.top.columns import BY_KEY, COLUMNS
from hvtrace.top.model import Model
from hvtrace.top.sheet import Grouping, Scope, View, sheet

WIN11, WIN12 = vm("win11", 1009, vcpus=2), vm("win12", 1013, vcpus=1)
FLUSH, IPI, POST, UNKNOWN = 0x2, 0xB, 0x5C, 0xFFF0


def rows(flush=3, ipi=5, post=7, unknown=11):
    """Two threads of one VM and one of another, several calls each."""
    return [
        row(WIN11, FLUSH, fast=True, latencies_ns=[700] * flush, tid=31, vcpu=0),
        row(WIN11, FLUSH, fast=True, latencies_ns=[900] * flush, tid=37, vcpu=1, xmm_input=2),
        row(WIN11, IPI, latencies_ns=[1500] * ipi, tid=31, vcpu=0, statuses={5: 2}),
        row(WIN12, POST, handler="vmm", latencies_ns=[10**6] * post, tid=41, vcpu=0),
        row(WIN12, UNKNOWN, unfinished=unknown, tid=41, vcpu=0),
    ]


def frame_of(*snapshots):
    model = Model()
    for second, counted in enumerate(snapshots):
        frame = model.feed(snapshot(counted, [WIN11, WIN12], time=START + second))
    return frame


FRAME = frame_of([], rows(), rows(flush=13, post=20))
"""In the last second 20 flushes and 13 posts; since the start 26 and 20, and all the others."""


def shown(view: View, key: str, frame=FRAME) -> dict[tuple[str, ...], str]:
    """A column's texts by the names of the rows."""
    found = sheet(frame, view)
    names = [
        BY_KEY[name].texts(found)
        for name in ("vm", "vcpu", "call")
        if view.grouping in BY_KEY[name].of
    ]
    return dict(zip(zip(*names, strict=True), BY_KEY[key].texts(found), strict=True))


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        (
            Grouping.CALL_OF_VM,
            {
                ("win11", "FlushVirtualAddressSpace"): "26",
                ("win11", "SendSyntheticClusterIpi"): "5",
                ("win12", "PostMessage"): "20",
                ("win12", "0xfff0"): "11",
            },
        ),
        (Grouping.VM, {("win11",): "31", ("win12",): "31"}),
        (
            Grouping.CALL,
            {
                ("FlushVirtualAddressSpace",): "26",
                ("SendSyntheticClusterIpi",): "5",
                ("PostMessage",): "20",
                ("0xfff0",): "11",
            },
        ),
        (Grouping.VCPU, {("win11", "0"): "18", ("win11", "1"): "13", ("win12", "0"): "31"}),
        (Grouping.HOST, {("all VMs",): "62"}),
    ],
)
def test_every_grouping_has_all_calls(grouping, expected):
    assert shown(View(grouping), "calls") == expected


def test_rates_are_of_the_scope_and_counts_since_the_start():
    by_vm = View(Grouping.VM)
    assert shown(by_vm, "/s") == {("win11",): "20.0", ("win12",): "13.0"}
    assert shown(by_vm.other_scope(), "/s") == {("win11",): "15.5", ("win12",): "15.5"}
    for view in (by_vm, by_vm.other_scope()):
        assert shown(view, "calls") == {("win11",): "31", ("win12",): "31"}
        assert shown(view, "fail") == {("win11",): "2", ("win12",): "-"}
        assert shown(view, "unfin") == {("win11",): "-", ("win12",): "11"}


def test_a_call_that_rests_keeps_its_row_and_has_no_rate():
    calls = shown(View(), "/s")
    assert calls["win11", "SendSyntheticClusterIpi"] == "-"
    assert shown(View(), "mean")["win11", "SendSyntheticClusterIpi"] == "-"
    assert shown(View(scope=Scope.TOTAL), "mean")["win11", "SendSyntheticClusterIpi"] == "1.50µs"


def test_share_of_vcpu_time_is_of_the_vcpus_of_the_row():
    """13 ms in calls of one vCPU in a second; 16 µs of two."""
    assert shown(View(Grouping.VM), "vcpu%") == {("win11",): "<0.01", ("win12",): "1.30"}
    assert shown(View(Grouping.VCPU), "vcpu%")["win12", "0"] == "1.30"
    assert shown(View(Grouping.HOST), "vcpu%") == {("all VMs",): "0.43"}
    assert shown(View(Grouping.CALL), "vcpu%")["PostMessage",] == "0.43"


def test_share_of_vcpu_time_is_unknown_where_the_vcpus_are():
    unknown = replace(WIN11, vcpus=0)
    model = Model()
    model.feed(snapshot([], [unknown]))
    frame = model.feed(snapshot([row(unknown, latencies_ns=[700])], [unknown], time=START + 1))
    assert list(shown(View(), "vcpu%", frame).values()) == ["-"]


def test_conventions():
    by_vm = View(Grouping.VM, Scope.TOTAL)
    assert shown(by_vm, "fast") == {("win11",): "84", ("win12",): "-"}
    assert shown(by_vm, "vmm") == {("win11",): "-", ("win12",): "65"}
    assert shown(by_vm, "xmm") == {("win11",): "6", ("win12",): "-"}


def test_percentiles_and_extremes_are_of_all_that_is_in_the_row():
    flush = ("win11", "FlushVirtualAddressSpace")
    total = View(scope=Scope.TOTAL)
    assert shown(total, "max")[flush] == "900ns"
    assert shown(total, "p50")[flush] == "708ns"
    assert shown(total, "p99")[flush] == "867ns"
    assert shown(total, "max")["win12", "0xfff0"] == "-"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 4),
        ("win11", 2),
        ("WIN", 4),
        ("flush", 1),
        ("0x2", 1),
        ("0x0002", 1),
        ("0xfff0", 1),
        ("0x5", 1),
        ("invalid", 1),
        ("success", 3),
        ("win12 post", 1),
        ("win11 post", 0),
        ("  ", 4),
        ("0xzz", 0),
        ("[red]", 0),
    ],
)
def test_filter(text, expected):
    assert len(sheet(FRAME, View(filter=text))) == expected


def test_a_filter_leaves_only_what_matches_in_groups():
    assert shown(View(Grouping.VM, filter="flush"), "calls") == {("win11",): "26"}
    assert shown(View(Grouping.VCPU, filter="flush"), "calls") == {
        ("win11", "0"): "13",
        ("win11", "1"): "13",
    }
    assert shown(View(Grouping.HOST, filter="win12"), "calls") == {("all VMs",): "31"}


def test_shares_of_time_are_of_what_matches():
    assert shown(View(filter="flush"), "time") == {("win11", "FlushVirtualAddressSpace"): "100"}


def test_vms_that_are_gone_have_no_row():
    frame = replace(FRAME, vms={0: WIN11}, labels={0: "win11"})
    assert {name for name, _ in shown(View(), "calls", frame)} == {"win11"}
    assert shown(View(Grouping.HOST), "calls", frame) == {("all VMs",): "31"}


def test_without_an_interval_rates_are_unknown():
    frame = frame_of(rows())
    assert set(shown(View(), "/s", frame).values()) == {"-"}
    assert sum(int(count) for count in shown(View(), "calls", frame).values()) == 29


def test_nothing_at_all():
    for grouping in Grouping:
        found = sheet(frame_of([]), View(grouping))
        assert len(found) == 0
        for column in COLUMNS:
            if grouping in column.of:
                assert column.texts(found) == []
                assert found.order(column, True).tolist() == []


def in_order(key: str, descending: bool, grouping=Grouping.CALL_OF_VM):
    found = sheet(FRAME, View(grouping))
    return found.take(found.order(BY_KEY[key], descending))


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize(
    ("key", "grouping"),
    [(column.key, one) for column in COLUMNS for one in sorted(column.of, key=str)],
)
def test_order_by_every_column(key, grouping, descending):
    column = BY_KEY[key]
    values = column.value(in_order(key, descending, grouping))
    there = values[~np.isnan(values)]
    assert not np.isnan(values[: len(there)]).any()  # those without a value stand last
    steps = np.diff(there)
    assert (steps <= 0).all() if descending else (steps >= 0).all()


def test_equal_rows_are_in_the_order_of_their_names():
    found = in_order("fail", True)
    assert BY_KEY["call"].texts(found) == [
        "SendSyntheticClusterIpi",
        "FlushVirtualAddressSpace",
        "PostMessage",
        "0xfff0",
    ]


def test_names_sort_from_a_to_z_at_first():
    view = View().sorted_by(BY_KEY["vm"])
    assert not view.descending
    assert BY_KEY["vm"].texts(in_order("vm", view.descending))[0] == "win11"
    assert view.sorted_by(BY_KEY["vm"]).descending
    assert View(sort="vm").sorted_by(BY_KEY["p99"]).descending


def test_new_and_ended_vms_are_marked():
    ended = replace(WIN12, ended=True)
    frame = replace(FRAME, vms={0: WIN11, 1: ended}, new=frozenset({0}))
    assert {name for name, _ in shown(View(), "calls", frame)} == {"+win11", "×win12"}  # noqa: RUF001


def test_threads_without_a_number_and_those_that_ended():
    frame = frame_of([], [row(WIN11, latencies_ns=[1], tid=31), row(WIN11, latencies_ns=[1, 1])])
    assert shown(View(Grouping.VCPU), "calls", frame) == {
        ("win11", "tid 31"): "1",
        ("win11", "ended"): "2",
    }


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({}, "-"),
        ({"none": 5}, "-"),
        ({"refused": 3}, "refused"),
        ({"refused": 2, "used-gpr": 1}, "refused 67%"),
        ({"refused": 999, "claimed": 1}, "claimed <1%"),
    ],
)
def test_verdicts_on_output(verdicts, text):
    frame = frame_of([], [row(WIN11, fast=True, latencies_ns=[1], xmm_output=verdicts)])
    assert list(shown(View(), "xmm-out", frame).values()) == [text]
    found = sheet(frame, View())
    assert (BY_KEY["xmm-out"].alarm(found.shown) > 0).tolist() == ["claimed" in verdicts]
