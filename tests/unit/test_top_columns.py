"""What cells say, and which columns fit."""

from __future__ import annotations

import pytest
from goldens import sample
from hypothesis import given
from hypothesis import strategies as st
from samples import START, row, snapshot, vm

from hvtrace.stats.snapshot import rollup
from hvtrace.top.columns import BY_KEY, CALL, COLUMNS, TRIP, VM, Shown
from hvtrace.top.layout import Layout, fit
from hvtrace.top.model import Model, Scope
from hvtrace.top.view import View


def shown(*rows, seconds: float = 2.0, scope: Scope = Scope.INTERVAL) -> Shown:
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(rollup(snapshot(rows, time=START + seconds)))
    return View(scope=scope).rows(frame)[0]


def cells(one: Shown) -> dict[str, str]:
    return {column.key: column.show(one) for column in COLUMNS}


def test_a_row_of_many_variants():
    one = shown(
        row(code=0x13, latencies_ns=[1_000] * 50, statuses={5: 3}),
        row(code=0x13, fast=True, latencies_ns=[3_000] * 147, xmm_input=100, unfinished=3),
        row(code=0x13, fast=True, handler="vmm", latencies_ns=[9_000] * 3),
    )
    assert cells(one) == {
        "vm": "win11",
        "call": "FlushVirtualAddressSpaceEx",
        "/s": "102",
        "calls": "203",
        "time": "100",
        "mean": "2.59µs",
        "trip": "-",
        "p50": "3.10µs",
        "p99": "8.31µs",
        "p999": "8.31µs",
        "max": "9.00µs",
        "fast": "75",
        "xmm": "49",
        "vmm": "1",
        "fail": "3",
        "unfin": "3",
        "xmm-out": "-",
        "code": "0x0013",
        "pid": "1009",
    }


def test_a_call_that_never_completed_has_no_times():
    found = cells(shown(row(code=2, unfinished=7)))
    assert {found[key] for key in ("time", "mean", "p50", "p99", "p999", "max", "fail")} == {"-"}
    assert (found["calls"], found["unfin"], found["/s"]) == ("7", "7", "3.50")


def test_counts_stay_where_the_interval_has_no_call():
    model = Model()
    rows = [row(code=2, fast=True, latencies_ns=[700] * 7, statuses={5: 2}, unfinished=1)]
    model.feed(rollup(snapshot(rows, time=START)))
    frame = model.feed(rollup(snapshot(rows, time=START + 1)))
    (one,) = View().rows(frame)
    found = cells(one)
    assert (found["calls"], found["fail"], found["unfin"]) == ("8", "2", "1")
    assert {found[key] for key in ("/s", "time", "mean", "max", "fast", "xmm", "vmm")} == {"-"}


def test_alarms_are_of_the_interval():
    one = shown(row(code=2, latencies_ns=[700] * 7, statuses={5: 2}, unfinished=1))
    assert one.line is not None
    assert {c.key: c.alarm(one.line) for c in COLUMNS if c.alarm} == {
        "fail": 2,
        "unfin": 1,
        "xmm-out": 0,
    }
    one = shown(row(code=0x50, fast=True, latencies_ns=[7], xmm_output={"claimed": 1}))
    assert one.line is not None
    assert BY_KEY["xmm-out"].alarm(one.line) == 1


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({"none": 7}, "-"),
        ({"memory": 7}, "-"),
        ({"refused": 7}, "refused"),
        ({"refused": 7, "memory": 50}, "refused"),
        ({"refused": 7, "claimed": 13}, "claimed 65%"),
        ({"used-xmm": 99, "used-gpr": 1}, "used-xmm 99%"),
        ({"used-xmm": 9999, "used-gpr": 1}, "used-xmm >99%"),
        ({"impossible": 2, "refused": 1}, "impossible 67%"),
    ],
)
def test_xmm_output(verdicts, text):
    one = shown(row(code=0x50, fast=True, latencies_ns=[7] * 3, xmm_output=verdicts))
    assert BY_KEY["xmm-out"].show(one) == text


def test_names():
    one = shown(row(vm("evil\x1b[31m", ended=True), 0xFFF0, latencies_ns=[7]))
    assert cells(one)["vm"] == "×evil?[31m"  # noqa: RUF001
    assert cells(one)["call"] == cells(one)["code"] == "0xfff0"
    assert cells(shown(row(code=0x8001, latencies_ns=[7])))["call"] == "ExtQueryCapabilities"
    assert BY_KEY["vm"].value(one) == "evil?[31m"


def test_no_cell_of_numbers_is_wider_than_its_column():
    model = Model()
    model.feed(snapshot(time=START))
    for seconds in (0.1, 1.0, 3600.0):
        frame = model.feed(rollup(sample(time=START + seconds)))
        for scope in Scope:
            for one in View(scope=scope).rows(frame):
                for column in COLUMNS:
                    if column not in (VM, CALL):
                        assert len(column.show(one)) <= column.width + 2 * (column.key == "xmm-out")


def keys(layout: Layout) -> list[str]:
    return [column.key for column, _ in layout.columns]


def width(layout: Layout) -> int:
    return sum(width for _, width in layout.columns) + len(layout.columns) - 1


AT_80 = ["vm", "call", "/s", "calls", "time", "mean", "p99", "max", "fast", "xmm", "fail"]


def test_80_columns():
    layout = fit(80, 24, 26)
    assert keys(layout) == AT_80
    assert width(layout) == 80
    assert dict(layout.columns)[VM] == 10
    assert dict(layout.columns)[CALL] == 16


def test_round_trips_at_80_columns():
    layout = fit(80, 24, 26, trips=True)
    with_trips = [*AT_80[: AT_80.index("p99")], "trip", *AT_80[AT_80.index("p99") :]]
    assert keys(layout) == [key for key in with_trips if key not in ("fast", "xmm")]
    assert width(layout) <= 80


def test_the_mean_round_trip():
    one = shown(row(latencies_ns=[700, 900], trips_ns=[1_700, 2_300]))
    assert (cells(one)["mean"], cells(one)["trip"]) == ("800ns", "2.00µs")
    assert cells(shown(row(latencies_ns=[700], trips_ns=[])))["trip"] == "-"
    assert cells(shown(row(latencies_ns=[700])))["trip"] == "-"


def test_short_names_of_vms_leave_room_for_calls():
    assert dict(fit(80, 3, 26).columns)[CALL] == 23
    assert keys(fit(80, 3, 26)) == AT_80
    assert keys(fit(80, 3, 16)) == [*AT_80[:-1], "vmm", "fail"]  # names are all there: more numbers


def test_120_columns():
    layout = fit(120, 10, 26)
    assert [k for k in keys(layout) if k not in AT_80] == ["p50", "vmm", "unfin", "xmm-out"]
    assert dict(layout.columns)[CALL] == 26
    assert width(layout) == 120


def test_200_columns_have_everything():
    layout = fit(200, 24, 26)
    assert keys(layout) == [column.key for column in COLUMNS if column != TRIP]
    assert keys(fit(200, 24, 26, trips=True)) == [column.key for column in COLUMNS]
    assert dict(layout.columns)[VM] == 24


@given(st.integers(30, 300), st.integers(1, 60), st.integers(4, 40))
def test_never_wider_than_the_screen(screen, vm_width, call_width):
    layout = fit(screen, vm_width, call_width)
    assert width(layout) <= screen
    order = [column.key for column in COLUMNS]
    assert keys(layout) == sorted(keys(layout), key=order.index)
    wider = fit(screen + 1, vm_width, call_width)
    assert set(keys(layout)) <= set(keys(wider))


@given(st.integers(30, 300), st.integers(1, 60), st.integers(4, 40))
def test_every_place_belongs_to_its_column(screen, vm_width, call_width):
    layout = fit(screen, vm_width, call_width)
    x = 0
    for column, own in layout.columns:
        for place in range(x, x + own):
            assert layout.at(place) == column
        x += own + 1
    assert layout.at(x) is None


def test_column_beside():
    layout = fit(80, 24, 26)
    assert layout.beside(BY_KEY["/s"], 1).key == "calls"
    assert layout.beside(BY_KEY["/s"], -1).key == "call"
    assert layout.beside(BY_KEY["vm"], -1).key == "fail"
    assert layout.beside(BY_KEY["fail"], 1).key == "vm"
    assert layout.beside(BY_KEY["pid"], 1).key == "vm"  # not on this screen
