"""One state machine per vCPU thread: every path of a call through KVM, run for real."""

from __future__ import annotations

import os
import threading

import pytest

from hvtrace.hyperv import codes
from tests.bpf.conftest import Programs, in_thread

FLUSH, POST, UNKNOWN = 0x02, 0x5C, 0x7777


def test_nothing_is_counted_before_a_call_is_over(programs: Programs) -> None:
    programs.hypercall(FLUSH)
    assert programs.calls() == []
    assert programs.source.snapshot().in_flight == 1
    programs.done()
    assert programs.only().calls == 1
    assert programs.source.snapshot().in_flight == 0


def test_calls_handled_in_kernel(programs: Programs) -> None:
    for _ in range(31):
        programs.call(FLUSH)
    call = programs.only()
    assert (call.code, call.name, call.fast, call.handler) == (
        FLUSH,
        "HvCallFlushVirtualAddressSpace",
        False,
        "kernel",
    )
    assert (call.calls, call.completed, call.unfinished) == (31, 31, 0)
    assert call.statuses == {"SUCCESS": 31}
    assert call.vm.pid == os.getpid()


def test_fast_and_memory_calls_of_one_code_are_two_rows(programs: Programs) -> None:
    for _ in range(3):
        programs.call(FLUSH, fast=True)
    for _ in range(5):
        programs.call(FLUSH)
    assert [(c.fast, c.calls) for c in programs.calls()] == [(False, 5), (True, 3)]


def test_forwarded_call_belongs_to_the_vmm(programs: Programs) -> None:
    programs.hypercall(POST)
    programs.userspace_exit()
    programs.done()
    assert programs.only().handler == "vmm"


@pytest.mark.parametrize(
    ("reason", "errno"),
    [
        (2, 0),  # KVM_EXIT_IO
        (27, -4),  # -EINTR: `reason` is what the run before left
        (27, -11),
    ],
)
def test_other_exits_do_not_forward(programs: Programs, reason: int, errno: int) -> None:
    programs.hypercall(POST)
    programs.userspace_exit(reason, errno)
    programs.done()
    assert programs.only().handler == "kernel"


def test_hyperv_exit_without_an_open_call_is_none_of_ours(programs: Programs) -> None:
    """SynIC and SynDBG exits have reason 27 too."""
    programs.userspace_exit()
    programs.call(POST)
    programs.userspace_exit()
    assert programs.only().handler == "kernel"
    assert programs.only().calls == 1


def test_exit_after_an_immediate_completion_does_not_forward(programs: Programs) -> None:
    """immediate_exit: done comes first, then an exit with -EINTR and a stale reason."""
    programs.hypercall(POST)
    programs.userspace_exit()
    programs.done()
    programs.userspace_exit(27, -4)
    call = programs.only()
    assert (call.handler, call.completed, call.unfinished) == ("vmm", 1, 0)


def test_superseded_call_is_unfinished_and_never_paired_across(programs: Programs) -> None:
    for _ in range(7):
        programs.hypercall(FLUSH, fast=True)  # #UD, no completion
    programs.call(POST, result=0x12)
    flush, post = programs.calls()
    assert (flush.calls, flush.completed, flush.unfinished) == (7, 0, 7)
    assert flush.latency is None
    assert flush.statuses == {}
    assert (post.completed, post.statuses) == (1, {"INVALID_CONNECTION_ID": 1})


def test_completion_without_a_start_is_an_orphan_not_a_call(programs: Programs) -> None:
    programs.done()
    programs.call(FLUSH)
    programs.done()
    assert programs.only().calls == 1
    assert programs.source.snapshot().lost.orphans == 2


def test_completion_on_another_thread_is_an_orphan(programs: Programs) -> None:
    programs.hypercall(POST)
    programs.userspace_exit()
    in_thread(programs.done)
    assert programs.source.snapshot().lost.orphans == 1
    programs.hypercall(FLUSH)  # what the first thread does next
    assert [(c.code, c.unfinished) for c in programs.calls()] == [(POST, 1)]


def test_call_pending_at_the_end_of_its_thread_is_unfinished(programs: Programs) -> None:
    def guest() -> None:
        programs.call(FLUSH)
        programs.hypercall(POST)
        programs.userspace_exit()

    in_thread(guest)
    flush, post = programs.calls()
    assert (flush.completed, flush.unfinished) == (1, 0)
    assert (post.handler, post.completed, post.unfinished) == ("vmm", 0, 1)
    assert programs.source.snapshot().in_flight == 0


def test_threads_at_the_same_time_are_kept_apart(programs: Programs) -> None:
    """Two threads interleave; each completes its own call."""
    first_open, second_done = threading.Event(), threading.Event()

    def first() -> None:
        programs.hypercall(FLUSH)
        first_open.set()
        second_done.wait(10)
        programs.done(0)

    thread = threading.Thread(target=first)
    thread.start()
    first_open.wait(10)
    programs.call(POST, result=5)
    second_done.set()
    thread.join()
    got = {c.code: c.statuses for c in programs.calls()}
    assert got == {FLUSH: {"SUCCESS": 1}, POST: {"INVALID_PARAMETER": 1}}
    assert programs.source.snapshot().lost.orphans == 0


def test_unknown_code_keeps_a_row_of_its_own(programs: Programs) -> None:
    for code in (UNKNOWN, UNKNOWN + 1, UNKNOWN):
        programs.call(code, result=2)
    assert [(c.name, c.calls) for c in programs.calls()] == [("0x7777", 2), ("0x7778", 1)]


def test_arguments_are_masked_to_their_width(programs: Programs) -> None:
    """Raw arguments are 64-bit words; what is above a u16 or a bool is noise."""
    programs.hypercall(0xABCD_0000 | FLUSH, fast=0xFF00)  # type: ignore[arg-type]
    programs.done(0xFFFF_F003_8000_0000 | 5)
    call = programs.only()
    assert (call.code, call.fast) == (FLUSH, False)
    assert call.reps == 3
    assert call.statuses == {"INVALID_PARAMETER": 1}


def test_prototype_without_var_cnt(make_programs) -> None:
    """Before 5.18 the rep count is the third argument."""
    old = make_programs(has_var_cnt=False)
    old.call(0x50, result=2, fast=True, rep=4)  # 16 + 4*4 bytes in, 64 out: fits
    old.call(0x50, result=2, fast=True, rep=5)  # 36 in, 80 out: 3 + 5 pairs
    assert old.only().xmm_output == {"refused": 1, "impossible": 1}


def test_more_failing_statuses_than_a_slot_holds(programs: Programs) -> None:
    expected = {}
    for status, count in {2: 3, 3: 5, 4: 7, 5: 11, 6: 13, 0x12: 17, 0xFFF0: 19}.items():
        for _ in range(count):
            programs.call(POST, result=status)
        expected[status] = count
    programs.call(POST)
    snapshot = programs.source.snapshot()
    assert {int(s): int(n) for _, s, n in snapshot.statuses.tolist()} == expected
    assert programs.only().statuses["SUCCESS"] == 1
    assert snapshot.lost.no_status == 0


def test_overflown_statuses_survive_their_thread_and_do_not_haunt_the_next(
    programs: Programs,
) -> None:
    def guest() -> None:
        for status in range(2, 2 + 7):
            programs.call(POST, result=status)

    for _ in range(3):  # the slot is used again each time
        in_thread(guest)
        programs.source.snapshot()
    assert sum(programs.only().statuses.values()) == 21
    assert set(programs.only().statuses.values()) == {3}


def test_reps_are_those_completed(programs: Programs) -> None:
    programs.call(0x03, result=5 << 32, rep=5)
    programs.call(0x03, result=3, rep=5)
    programs.call(0x03, result=0xFFF << 32, rep=0xFFF)
    assert programs.only().reps == 5 + 0xFFF


def test_every_known_code_gets_its_own_row(make_programs) -> None:
    """More codes than one thread's table holds: spread over threads, none is lost."""
    programs = make_programs(slots=1021)
    known = sorted(codes.CODES)
    for part in (known[::2], known[1::2]):
        in_thread(lambda part=part: [programs.call(code, result=2) for code in part])
    assert [c.code for c in programs.calls()] == known
    assert programs.source.snapshot().lost.no_slot == 0
