"""No room, recycled room, filters: nothing lost without being counted, nothing counted twice."""

from __future__ import annotations

import os
import threading

from hvtrace.kernel import layout
from tests.bpf.conftest import Programs, in_thread

FLUSH, POST = 0x02, 0x5C


def test_no_free_slot_is_counted(make_programs) -> None:
    programs = make_programs(slots=3)
    for code in (FLUSH, POST, 0x5D, 0x08, 0x08):
        programs.call(code)
    programs.hypercall(0x0B)
    programs.hypercall(FLUSH)  # an unfinished call without a slot is lost too
    assert [c.calls for c in programs.calls()] == [1, 1, 1]
    assert programs.source.snapshot().lost.no_slot == 3


def test_table_of_a_thread_can_be_filled_to_the_last_entry(make_programs) -> None:
    programs = make_programs(slots=509)
    for code in range(layout.TABLE + 5):
        programs.call(0x4000 + 64 * code)  # all of them start in one or two places
    assert len(programs.calls()) == layout.TABLE
    assert programs.source.snapshot().lost.no_slot == 5


def test_no_free_thread_is_counted(make_programs) -> None:
    programs = make_programs(threads=2)
    barrier = threading.Barrier(4)

    def guest() -> None:
        for _ in range(3):
            programs.call(FLUSH)
        barrier.wait(10)

    threads = [threading.Thread(target=guest) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait(10)
    for thread in threads:
        thread.join()
    assert sum(c.calls for c in programs.calls()) == 6
    lost = programs.source.snapshot().lost
    assert lost.no_thread == 3
    assert lost.orphans == 3  # their completions find no start: said, not hidden


def test_ended_threads_leave_their_totals_and_their_room(make_programs) -> None:
    """Far more threads, one after another, than there is room for at once."""
    programs = make_programs(threads=2, slots=5)
    for i in range(23):
        in_thread(lambda i=i: [programs.call(FLUSH, result=2 * (i % 2)) for _ in range(3)])
        programs.source.snapshot()
    assert programs.only().statuses == {
        "SUCCESS": 12 * 3,
        "INVALID_HYPERCALL_CODE": 11 * 3,
    }
    snapshot = programs.source.snapshot()
    assert (snapshot.lost.no_slot, snapshot.lost.no_thread) == (0, 0)
    assert len(snapshot.rows) == 1
    assert snapshot.rows["tid"].tolist() == [0]


def test_totals_do_not_change_when_a_thread_ends(programs: Programs) -> None:
    release = threading.Event()
    ready = threading.Event()

    def guest() -> None:
        for _ in range(13):
            programs.call(FLUSH, result=3, fast=True)
        ready.set()
        release.wait(10)

    thread = threading.Thread(target=guest)
    thread.start()
    ready.wait(10)
    before = programs.only()
    release.set()
    thread.join()
    for _ in range(2):  # collected by the first, only remembered by the second
        after = programs.only()
        assert after.buckets.tolist() == before.buckets.tolist()
        assert (after.latency, after.statuses, after.xmm_input, after.xmm_output) == (
            before.latency,
            before.statuses,
            before.xmm_input,
            before.xmm_output,
        )


def test_latency_is_measured(programs: Programs) -> None:
    """A call that is held open for 20 ms, on a clock that hvtrace did not read."""
    programs.hypercall(FLUSH)
    threading.Event().wait(0.02)
    programs.done()
    programs.call(FLUSH)
    latency = programs.only().latency
    assert latency is not None
    assert 20_000_000 <= latency.max < 2_000_000_000
    assert 0 < latency.min < 20_000_000
    assert latency.sum == latency.min + latency.max


def test_filter_by_code(programs: Programs) -> None:
    programs.source.set_filter(None, POST)
    for _ in range(3):
        programs.call(FLUSH)
        programs.call(POST)
    assert [(c.code, c.calls) for c in programs.calls()] == [(POST, 3)]
    assert programs.source.snapshot().lost.orphans == 0


def test_filter_by_process(programs: Programs) -> None:
    programs.source.set_filter(os.getpid() + 1, None)
    programs.call(FLUSH)
    programs.done()
    assert programs.calls() == []
    assert programs.source.snapshot().lost.orphans == 0
    programs.source.set_filter(os.getpid(), None)
    programs.call(FLUSH)
    assert programs.only().calls == 1


def test_calls_open_across_a_change_of_the_filter_are_not_counted(programs: Programs) -> None:
    programs.hypercall(FLUSH)
    programs.source.set_filter(None, None)
    programs.done()
    programs.hypercall(POST)
    programs.source.set_filter(os.getpid() + 1, None)
    programs.source.set_filter(None, None)
    programs.call(FLUSH)
    assert [(c.code, c.completed, c.unfinished) for c in programs.calls()] == [(FLUSH, 1, 0)]
    assert programs.source.snapshot().lost.orphans == 0


def test_a_filtered_call_still_ends_the_one_before(programs: Programs) -> None:
    programs.source.set_filter(None, FLUSH)
    programs.hypercall(FLUSH)
    programs.call(POST)
    assert [(c.code, c.unfinished) for c in programs.calls()] == [(FLUSH, 1)]


def test_nothing_is_counted_before_the_first_filter(make_programs) -> None:
    """Programs attach one after another; they begin together."""
    programs = make_programs()
    programs.source._maps.set_filter(layout.NO_PROCESS, None)
    programs.call(FLUSH)
    programs.hypercall(POST)
    programs.source.set_filter(None, None)
    programs.call(FLUSH)
    assert [(c.code, c.completed, c.unfinished) for c in programs.calls()] == [(FLUSH, 1, 0)]
    assert programs.source.snapshot().lost.orphans == 0
