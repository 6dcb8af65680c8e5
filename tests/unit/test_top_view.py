"""Order and filter of rows."""

from __future__ import annotations

import pytest
from goldens import sample
from hypothesis import given
from hypothesis import strategies as st
from samples import START, row, snapshot, vm

from hvtrace.stats.snapshot import rollup
from hvtrace.top.columns import BY_KEY, COLUMNS
from hvtrace.top.model import Frame, Model, Scope
from hvtrace.top.view import View, name_widths


def frame_of(*snapshots) -> Frame:
    model = Model()
    frame = model.feed(rollup(snapshot(time=START - 1)))
    for one in snapshots:
        frame = model.feed(rollup(one))
    return frame


FRAME = frame_of(sample(time=START + 1))


def codes(view: View, frame: Frame = FRAME) -> list[int]:
    return [shown.code for shown in view.rows(frame)]


def by(key: str, descending: bool = True) -> View:
    return View(column=BY_KEY[key], descending=descending)


@pytest.mark.parametrize(
    ("key", "highest"),
    [
        ("/s", [0x5D, 0x13, 0x15]),
        ("calls", [0x5D, 0x13, 0x15]),
        ("time", [0x46, 0x5C, 0x5D]),
        ("mean", [0x46, 0x5C, 0x15]),
        ("max", [0x46, 0x5C, 0x5D]),
        ("fail", [0x50, 0x5C, 0xFFF0]),
        ("unfin", [0x5C, 0x7B]),
        ("xmm-out", [0x50, 0x46]),
        ("code", [0xFFF0, 0x7B, 0x5D]),
    ],
)
def test_highest_first(key: str, highest: list[int]):
    assert codes(by(key))[: len(highest)] == highest


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("scope", Scope)
def test_every_column_both_ways(column, descending, scope):
    rows = View(scope=scope, column=column, descending=descending).rows(FRAME)
    values = [column.value(shown) for shown in rows]
    there = [value for value in values if value is not None]
    assert there == sorted(there, reverse=descending)
    assert len(rows) == len(FRAME.rows)
    assert values == there + [None] * (len(values) - len(there))  # nothing to show: last


def test_equal_values_in_the_order_of_vm_and_name():
    b, a = vm("b", 1009), vm("a", 1013)
    frame = frame_of(
        snapshot([row(v, code, latencies_ns=[700]) for v in (b, a) for code in (0x5C, 0x2)])
    )
    expected = [("a", 0x2), ("a", 0x5C), ("b", 0x2), ("b", 0x5C)]
    for descending in (True, False):
        rows = by("/s", descending).rows(frame)
        assert [(shown.vm.name, shown.code) for shown in rows] == expected


def test_names_are_sorted_without_regard_to_case():
    frame = frame_of(
        snapshot([row(vm(n, 1009 + i), 2, latencies_ns=[7]) for i, n in enumerate("bAc")])
    )
    assert [shown.vm.name for shown in by("vm", False).rows(frame)] == ["A", "b", "c"]


def test_sorted_by_another_column_and_turned():
    view = View()
    assert (view.column.key, view.descending) == ("/s", True)
    turned = view.sorted_by(view.column)
    assert (turned.column.key, turned.descending) == ("/s", False)
    other = turned.sorted_by(BY_KEY["max"])
    assert (other.column.key, other.descending) == ("max", True)
    names = other.sorted_by(BY_KEY["vm"])
    assert (names.column.key, names.descending) == ("vm", False)


def test_scope():
    frame = frame_of(
        snapshot([row(code=2, latencies_ns=[700] * 7)], time=START + 1),
        snapshot([row(code=2, latencies_ns=[700] * 7 + [900] * 3)], time=START + 4),
    )
    (last,) = View().rows(frame)
    (total,) = View().other_scope().rows(frame)
    assert last.line.total.calls == 3
    assert last.span.seconds == 3.0
    assert total.line.total.calls == last.total.total.calls == 10
    assert total.span.seconds == 5.0
    assert View().other_scope().other_scope() == View()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {0x13, 0x5C, 0x5D, 0x15, 0x8, 0x3, 0x50, 0xFFF0, 0x7B, 0x46}),
        ("flush", {0x13, 0x3}),
        ("FLUSH ex", {0x13}),
        ("HvCallFlush", {0x13, 0x3}),
        ("0x5", {0x5C, 0x5D, 0x50}),
        ("0x005c", {0x5C}),
        ("0x13", {0x13}),
        ("0x013", {0x13}),
        ("0x", {0x13, 0x5C, 0x5D, 0x15, 0x8, 0x3, 0x50, 0xFFF0, 0x7B, 0x46}),
        ("0xzz", set()),
        ("invalid_", {0x5C, 0x50, 0xFFF0}),
        ("INVALID_CONNECTION_ID", {0x5C}),
        ("0x7777", {0xFFF0}),
        ("win11", {0x13, 0x5C, 0x5D, 0x15, 0x8, 0x3, 0x50, 0xFFF0, 0x7B, 0x46}),
        ("nothing", set()),
        ("flush nothing", set()),
        ("  \t ", {0x13, 0x5C, 0x5D, 0x15, 0x8, 0x3, 0x50, 0xFFF0, 0x7B, 0x46}),
        ("[", set()),
        ("*", set()),
    ],
)
def test_filter(text: str, expected: set[int]):
    assert set(codes(View(filter=text))) == expected


def test_filter_by_vm():
    frame = frame_of(
        snapshot([row("desktop-7", 0x2, latencies_ns=[7]), row("server", 0x3, latencies_ns=[7])])
    )
    assert codes(View(filter="DESK"), frame) == [0x2]
    assert codes(View(filter="server flush"), frame) == [0x3]


def test_filter_by_pid_where_names_are_equal():
    assert set(codes(View(filter="win11/1013"))) == {0x3, 0x50, 0xFFF0, 0x7B, 0x46}


@given(st.text(max_size=12), st.sampled_from(COLUMNS), st.booleans())
def test_any_filter_gives_a_part_of_the_rows(text, column, descending):
    every = {(shown.vm.pid, shown.code) for shown in View().rows(FRAME)}
    some = [(s.vm.pid, s.code) for s in View(Scope.TOTAL, column, descending, text).rows(FRAME)]
    assert set(some) <= every
    assert len(some) == len(set(some))


def test_widths_of_names():
    frame = frame_of(
        snapshot(
            [
                row("仮想-7", 0x13, latencies_ns=[7]),
                row(vm("x", 7, ended=True), 2, latencies_ns=[7]),
            ]
        )
    )
    assert name_widths(frame) == (6, len("FlushVirtualAddressSpaceEx"))
    assert name_widths(None) == (6, 16)
