"""Which columns fit, and which a user has left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.top.columns import BY_KEY, CALL, COLUMNS, MINUTE, TRIP, VCPU, VM
from hvtrace.top.layout import Layout, fit
from hvtrace.top.sheet import Grouping

ALL = Grouping.CALL_OF_VM


def names(vm: int, call: int) -> dict[str, int]:
    return {"vm": vm, "vcpu": 8, "call": call}


def keys(layout: Layout) -> list[str]:
    return [column.key for column, _ in layout.columns]


def width(layout: Layout) -> int:
    return sum(width for _, width in layout.columns) + len(layout.columns) - 1


AT_80 = ["vm", "call", "/s", "calls", "vcpu%", "time", "mean", "p99", "max", "fail"]


def test_80_columns():
    layout = fit(80, ALL, names(24, 26))
    assert keys(layout) == AT_80
    assert width(layout) == 80
    assert dict(layout.columns)[VM] == 10
    assert dict(layout.columns)[CALL] == 19


def test_round_trips_at_80_columns():
    layout = fit(80, ALL, names(24, 26), trips=True)
    assert keys(layout) == [
        "vm",
        "call",
        "/s",
        "calls",
        "vcpu%",
        "mean",
        "trip",
        "p99",
        "max",
        "fail",
    ]
    assert width(layout) <= 80


def test_short_names_of_vms_leave_room_for_calls():
    assert keys(fit(80, ALL, names(5, 26))) == AT_80
    assert dict(fit(80, ALL, names(5, 20)).columns)[CALL] == 20


def test_the_course_of_a_minute_from_100_columns_on():
    assert "minute" in keys(fit(100, ALL, names(24, 26)))


def test_120_columns():
    layout = fit(120, ALL, names(10, 26))
    assert [k for k in keys(layout) if k not in AT_80] == [
        "minute",
        "p50",
        "fast",
        "xmm",
        "vmm",
        "unfin",
    ]
    assert width(layout) == 120


def test_200_columns_have_everything():
    usual = [c.key for c in COLUMNS if c not in (TRIP, VCPU)]
    layout = fit(200, ALL, names(24, 26))
    assert keys(layout) == usual
    with_trips = fit(200, ALL, names(24, 26), trips=True)
    assert keys(with_trips) == [c.key for c in COLUMNS if c is not VCPU]
    assert dict(layout.columns)[VM] == 24
    assert dict(layout.columns)[MINUTE] > MINUTE.width


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        (Grouping.CALL_OF_VM, {"vm", "call", "code", "pid"}),
        (Grouping.VM, {"vm", "pid"}),
        (Grouping.CALL, {"call", "code"}),
        (Grouping.VCPU, {"vm", "vcpu", "pid"}),
        (Grouping.HOST, {"vm"}),
    ],
)
def test_what_a_grouping_has(grouping, expected):
    found = keys(fit(250, grouping, names(24, 26)))
    assert set(found) & {"vm", "vcpu", "call", "code", "pid"} == expected
    assert {"/s", "minute", "xmm-out", "p999"} <= set(found)


def test_what_is_hidden_makes_room_for_others():
    hidden = frozenset({"vcpu%", "time", "max"})
    found = keys(fit(80, ALL, names(24, 26), hidden=hidden))
    assert not hidden & set(found)
    assert [key for key in AT_80 if key not in hidden] == [k for k in found if k in AT_80]
    assert "minute" in found


def test_all_numbers_hidden():
    hidden = frozenset(BY_KEY)
    assert keys(fit(80, ALL, names(24, 26), hidden=hidden)) == ["vm", "call"]


@given(
    st.integers(30, 300),
    st.sampled_from(Grouping),
    st.integers(1, 60),
    st.integers(4, 40),
    st.frozensets(st.sampled_from(sorted(BY_KEY)), max_size=5),
)
def test_never_wider_than_the_screen(screen, grouping, vm_width, call_width, hidden):
    layout = fit(screen, grouping, names(vm_width, call_width), hidden=hidden)
    assert width(layout) <= screen
    order = [column.key for column in COLUMNS]
    assert keys(layout) == sorted(keys(layout), key=order.index)
    wider = fit(screen + 1, grouping, names(vm_width, call_width), hidden=hidden)
    assert set(keys(layout)) <= set(keys(wider))


@given(st.integers(30, 300), st.integers(1, 60), st.integers(4, 40))
def test_every_place_belongs_to_its_column(screen, vm_width, call_width):
    layout = fit(screen, ALL, names(vm_width, call_width))
    x = 0
    for column, own in layout.columns:
        for place in range(x, x + own):
            assert layout.at(place) == column
        x += own + 1
    assert layout.at(x) is None


def test_column_beside():
    layout = fit(80, ALL, names(24, 26))
    assert layout.beside("/s", 1).key == "calls"
    assert layout.beside("/s", -1).key == "call"
    assert layout.beside("vm", -1).key == "fail"
    assert layout.beside("fail", 1).key == "vm"
    assert layout.beside("pid", 1).key == "vm"  # not on this screen
