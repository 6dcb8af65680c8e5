"""From snapshots to frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
from goldens import sample
from samples import START, row, snapshot, vm

from hvtrace.stats.snapshot import Lost, rollup
from hvtrace.top.model import KEEP_ENDED_SECONDS, Frame, Model, Scope, Span

FLUSH, IPI, POST = 0x2, 0xB, 0x5C


def at(seconds: float, *rows, **more):
    return rollup(snapshot(rows, time=START + seconds, **more))


def by_code(frame: Frame) -> dict[int, tuple[int, int | None]]:
    """Calls of each code: (since the start, in the last interval)."""
    return {
        row.total.total.code: (row.total.total.calls, row.last.total.calls if row.last else None)
        for row in frame.rows
    }


def test_first_frame_has_what_the_source_has_counted_and_no_interval():
    frame = Model().feed(at(0, row(code=FLUSH, latencies_ns=[700] * 3)))
    assert by_code(frame) == {FLUSH: (3, None)}
    assert frame.last is None
    assert frame.span(Scope.INTERVAL) == Span()
    assert frame.time == START


def test_interval_and_total():
    model = Model()
    model.feed(at(0, row(code=FLUSH, latencies_ns=[700] * 3)))
    model.feed(at(1, row(code=FLUSH, latencies_ns=[700] * 10)))
    frame = model.feed(
        at(3, row(code=FLUSH, latencies_ns=[700] * 10 + [900]), row(code=IPI, unfinished=2))
    )
    assert by_code(frame) == {FLUSH: (11, 1), IPI: (2, 2)}
    assert frame.last == Span(seconds=2.0, calls=3, time_ns=900)
    assert frame.total == Span(seconds=3.0, calls=13, time_ns=10 * 700 + 900)
    assert frame.span(Scope.INTERVAL) is frame.last
    assert frame.span(Scope.TOTAL) is frame.total


def test_a_call_that_rests_keeps_its_row():
    model = Model()
    model.feed(at(0))
    model.feed(at(1, row(code=FLUSH, latencies_ns=[700] * 5)))
    frame = model.feed(at(2, row(code=FLUSH, latencies_ns=[700] * 5)))
    assert by_code(frame) == {FLUSH: (5, None)}
    assert frame.last == Span(seconds=1.0, calls=0, time_ns=0)


def test_variants_are_one_row():
    model = Model()
    model.feed(at(0))
    frame = model.feed(
        at(
            1,
            row(code=FLUSH, latencies_ns=[700] * 2),
            row(code=FLUSH, fast=True, latencies_ns=[700] * 7, xmm_input=5),
            row(code=FLUSH, fast=True, handler="vmm", latencies_ns=[900] * 3),
        )
    )
    (only,) = frame.rows
    assert (only.total.total.calls, only.total.fast) == (12, 10)
    assert (only.total.xmm_input, only.total.vmm) == (5, 3)


def test_same_call_of_two_vms_is_two_rows_also_under_one_name():
    a, b = vm("win11", 1009), vm("win11", 1013)
    model = Model()
    model.feed(at(0))
    frame = model.feed(at(1, row(a, FLUSH, latencies_ns=[700]), row(b, FLUSH, latencies_ns=[900])))
    assert {row.vm.pid: row.total.total.calls for row in frame.rows} == {1009: 1, 1013: 1}
    assert frame.vms == 2
    assert {row.label for row in frame.rows} == {"win11/1009", "win11/1013"}


def test_labels_are_names_where_these_are_enough():
    model = Model()
    frame = model.feed(at(0, row("a\n", latencies_ns=[7]), row("b", latencies_ns=[7])))
    assert {row.label for row in frame.rows} == {"a?", "b"}


def test_reset_counts_from_the_next_snapshot_on():
    model = Model()
    model.feed(at(0))
    model.feed(at(1, row(code=FLUSH, latencies_ns=[700] * 5)))
    model.reset()
    frame = model.feed(at(2, row(code=FLUSH, latencies_ns=[700] * 7), lost=Lost(orphans=3)))
    assert frame.rows == ()
    assert frame.last is None
    assert frame.lost == Lost()
    frame = model.feed(at(3, row(code=FLUSH, latencies_ns=[700] * 9), lost=Lost(orphans=4)))
    assert by_code(frame) == {FLUSH: (2, 2)}
    assert frame.total.seconds == frame.last.seconds == 1.0
    assert frame.lost == Lost(orphans=1)


def test_reset_before_the_first_snapshot():
    model = Model()
    model.reset()
    assert model.feed(at(0, row(code=FLUSH, latencies_ns=[700]))).rows == ()


def test_losses_and_calls_in_flight():
    lost = Lost(orphans=1, no_slot=2, no_thread=3, no_status=5)
    model = Model()
    assert model.feed(at(0)).lost == Lost()
    frame = model.feed(at(1, lost=lost, in_flight=7))
    assert (frame.lost, frame.in_flight) == (lost, 7)
    frame = model.feed(at(2, lost=lost))
    assert (frame.lost, frame.in_flight) == (lost, 0)  # of the whole, not of an interval


def test_what_was_open_while_attaching_is_no_loss():
    model = Model()
    assert model.feed(at(0, lost=Lost(orphans=118))).lost == Lost()
    assert model.feed(at(1, lost=Lost(orphans=120))).lost == Lost(orphans=2)


def test_only_orphans_belong_to_the_start() -> None:
    """Whatever else is lost before the first picture is lost."""
    assert Model().feed(at(0, lost=Lost(orphans=3, no_slot=5))).lost == Lost(no_slot=5)


def test_ended_vm_stays_for_a_while_and_then_goes():
    lasting, ended = vm("stays", 1009), vm("goes", 1013)
    rows = (row(lasting, FLUSH, latencies_ns=[700] * 3), row(ended, IPI, latencies_ns=[900] * 5))

    def feed(seconds: float, is_over: bool) -> Frame:
        vms = [lasting, replace(ended, ended=is_over)]
        own = [replace(r, vm=vms[i]) for i, r in enumerate(rows)]
        return model.feed(at(seconds, *own, vms=vms))

    model = Model()
    assert (feed(0, False).vms, feed(1, False).vms) == (2, 2)
    first = feed(100, True)
    assert [(r.vm.name, r.vm.ended) for r in first.rows] == [("goes", True), ("stays", False)]
    assert first.vms == 1
    assert len(feed(100 + KEEP_ENDED_SECONDS, True).rows) == 2
    last = feed(100.5 + KEEP_ENDED_SECONDS, True)
    assert [r.vm.name for r in last.rows] == ["stays"]
    assert last.total.calls == 3  # the summary is of the rows one sees


def test_an_ended_vm_is_seen_once_however_long_the_interval():
    model = Model()
    gone = vm("gone", 1009)
    model.feed(at(0, row(gone, FLUSH, latencies_ns=[700])))
    frame = model.feed(at(60, row(replace(gone, ended=True), FLUSH, latencies_ns=[700] * 3)))
    assert by_code(frame) == {FLUSH: (3, 2)}
    frame = model.feed(at(120, row(replace(gone, ended=True), FLUSH, latencies_ns=[700] * 3)))
    assert frame.rows == ()


def test_a_vm_that_the_source_has_forgotten():
    model = Model()
    a, b = vm("a", 1009), vm("b", 1013)
    model.feed(at(0, row(a, FLUSH, latencies_ns=[700]), row(b, FLUSH, latencies_ns=[700])))
    frame = model.feed(at(1, row(b, FLUSH, latencies_ns=[700] * 2), vms=[b]))
    assert [(r.vm.name, r.last.total.calls) for r in frame.rows] == [("b", 1)]


def test_frame_is_immutable():
    frame = Model().feed(at(0))
    with pytest.raises(AttributeError):
        frame.time = 0.0


def test_sample_with_everything():
    model = Model()
    model.feed(at(0))
    frame = model.feed(rollup(sample(time=START + 1)))
    assert len(frame.rows) == 10
    assert frame.total.calls == sum(r.total.total.calls for r in frame.rows) == 6068
