"""The gates of `make bench`: met, missed, and not measured."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from benchmarks.gates import GATES, Gate, judge, missed_line, number

GATE = Gate("a call, of two clock reads", "native/hvtrace: */of floor", 1.25)


@pytest.mark.parametrize(("value", "met"), [(1.24, True), (1.25, True), (1.2501, False)])
def test_a_figure_may_be_as_large_as_the_gate(value: float, met: bool) -> None:
    (verdict,) = judge({"native/hvtrace: memory call/of floor": value}, (GATE,))
    assert verdict.met is met


def test_the_worst_figure_counts() -> None:
    figures = {f"native/hvtrace: {call}/of floor": v for call, v in (("a", 1.1), ("b", 1.3))}
    (verdict,) = judge({**figures, "native/textbook/of floor": 2.6}, (GATE,))
    assert (verdict.worst, verdict.met) == (1.3, False)


def test_a_gate_without_a_figure_is_missed() -> None:
    verdicts = judge({"native/textbook/of floor": 1.0}, (GATE,))
    assert not verdicts[0].met
    assert missed_line(verdicts) == (
        "gates missed: a call, of two clock reads: not measured (at most 1.250)"
    )


def test_one_line_names_every_gate_that_was_missed() -> None:
    other, kept = Gate("start, s", "start", 1.0), Gate("size", "size", 3.0)
    name = "native/hvtrace: x/of floor"
    line = missed_line(judge({name: 1.5, "start": 2.0, "size": 3.0}, (GATE, other, kept)))
    assert line == (
        "gates missed: a call, of two clock reads: 1.500 (at most 1.250);"
        " start, s: 2.000 (at most 1.000)"
    )


def test_nothing_is_said_where_all_are_met() -> None:
    assert missed_line(judge({"native/hvtrace: x/of floor": 1.0}, (GATE,))) is None


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("native/hvtrace: memory call, in kernel/of floor", 1.25),
        ("native/hvtrace: XMM call, in kernel/of textbook", 0.45),
        ("vm trixie/hvtrace/of tracefs", 0.45),
        ("vm sid/hvtrace/of cheapest peer", 0.999),
        ("vm sid/options that are off/on another exit", 0.5),
        ("scale/1000 threads x 16 calls/snapshot, ms", 10.0),
        ("scale/1000 threads x 16 calls/snapshot, every slot changed, ms", 10.0),
        ("scale/1000 threads x 16 calls/kernel memory, MiB", 16.0),
        ("scrape/100 VMs x 10 calls/text, ms", 50.0),
        ("scrape/100 VMs x 10 calls/native, ms", 15.0),
        ("scrape/100 VMs x 10 calls/resident, MiB", 64.0),
        ("top/200 VMs x 20 calls x 8 vCPUs/of a core, %", 15.0),
        ("top/200 VMs x 20 calls x 8 vCPUs/resident at most, MiB", 120.0),
        ("top/200 VMs x 20 calls x 8 vCPUs/first picture after the attach, s", 1.0),
        ("top/200 VMs x 20 calls x 8 vCPUs/a key, slowest, ms", 100.0),
        ("process/hvtrace stat/start to first snapshot, s", 1.0),
        ("process/hvtrace stat/resident, MiB", 48.0),
        ("process/hvtrace exporter/resident, MiB", 48.0),
    ],
)
def test_each_limit_that_was_promised_is_a_gate(name: str, most: float) -> None:
    assert [gate.most for gate in GATES if fnmatchcase(name, gate.figures)] == [most]


@pytest.mark.parametrize(
    "name",
    [
        "native/hvtrace, forwarded to the VMM (3 events)/of floor",
        "native/textbook/of floor",
        "vm sid/hvtrace/of tracefs",
        "vm trixie/hvtrace --evidence/of tracefs",
        "scale/1000 threads x 16 calls/first snapshot (who is who), ms",
        "scale/1024 threads x 32 calls/kernel memory, MiB",
    ],
)
def test_what_no_gate_is_for(name: str) -> None:
    assert not [gate.what for gate in GATES if fnmatchcase(name, gate.figures)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4497, "0.450"),
        (1.25, "1.250"),
        (48.04, "48.0"),
        (1242, "1,242"),
        (-0.5, "-0.500"),
        (0.0, "0"),
        (None, "not measured"),
    ],
)
def test_numbers_as_tables_have_them(value: float | None, text: str) -> None:
    assert number(value) == text
