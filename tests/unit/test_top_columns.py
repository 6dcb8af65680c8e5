"""What cells say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from goldens import sample
from samples import START, row, snapshot, vm

from hvtrace.top.columns import BY_KEY, COLUMNS, MINUTE, VCPU
from hvtrace.top.layout import NAMES
from hvtrace.top.model import Model
from hvtrace.top.sheet import Scope, Sheet, View, sheet


def shown(*rows, seconds: float = 2.0, before=(), **view) -> Sheet:
    model = Model()
    model.feed(snapshot(before, time=START))
    return sheet(model.feed(snapshot(rows, time=START + seconds)), View(**view))


def cells(one: Sheet) -> dict[str, str]:
    return {c.key: c.texts(one)[0] for c in COLUMNS if c not in (MINUTE, VCPU)}


def test_a_row_of_many_variants():
    one = shown(
        row(vm(vcpus=2), 0x13, latencies_ns=[1_000_000] * 50, statuses={5: 3}),
        row(vm(vcpus=2), 0x13, fast=True, latencies_ns=[3_000] * 147, xmm_input=100, unfinished=3),
        row(vm(vcpus=2), 0x13, fast=True, handler="vmm", latencies_ns=[9_000] * 3),
    )
    assert cells(one) == {
        "vm": "+win11",
        "call": "FlushVirtualAddressSpaceEx",
        "/s": "102",
        "calls": "203",
        "vcpu%": "1.26",  # 50.468 ms of 2 vCPUs x 2 s
        "time": "100",
        "mean": "252µs",
        "trip": "-",
        "p50": "3.17µs",
        "p99": "988µs",
        "p999": "988µs",
        "max": "1.00ms",
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
    none = ("time", "vcpu%", "mean", "p50", "p99", "p999", "max", "fail")
    assert {found[key] for key in none} == {"-"}
    assert (found["calls"], found["unfin"], found["/s"]) == ("7", "7", "3.50")


def test_counts_stay_where_the_interval_has_no_call():
    rows = [row(code=2, fast=True, latencies_ns=[700] * 7, statuses={5: 2}, unfinished=1)]
    found = cells(shown(*rows, before=rows))
    assert (found["calls"], found["fail"], found["unfin"]) == ("8", "2", "1")
    assert {found[key] for key in ("/s", "time", "mean", "max", "fast", "xmm", "vmm")} == {"-"}


def test_alarms_are_of_the_scope():
    rows = [row(code=2, latencies_ns=[700] * 7, statuses={5: 2}, unfinished=1)]
    alarms = {"fail": 2, "unfin": 1, "xmm-out": 0}
    for before, scope, expected in (
        ((), Scope.INTERVAL, alarms),
        (rows, Scope.INTERVAL, dict.fromkeys(alarms, 0)),
        (rows, Scope.TOTAL, alarms),
    ):
        one = shown(*rows, before=before, scope=scope)
        assert {c.key: c.alarm(one.shown)[0] for c in COLUMNS if c.alarm} == expected


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
    assert cells(one)["xmm-out"] == text


def test_names():
    known = vm("evil\x1b[31m")
    ended = replace(known, ended=True)
    rows = [row(known, 0xFFF0, latencies_ns=[7])]
    found = cells(shown(*[replace(one, vm=ended) for one in rows], before=rows))
    assert found["vm"] == "×evil?[31m"  # noqa: RUF001
    assert found["call"] == found["code"] == "0xfff0"
    assert cells(shown(row(code=0x8001, latencies_ns=[7])))["call"] == "ExtQueryCapabilities"


def test_the_mean_round_trip():
    one = cells(shown(row(latencies_ns=[700, 900], trips_ns=[1_700, 2_300])))
    assert (one["mean"], one["trip"]) == ("800ns", "2.00µs")
    assert cells(shown(row(latencies_ns=[700], trips_ns=[])))["trip"] == "-"
    assert cells(shown(row(latencies_ns=[700])))["trip"] == "-"


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("seconds", [0.1, 1.0, 3600.0])
def test_no_cell_of_numbers_is_wider_than_its_column(seconds, scope):
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(sample(time=START + seconds))
    one = sheet(frame, View(scope=scope))
    for column in (c for c in COLUMNS if c not in NAMES):
        width = column.width + 2 * (column.key == "xmm-out")
        assert max(map(len, column.texts(one))) <= width, column.key


def test_every_column_says_what_it_is():
    assert all(column.about for column in BY_KEY.values())
    assert len(BY_KEY) == len(COLUMNS)
