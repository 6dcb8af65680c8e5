"""The two lines that are always true."""

from __future__ import annotations

import time

import pytest
from goldens import sample
from samples import START, row, snapshot

from hvtrace.stats.snapshot import Lost, rollup
from hvtrace.top.columns import BY_KEY
from hvtrace.top.lines import ALARM, State, status, summary
from hvtrace.top.model import Model
from hvtrace.top.view import View


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def state(**more) -> State:
    model = Model()
    model.feed(snapshot(time=START))
    rows = [row(code=2, latencies_ns=[500_000] * 997), row("other", 3, unfinished=7)]
    lost = more.pop("lost", None)
    frame = model.feed(rollup(snapshot(rows, time=START + 2, in_flight=3, lost=lost)))
    settings = {"frame": frame, "kernel": "6.12.107", "probes": 4, "interval_seconds": 2.0}
    return State(**settings | more)


def test_attaching():
    assert summary(State()).plain == " hvtrace top"
    assert status(State()).plain == " attaching  every 1s"


def test_attached_and_nothing_seen():
    model = Model()
    frame = model.feed(snapshot(time=START))
    seen = State(frame=frame, kernel="6.12.107")
    assert summary(seen).plain == " hvtrace top  22:13:20  0 VMs"
    assert status(seen).plain == " attached  every 1s  in flight 0  lost 0  6.12.107"


def test_last_interval():
    expected = " hvtrace top  22:13:22  2 VMs  502 calls/s  249ms/s in calls  last 2.00s"
    assert summary(state()).plain == expected


def test_since_start():
    assert summary(state(view=View().other_scope())).plain.endswith("in calls  total 2.00s")


def test_nothing_in_an_interval():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(snapshot(time=START + 1))
    assert "  0 VMs  0 calls/s  0ns/s in calls  last 1.00s" in summary(State(frame=frame)).plain


def test_one_vm():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(rollup(snapshot([row(latencies_ns=[7])], time=START + 1)))
    assert "  1 VM  " in summary(State(frame=frame)).plain


def test_healthy():
    line = status(state())
    assert line.plain == " 4 probes attached  every 2s  in flight 3  lost 0  6.12.107"
    assert not any(span.style == ALARM for span in line.spans)


def test_losses_are_red():
    line = status(state(lost=Lost(orphans=1, no_slot=1009)))
    assert " LOST orphans 1, no_slot 1,009: raise --slots " in line.plain
    (red,) = [span for span in line.spans if span.style == ALARM]
    assert line.plain[red.start : red.end] == " LOST orphans 1, no_slot 1,009: raise --slots "


def test_every_loss_is_shown():
    line = status(state(lost=Lost(orphans=1, no_slot=2, no_thread=3, no_status=5))).plain
    assert " LOST orphans 1, no_slot 2, no_thread 3, no_status 5: raise --slots " in line


def test_more_room_is_advised_where_room_was_wanting_and_nowhere_else():
    assert "raise --slots" in status(state(lost=Lost(no_thread=1))).plain
    others = Lost(orphans=1, no_status=2, no_exit=3, no_trip=5, missed=7)
    assert "raise --slots" not in status(state(lost=others)).plain


def test_paused_and_filtered():
    line = status(state(paused=True, view=View(filter=" flush "), shown=1)).plain
    assert line.startswith(" PAUSED  /flush 1 of 2  4 probes attached  every 2s")


def test_sort_column_that_is_not_on_the_screen():
    line = status(state(view=View(column=BY_KEY["pid"]), sort_hidden=True)).plain
    assert line.startswith(" sorted by pid  4 probes attached")


def test_both_fit_80_columns():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(rollup(sample(time=START + 1)))
    assert len(summary(State(frame=frame)).plain) <= 80
    assert len(status(state(kernel="6.12.107+deb13-amd64")).plain) <= 80
