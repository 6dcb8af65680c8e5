"""The lines that are always true."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import pytest
from goldens import sample
from samples import START, row, snapshot

from hvtrace.stats.snapshot import Lost, Probe
from hvtrace.top.lines import ALARM, MODE, State, status, summary
from hvtrace.top.model import Model
from hvtrace.top.sheet import Grouping, View

PROBES = tuple(Probe(name, True, 7, 700) for name in ("kvm_hv_hypercall", "done", "exit", "end"))


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def state(probes=PROBES, lost=None, cpu_seconds=0.03, **more) -> State:
    model = Model()
    model.feed(snapshot(time=START), 0.0)
    rows = [row(code=2, latencies_ns=[500_000] * 997), row("other", 3, unfinished=7)]
    one = snapshot(rows, time=START + 2, in_flight=3, lost=lost)
    frame = model.feed(replace(one, probes=probes), cpu_seconds)
    known = {"frame": frame, "newest": frame, "kernel": "6.12.107", "interval_seconds": 2.0}
    return State(**known | more)


def plain(one: State, width: int = 120) -> list[str]:
    return [line.plain for line in status(one, width)]


def red(one: State, width: int = 120) -> list[str]:
    return [
        line.plain[span.start : span.end]
        for line in status(one, width)
        for span in line.spans
        if span.style == ALARM
    ]


def test_attaching():
    assert summary(State()).plain == " hvtrace"
    assert plain(State()) == [" attaching  every 1s"]


def test_attached_and_nothing_seen():
    frame = Model().feed(snapshot(time=START))
    seen = State(frame=frame, kernel="6.12.107", probes=4)
    assert summary(seen).plain == " hvtrace 22:13:20  0 VMs  by VM+call"
    assert plain(seen) == [
        " 4 probes  lost 0  cost -  own -  every 1s  in flight 0  6.12.107",
    ]


def test_last_interval():
    expected = " hvtrace 22:13:22  2 VMs  502 calls/s  249ms/s busy  last 2.00s  by VM+call"
    assert summary(state()).plain == expected


def test_since_start():
    view = replace(View(), grouping=Grouping.VCPU).other_scope()
    assert summary(state(view=view)).plain.endswith("s/s busy  total 2.00s  by vCPU")


def test_nothing_in_an_interval():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(snapshot(time=START + 1))
    assert "  0 VMs  0 calls/s  0ns/s busy  last 1.00s" in summary(State(frame=frame)).plain


def test_one_vm():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(snapshot([row(latencies_ns=[7])], time=START + 1))
    assert "  1 VM  " in summary(State(frame=frame)).plain


def test_healthy():
    # 4 x 700 ns in 7 runs of the first: 400 ns for each of 502 calls/s; 30 ms of 2 s in here.
    assert plain(state()) == [
        " 4 probes  lost 0  cost 400ns/call 0.02%  own 1.50%  every 2s  in flight 3  6.12.107"
    ]
    assert red(state()) == []


def test_cost_that_was_not_measured():
    never = tuple(replace(probe, runs=0, run_ns=0) for probe in PROBES)
    assert "  cost -  own 1.50%  " in plain(state(never))[0]


def test_a_probe_that_is_missing():
    probes = (*PROBES[:3], replace(PROBES[3], attached=False))
    assert red(state(probes)) == [" NOT ATTACHED end ", " 3 OF 4 PROBES "]


def test_losses_are_red_and_told_by_name():
    one = state(lost=Lost(orphans=1, no_slot=1009))
    # Orphans of the first snapshot are no loss, those after it are.
    assert red(one) == [" LOST no_slot 1,009: raise --slots ", " orphans 1 ", " LOST 1,010 "]


def test_every_loss_is_told_and_no_word_of_it_cut_off():
    lost = Lost(**{one.name: 10**6 + i for i, one in enumerate(fields(Lost))})
    lines = plain(state(lost=lost), 80)
    text = "".join(lines)
    assert all(f"{one.name} {10**6 + i:,}" in text for i, one in enumerate(fields(Lost)))
    assert " LOST no_slot 1,000,001, no_thread 1,000,002: raise --slots " in lines[0]
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4


def test_more_room_is_advised_where_room_was_wanting_and_nowhere_else():
    assert "raise --slots" in plain(state(lost=Lost(no_thread=1)))[0]
    others = Lost(orphans=1, no_status=2, no_exit=3, no_trip=5, missed=7, no_event=11)
    assert "raise --slots" not in plain(state(lost=others))[0]


def test_claimed():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(sample(time=START + 1))
    assert " XMM OUTPUT CLAIMED 1 " in red(State(frame=frame, kernel="6.12"))


def test_paused_and_stepped_back():
    now = state()
    assert plain(replace(now, paused=True))[0].startswith(" PAUSED  4 probes  lost 0  ")
    newest = replace(now.frame, time=START + 14)
    back = replace(now, paused=True, newest=newest)
    assert plain(back)[0].startswith(" PAUSED -12.0s  4 probes  ")
    (mode,) = [span for span in status(back, 80)[0].spans if span.style == MODE]
    assert mode.end == len(" PAUSED -12.0s ")


def test_filtered():
    lines = plain(state(view=View(filter=" flush "), shown=1))
    assert lines[0] == " /flush: 1 row, Esc drops it "
    assert plain(state(view=View(filter="x"), shown=1009))[0] == " /x: 1,009 rows, Esc drops it "


def test_sort_column_that_is_not_on_the_screen():
    lines = plain(state(view=View(sort="pid"), sort_hidden=True))
    assert lines[0] == " sorted by pid, not shown "


def test_a_recording_costs_nothing_here():
    one = state((), recording="friday\x1b.jsonl")
    expected = " replay friday?.jsonl  lost 0  every 2s  in flight 3  6.12.107"
    assert plain(one) == [expected]
    assert plain(replace(one, end="")) == [f" END OF RECORDING {expected}"]
    assert red(replace(one, end="line 7 of x is cut off")) == [" line 7 of x is cut off "]


def test_the_limit_of_slow_calls():
    assert "  slow 500µs  " in plain(state(slow_ns=500_000))[0]
    assert "slow" not in plain(state())[0]


@pytest.mark.parametrize("width", range(20, 121, 7))
def test_what_does_not_fit_is_left_out_whole(width):
    whole = plain(state(), 200)[0]
    (line,) = plain(state(), width)
    assert len(line) <= width
    assert whole.startswith(line)
    assert whole[len(line) :].startswith("  ") or line == whole


def test_all_that_matters_fits_80_columns():
    model = Model()
    model.feed(snapshot(time=START))
    frame = model.feed(sample(time=START + 1))
    assert len(summary(State(frame=frame)).plain) <= 80
    assert plain(state(), 80)[0].endswith("  every 2s  in flight 3")
