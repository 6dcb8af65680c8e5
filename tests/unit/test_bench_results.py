"""What is kept of a run of `make bench`, and how two runs compare."""

from __future__ import annotations

import json

from benchmarks import results
from benchmarks.results import Change, Results, changes, from_json, is_comparable, other_machine

FLOOR = "native/hvtrace: memory call/of floor"
NS = "native/hvtrace: memory call/ns"
TRACEFS = "vm trixie/the kernel's own tracefs log/unknown code"


def run(machine: dict[str, str] | None = None, **figures: float) -> Results:
    names = {"floor": FLOOR, "ns": NS, "tracefs": TRACEFS}
    return Results(
        "2026-11-22", machine or {}, {names[name]: value for name, value in figures.items()}
    )


def test_a_run_that_is_kept_comes_back() -> None:
    kept = run({"CPU": "a fast one"}, floor=1.25, ns=353.0)
    assert from_json(kept.to_json()) == kept


def test_the_file_is_what_its_schema_says() -> None:
    kept = json.loads(run({"CPU": "x"}, ns=353.123456).to_json())
    assert kept == {
        "schema": 1,
        "date": "2026-11-22",
        "machine": {"CPU": "x"},
        "figures": {NS: 353.1235},
    }


def test_another_schema_is_not_compared() -> None:
    text = run(ns=1).to_json().replace(f'"schema": {results.SCHEMA}', '"schema": 0')
    assert from_json(text) is None


def test_what_can_be_compared() -> None:
    assert is_comparable(FLOOR)
    assert is_comparable(TRACEFS)
    assert is_comparable("verdicts/memory call/ratio")
    assert not is_comparable(NS)
    assert not is_comparable("process/hvtrace stat/resident, MiB")


def test_changes_are_of_ratios_and_instructions_only_in_the_order_of_this_run() -> None:
    then = run(ns=700, floor=1.25, tracefs=1000)
    now = run(tracefs=1100, ns=350, floor=1.0)
    assert [(c.name, round(c.percent or 0, 6)) for c in changes(then, now)] == [
        (TRACEFS, 10.0),
        (FLOOR, -20.0),
    ]


def test_a_figure_that_only_one_run_has() -> None:
    assert changes(run(tracefs=7), run(floor=2)) == [
        Change(FLOOR, None, 2),
        Change(TRACEFS, 7, None),
    ]
    assert Change(FLOOR, None, 2).percent is None
    assert Change(FLOOR, 7, None).percent is None


def test_growth_from_nothing_has_no_percentage() -> None:
    assert Change(TRACEFS, 0, 3).percent is None
    assert Change(TRACEFS, 0, 0).percent == 0
    assert Change(TRACEFS, 4, 0).percent == -100


def test_differences_of_the_machine_are_said() -> None:
    then = run({"CPU": "slow", "kernel": "6.12", "gone": "1"})
    now = run({"CPU": "fast", "kernel": "6.12", "new": "2"})
    assert other_machine(then, now) == [
        "CPU: then slow, now fast",
        "new: then none, now 2",
        "gone: then 1, now none",
    ]
    assert other_machine(now, now) == []


def test_figures_of_a_part() -> None:
    figures = {"a/x/ns": 1.0, "b/x/ns": 2.0, "a/y/ns": 3.0, "a/x/s": 4.0, "aa/x/ns": 5.0}
    assert results.part(figures, "a") == {"x": {"ns": 1.0, "s": 4.0}, "y": {"ns": 3.0}}
