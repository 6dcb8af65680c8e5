"""Round trips: the real programs on vCPUs that stand in kernel memory of ours."""

from __future__ import annotations

import mmap
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hvtrace.kernel import bpf, layout, loader
from hvtrace.kernel.loader import Program
from hvtrace.kernel.structures import RoundTrip, Structures
from hvtrace.stats.snapshot import NO_MIN, completed, rollup
from tests.bpf.conftest import Programs, in_thread

FLUSH, POST = 0x02, 0x5C
VMX, SVM = 1, 2
VMCALL, VMMCALL, OTHER = 18, 0x81, 0x72

# What the programs read, at places of the test's own: words of a vCPU.
EXITS, ENABLED, VMCB, VMX_REASON, CODE = range(5)
WORDS = 8
STRUCTURES = Structures(offsets={"VCPU_ENABLED": 8 * ENABLED})
ROUND_TRIP = RoundTrip(
    offsets={
        "EXIT_VCPU": 0,
        "ENTRY_VCPU": 0,
        "VCPU_EXITS": 8 * EXITS,
        "SVM_VMCB": 8 * VMCB,
        "SVM_CODE": 8 * CODE,
        "VMX_REASON": 8 * VMX_REASON,
    }
)


class Vcpu:
    """Words of kernel memory as a struct kvm_vcpu; its VMCB begins at the same place."""

    def __init__(self, words: np.ndarray, address: int) -> None:
        self.words, self.address = words, address
        self.words[:] = 0
        self.words[EXITS], self.words[ENABLED], self.words[VMCB] = 3, 1, address

    def exit(self, programs: Programs, svm: int = VMMCALL, *, vmx: int | None = None) -> None:
        self.words[CODE] = svm
        self.words[VMX_REASON] = vmx or 0
        programs.exit(self.address, SVM if vmx is None else VMX)

    def call(self, programs: Programs, code: int = FLUSH) -> None:
        self.exit(programs)
        programs.call(code)
        programs.entry(self.address)


@pytest.fixture(scope="module")
def memory() -> Iterator[tuple[np.ndarray, int]]:
    source = Path(__file__).with_name("memory.bpf.c")
    loaded = loader.load([source], [], [Program("address", "raw", "")], ["memory"])
    bpf.run_raw_tracepoint(loaded.programs["address"], 0)
    words = np.frombuffer(mmap.mmap(loaded.maps["memory"], mmap.PAGESIZE), "<u8")
    yield words, int(words[0])
    loaded.close()


@pytest.fixture
def vcpus(memory: tuple[np.ndarray, int]) -> list[Vcpu]:
    words, address = memory
    starts = range(WORDS, 64, WORDS)
    return [Vcpu(words[at : at + WORDS], address + 8 * at) for at in starts]


@pytest.fixture
def programs(make_programs: Callable[..., Programs]) -> Programs:
    return make_programs(structures=STRUCTURES, round_trip=ROUND_TRIP)


def waiting(programs: Programs) -> int:
    """How many threads wait for an entry, by the programs' own table."""
    ((_, value),) = bpf.items(programs.source.loaded.maps["waiting"], 4, 4 * 4096)
    return int(np.frombuffer(value, "<u4").sum(dtype=np.uint32))


def entries(programs: Programs) -> int:
    """Threads that have an entry."""
    return int(np.count_nonzero(programs.source._maps.threads["state"] == layout.LIVE))


def test_from_exit_to_entry(programs: Programs, vcpus: list[Vcpu]) -> None:
    for _ in range(17):
        vcpus[0].call(programs)
    call = programs.only()
    assert (call.completed, call.trips) == (17, 17)
    assert call.round_trip is not None
    assert call.latency is not None
    assert call.round_trip.min > call.latency.min
    assert call.round_trip.sum > call.latency.sum
    assert waiting(programs) == 0


def test_the_reason_of_vmx_is_the_low_half(programs: Programs, vcpus: list[Vcpu]) -> None:
    for reason, trips in ((VMCALL, 1), (VMCALL | 1 << 27, 2), (VMCALL + 1, 2), (1 << 16, 2)):
        vcpus[0].exit(programs, vmx=reason)
        programs.call(FLUSH)
        programs.entry(vcpus[0].address)
        assert programs.only().trips == trips
    assert programs.source.snapshot().lost.no_trip == 2


def test_other_exits_leave_nothing(programs: Programs, vcpus: list[Vcpu]) -> None:
    for isa in ({"svm": OTHER}, {"svm": VMCALL}, {"vmx": VMMCALL}, {"vmx": 10}):
        vcpus[0].exit(programs, **isa)
        assert entries(programs) == waiting(programs) == 0
        programs.entry(vcpus[0].address)


def test_a_reason_that_cannot_be_read_is_no_hypercall(
    programs: Programs, vcpus: list[Vcpu]
) -> None:
    vcpus[0].words[VMCB] = 0
    vcpus[0].call(programs)
    assert programs.only().trips == 0
    assert programs.source.snapshot().lost.no_trip == 1


def test_kvms_own_hypercalls_need_no_entry(programs: Programs, vcpus: list[Vcpu]) -> None:
    """A guest without Hyper-V makes them by the same exit."""
    vcpus[0].words[ENABLED] = 0
    vcpus[0].exit(programs)
    programs.entry(vcpus[0].address)
    assert entries(programs) == 0
    vcpus[1].exit(programs)
    assert (entries(programs), waiting(programs)) == (1, 1)
    programs.entry(vcpus[1].address)
    assert waiting(programs) == 0
    assert programs.calls() == []
    assert programs.source.snapshot().lost.no_trip == 0


def test_a_forwarded_call_waits_for_its_own_vcpu(programs: Programs, vcpus: list[Vcpu]) -> None:
    vcpus[0].exit(programs)
    programs.hypercall(POST)
    programs.userspace_exit()
    for other in vcpus[1:]:
        other.exit(programs, OTHER)
        programs.entry(other.address)
    programs.done()
    programs.entry(vcpus[1].address)
    assert programs.only().trips == 0
    programs.entry(vcpus[0].address)
    call = programs.only()
    assert (call.handler, call.trips) == ("vmm", 1)
    programs.entry(vcpus[0].address)
    assert programs.only().trips == 1


def test_a_call_that_faults_has_none(programs: Programs, vcpus: list[Vcpu]) -> None:
    vcpus[0].exit(programs)
    programs.hypercall(FLUSH)
    programs.entry(vcpus[0].address)  # at the same instruction: #UD
    vcpus[0].call(programs)
    call = programs.only()
    assert (call.unfinished, call.completed, call.trips) == (1, 1, 1)
    assert programs.source.snapshot().lost.no_trip == 0


def test_a_completed_call_left_for_another_vcpu_is_counted(
    programs: Programs, vcpus: list[Vcpu]
) -> None:
    vcpus[0].exit(programs)
    programs.call(POST)
    vcpus[1].call(programs)
    programs.entry(vcpus[0].address)
    assert {call.code: call.trips for call in programs.calls()} == {POST: 0, FLUSH: 1}
    assert programs.source.snapshot().lost.no_trip == 1


def test_a_vcpu_that_never_exited_is_another(programs: Programs, vcpus: list[Vcpu]) -> None:
    vcpus[0].exit(programs)
    programs.call(POST)
    vcpus[0].words[EXITS] = 0
    programs.entry(vcpus[0].address)
    assert programs.only().trips == 0
    assert programs.source.snapshot().lost.no_trip == 1
    assert waiting(programs) == 0


def test_the_exit_of_the_call_has_to_be_seen(programs: Programs, vcpus: list[Vcpu]) -> None:
    vcpus[0].call(programs)
    programs.call(FLUSH)
    programs.entry(vcpus[0].address)
    assert (programs.only().completed, programs.only().trips) == (2, 1)
    assert programs.source.snapshot().lost.no_trip == 1


def test_what_is_filtered_out_has_none(programs: Programs, vcpus: list[Vcpu]) -> None:
    programs.source.set_filter(1, None)
    vcpus[0].call(programs)
    assert entries(programs) == 0
    programs.source.set_filter(None, FLUSH)
    vcpus[0].call(programs, POST)
    vcpus[0].call(programs, FLUSH)
    vcpus[0].exit(programs)
    programs.hypercall(FLUSH)
    programs.source.set_filter(None, None)  # open across it: not counted at all
    programs.done()
    programs.entry(vcpus[0].address)
    assert programs.only().trips == programs.only().completed == 1
    assert programs.source.snapshot().lost.no_trip == 0
    assert waiting(programs) == 0


def test_a_thread_that_ends_waits_no_more(make_programs, vcpus: list[Vcpu]) -> None:
    programs = make_programs(threads=2, slots=3, structures=STRUCTURES, round_trip=ROUND_TRIP)

    def guest() -> None:
        vcpus[0].call(programs)
        vcpus[0].exit(programs)
        programs.call(FLUSH)

    for i in range(7):
        in_thread(guest)
        assert waiting(programs) == 0
        call = programs.only()
        assert (call.completed, call.trips) == (2 * (i + 1), i + 1)
    assert programs.source.snapshot().lost.no_trip == 0  # nobody can see what never happened


def test_a_slot_begins_anew_for_the_next_thread(make_programs, vcpus: list[Vcpu]) -> None:
    programs = make_programs(threads=2, slots=1, structures=STRUCTURES, round_trip=ROUND_TRIP)
    in_thread(lambda: vcpus[0].call(programs))
    programs.source.snapshot()
    vcpus[1].exit(programs)
    programs.call(POST)
    by_code = {call.code: call for call in programs.calls()}
    assert (by_code[FLUSH].trips, by_code[POST].trips) == (1, 0)
    whole = rollup(programs.source.snapshot())
    assert whole.trips["min_ns"][whole.rows["code"] == POST] == [NO_MIN]


def test_threads_do_not_end_each_others(programs: Programs, vcpus: list[Vcpu]) -> None:
    """A vCPU moves: its entry on another thread is nobody's."""
    begun, moved = threading.Event(), threading.Event()

    def guest() -> None:
        vcpus[0].exit(programs)
        programs.call(FLUSH)
        begun.set()
        assert moved.wait(10)
        programs.entry(vcpus[0].address)

    thread = threading.Thread(target=guest)
    thread.start()
    assert begun.wait(10)
    vcpus[1].call(programs, POST)
    programs.entry(vcpus[0].address)
    assert {call.code: call.trips for call in programs.calls()} == {FLUSH: 0, POST: 1}
    moved.set()
    thread.join()
    assert {call.code: call.trips for call in programs.calls()} == {FLUSH: 1, POST: 1}


def test_any_order_of_events(programs: Programs, vcpus: list[Vcpu]) -> None:
    """Against rules written anew: what a thread waits for, and which call it is for."""
    rng = random.Random(1009)
    waits_for: Vcpu | None = None
    is_open = is_over = False
    trips = lost = made = 0
    for _ in range(4001):
        vcpu, event = rng.choice(vcpus[:3]), rng.choice(("exit", "other", "call", "done", "entry"))
        if event == "exit":
            vcpu.exit(programs)
            lost += is_over
            waits_for, is_over = vcpu, False
        elif event == "other":
            vcpu.exit(programs, OTHER)
        elif event == "call":
            programs.hypercall(FLUSH)
            is_open = True
        elif event == "done":
            programs.done()
            if is_open:
                made += 1
                lost += is_over or waits_for is None
                is_over, is_open = waits_for is not None, False
        else:
            programs.entry(vcpu.address)
            if vcpu is waits_for:
                trips += is_over
                waits_for, is_over = None, False
        assert waiting(programs) == (waits_for is not None)
    snapshot = rollup(programs.source.snapshot())
    assert completed(snapshot.rows).sum() == made > 100
    assert completed(snapshot.trips).sum() == trips > 50
    assert snapshot.lost.no_trip == lost > 50
    assert made == trips + lost + is_over
