"""Slow calls: the real programs write them, and the ring is read as it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from hvtrace.kernel import layout, slow
from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import completed
from tests.bpf.conftest import Programs, in_thread

FLUSH, POST = 0x03, 0x5C
ROOM = layout.SLOW_PAGES * 4096 // (layout.SLOW.itemsize + 8)


@pytest.fixture
def programs(make_programs: Callable[..., Programs]) -> Programs:
    """Tells every call."""
    return make_programs(slow_ns=1)


def told(programs: Programs) -> tuple[SlowCall, ...]:
    return programs.source.snapshot().slow


def lost(programs: Programs) -> int:
    return programs.source.snapshot().lost.no_event


def test_all_that_a_call_says(programs: Programs) -> None:
    before = time.time()
    programs.call(FLUSH, 5 << 32, rep=17, var=3)
    programs.hypercall(POST, fast=True, rep=4095, var=1023)
    programs.userspace_exit()
    programs.done(0x7777 | 4095 << 32)
    after = time.time()
    found = programs.source.snapshot()
    kernel, vmm = found.slow
    for call in (kernel, vmm):
        assert before - 0.01 <= call.start <= after + 0.01
        assert call.vm.identity == found.vms[0].identity
        assert (call.vcpu, call.tid) == (None, threading.get_native_id())
    assert (kernel.code, kernel.fast, kernel.handler) == (FLUSH, False, "kernel")
    assert (kernel.rep_cnt, kernel.var_cnt, kernel.reps, kernel.status) == (17, 3, 5, 0)
    assert (vmm.code, vmm.fast, vmm.handler) == (POST, True, "vmm")
    assert (vmm.rep_cnt, vmm.var_cnt, vmm.reps, vmm.status) == (4095, 1023, 4095, 0x7777)
    by_code = dict(zip(found.rows["code"].tolist(), found.rows["sum_ns"].tolist(), strict=True))
    assert {call.code: call.duration_ns for call in found.slow} == by_code
    assert vmm.start >= kernel.start
    assert told(programs) == ()


def test_the_limit_itself_is_slow(programs: Programs) -> None:
    """Each call has a row of its own, which says how long it took: until one took the limit."""
    codes, limit, hits = range(0x101, 0x101 + 113), 1, 0
    before: dict[int, int] = dict.fromkeys(codes, 0)
    for _ in range(500):
        for code in codes:
            programs.call(code)
        found = programs.source.snapshot()
        sums = dict(zip(found.rows["code"].tolist(), found.rows["sum_ns"].tolist(), strict=True))
        times = {code: sums[code] - before[code] for code in codes}
        told = {call.code: call.duration_ns for call in found.slow}
        assert told == {code: ns for code, ns in times.items() if ns >= limit}
        hits += limit in times.values() and len(told) < len(codes)
        if hits == 3:
            return
        before, limit = sums, sorted(times.values())[len(codes) // 2]
        programs.source.set_slow(limit)
    raise AssertionError("no call took exactly as long as the limit: no proof")


def test_none_without_a_limit_and_none_unfinished(programs: Programs) -> None:
    programs.hypercall(FLUSH)
    programs.call(FLUSH)  # the one before is unfinished: it has no time
    assert len(told(programs)) == 1
    programs.source.set_slow(0)
    for _ in range(7):
        programs.call(FLUSH)
    assert told(programs) == ()
    programs.source.set_slow(1)
    programs.call(FLUSH)
    assert len(told(programs)) == 1


def test_only_calls_that_count_are_told(programs: Programs) -> None:
    for pid, code, count in ((None, FLUSH, 3), (os.getpid(), None, 5), (1, None, 7), (None, 2, 11)):
        programs.source.set_filter(pid, code)
        for _ in range(count):
            programs.call(FLUSH)
        expected = count if code in (None, FLUSH) and pid != 1 else 0
        assert [call.code for call in told(programs)] == [FLUSH] * expected
    programs.source.set_filter(None, None)
    programs.hypercall(FLUSH)
    programs.source.set_filter(None, None)  # open across a change: not counted
    programs.done()
    assert told(programs) == ()


def test_what_the_ring_has_no_room_for_is_counted(programs: Programs) -> None:
    made = ROOM + 1009
    for _ in range(made):
        programs.call(FLUSH)
    found = programs.source.snapshot()
    assert completed(found.rows).tolist() == [made]
    assert found.lost.no_event == made - slow.MOST  # what the ring lost, and what was kept of it
    assert len(found.slow) == slow.MOST
    programs.call(POST)
    after = programs.source.snapshot()
    assert [call.code for call in after.slow] == [POST]
    assert after.lost.no_event == found.lost.no_event


def test_a_look_makes_room(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice what the ring holds, and beyond its end over and over."""
    monkeypatch.setattr(slow, "MOST", 10**9)
    made = 2 * ROOM + 13
    for i in range(made):
        programs.call(FLUSH, rep=i % 4093)
        if i % 1013 == 0:
            programs.source.look()
    found = programs.source.snapshot()
    assert [call.rep_cnt for call in found.slow] == [i % 4093 for i in range(made)]
    assert found.lost.no_event == 0
    assert sum(call.duration_ns for call in found.slow) == found.rows["sum_ns"].sum()


def test_those_of_threads_that_have_ended(programs: Programs) -> None:
    """More threads than there are entries: each entry is another's soon."""
    tids: list[int] = []

    def work() -> None:
        tids.append(threading.get_native_id())
        for _ in range(3):
            programs.call(FLUSH)

    for _ in range(2 * 61 + 1):
        in_thread(work)
        programs.source.look()
    found = programs.source.snapshot()
    assert [call.tid for call in found.slow] == [tid for tid in tids for _ in range(3)]
    assert {call.vm.identity for call in found.slow} == {found.vms[0].identity}
    assert found.lost.no_event == 0


def test_a_thread_that_comes_between_look_and_ring_is_told_later(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is not known when its call is read."""
    read = programs.source._maps.slow

    def late() -> object:
        programs.call(FLUSH)
        return read()

    monkeypatch.setattr(programs.source._maps, "slow", late)
    assert told(programs) == ()
    monkeypatch.undo()
    assert [call.tid for call in told(programs)] == [threading.get_native_id()]


def test_an_ended_thread_waits_for_a_record_in_front_of_its_own(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its entry would be another's when its call is read."""
    in_thread(lambda: programs.call(FLUSH))
    read = programs.source._maps.slow
    monkeypatch.setattr(programs.source._maps, "slow", lambda: (read()[0][:0], False))
    before = programs.source.snapshot()
    assert before.rows["tid"].all()  # not collected
    assert completed(before.rows).tolist() == [1]
    monkeypatch.undo()
    after = programs.source.snapshot()
    assert not after.rows["tid"].any()
    assert completed(after.rows).tolist() == [1]


def test_nobody_is_told_where_it_was_not_asked_for(make_programs: Callable[..., Programs]) -> None:
    programs = make_programs()
    programs.source.set_slow(1)
    programs.call(FLUSH)
    assert told(programs) == ()
    assert lost(programs) == 0
