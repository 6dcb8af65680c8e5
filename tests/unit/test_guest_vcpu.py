"""The vCPU's thread: every path of a forwarded call, and the order of all calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from guest_model import DROPPED, ModelVcpu

from hvtrace.guest import abi, image, pace
from hvtrace.guest.image import Amount
from hvtrace.guest.memory import PANIC_PORT
from hvtrace.guest.mix import Call, Guest, Mix
from hvtrace.guest.vcpu import Signals, VcpuThread


class Guests:
    """Some vCPUs of one VM, run to their end."""

    def __init__(
        self,
        *calls: Call,
        vcpus: int = 1,
        vmm: str = "new",
        prepare: Callable[..., None] | None = None,
        **amount: int,
    ) -> None:
        mix = Mix("test", calls, guest=Guest(vmm=vmm))
        self.memory = image.write(mix, vcpus, Amount(**amount))
        self.vcpus = [ModelVcpu(self.memory, i) for i in range(vcpus)]
        self.told: list[str] = []
        self.failed: list[str] = []
        self.over = threading.Event()
        self.signals = Signals(vcpus, self._tell)
        machine = SimpleNamespace(memory=self.memory, vcpus=self.vcpus)
        self.threads = [VcpuThread(machine, i, self.signals, self._fail) for i in range(vcpus)]
        if prepare:
            prepare(self)
        for thread in self.threads:
            thread.start()
        self.signals.go.set()
        assert self.over.wait(20)
        self.signals.end.set()
        for thread in self.threads:
            thread.join(20)

    def _tell(self, event: str) -> None:
        self.told.append(event)
        if event == "idle":
            self.over.set()

    def _fail(self, text: str) -> None:
        self.failed.append(text)
        self.over.set()

    def statuses(self, call: int) -> dict[int, int]:
        table = self.memory.descriptors(0)[call].statuses
        return {entry.status: entry.count for entry in table if entry.count}


def test_ready_then_idle() -> None:
    guests = Guests(Call(2, times=3), vcpus=3)
    assert guests.told == ["ready", "idle"]
    assert guests.failed == []
    assert [vcpu.hypercalls for vcpu in guests.vcpus] == [3, 3, 3]


def test_nothing_is_made_before_go() -> None:
    seen = []

    def prepare(guests: Guests) -> None:
        guests.signals.go.wait = lambda: seen.append(guests.vcpus[0].made.copy())

    guests = Guests(Call(2, times=3), prepare=prepare)
    assert seen == [[]]
    assert len(guests.vcpus[0].made) == 3


def test_rounds_repeat_the_table_in_order() -> None:
    guests = Guests(Call(2, times=2), Call(4), rounds=3)
    assert [index for index, _ in guests.vcpus[0].made] == [0, 0, 1] * 3


def test_stop_ends_the_rounds() -> None:
    guests = Guests(Call(2), rounds=10**6, prepare=lambda guests: guests.signals.stop.set())
    assert guests.told == ["ready", "idle"]
    assert guests.vcpus[0].made == []


def test_a_rate_runs_until_stop() -> None:
    def prepare(guests: Guests) -> None:
        threading.Timer(0.5, guests.signals.stop.set).start()

    guests = Guests(Call(2), rate=2000, prepare=prepare)
    assert 200 < guests.vcpus[0].hypercalls < 2000


def test_each_vcpu_of_the_run_draws_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def paced(*arguments: Any) -> Iterator[list[int]]:
        asked.append(arguments[:4])
        return iter(())

    monkeypatch.setattr(pace, "paced", paced)
    Guests(Call(2, times=3), Call(4), vcpus=2, rate=100, seed=7, first=4)
    assert sorted(asked) == [([3, 1], 100.0, 0.0, "7/4"), ([3, 1], 100.0, 0.0, "7/5")]


def test_enforced_calls_are_made_enforced_and_the_others_not() -> None:
    guests = Guests(
        Call(2, times=2), Call(4), Call(6, enforce=True), Call(8, path="killed"), rounds=2
    )
    assert guests.vcpus[0].made == [(0, 0), (0, 0), (1, 0), (2, 1)] * 2 + [(3, 0)]


def test_answers_are_given_in_turn() -> None:
    guests = Guests(Call(0x5D, path="vmm", times=8, answers=(0, 0x12, 0x5_0000_0013)))
    assert guests.statuses(0) == {0: 3, 0x12: 3, 0x13: 2}
    (call,) = guests.memory.descriptors(0)
    assert (call.forwarded, call.moved, call.reps) == (8, 0, 10)


@pytest.mark.parametrize(
    ("path", "completion"),
    [
        ("vmm", ("vcpu0", False)),
        ("immediate-exit", ("vcpu0", True)),
        ("other-thread", ("other0", True)),
    ],
)
def test_who_completes_a_forwarded_call(path: str, completion: tuple[str, bool]) -> None:
    guests = Guests(Call(0x5D, path=path, times=5, answers=(0x12,)), Call(2, times=2))
    assert guests.vcpus[0].completed_by == [completion] * 5 + [("vcpu0", False)] * 2
    call = guests.memory.descriptors(0)[0]
    assert (call.forwarded, call.completed) == (5, 5)
    assert call.moved == (5 if path == "other-thread" else 0)
    assert guests.statuses(0) == {0x12: 5}


def new_type(guests: Guests) -> None:
    """KVM forwards fast calls as the exit type that is only for them."""
    guests.vcpus[0].exit_type = abi.KVM_EXIT_HYPERV_HCALL_XMM


def grown(guests: Guests) -> None:
    """KVM forwards them as all others, in a structure that has grown."""


@pytest.mark.parametrize("interface", [grown, new_type])
@pytest.mark.parametrize("path", ["vmm", "immediate-exit", "other-thread"])
def test_output_is_written_before_the_completion(
    interface: Callable[[Guests], None], path: str
) -> None:
    """Only those words, and the guest finds them (guest_model compares)."""
    call = Call(
        0x50, fast=True, path=path, times=5, rdx=11, r8=12, xmm=(1, 2, 3, 4, 5, 6),
        writes=((0, 0x50), (4, 0x51), (5, 0x52)),
    )  # fmt: skip
    guests = Guests(call, prepare=interface)
    assert guests.failed == []
    (found,) = guests.memory.descriptors(0)
    assert (found.completed, found.confirmed) == (5, 5)
    assert list(found.registers_out) == [0x50, 12, 1, 2, 0x51, 0x52, 5, 6, *(6 * [0])]


def test_a_failing_answer_leaves_registers_alone() -> None:
    call = Call(0x50, fast=True, path="vmm", times=4, answers=(5, 0), rdx=11, writes=((0, 9),))
    (found,) = Guests(call).memory.descriptors(0)
    assert (found.completed, found.confirmed, found.registers_out[0]) == (4, 4, 9)


def test_output_that_does_not_arrive_is_seen() -> None:
    def prepare(guests: Guests) -> None:
        guests.vcpus[0].dropped = [4, 5]

    call = Call(0x50, fast=True, path="vmm", times=4, rdx=11, writes=((0, 9), (4, 7)))
    guests = Guests(call, prepare=prepare)
    (found,) = guests.memory.descriptors(0)
    assert (found.completed, found.confirmed) == (4, 0)
    assert list(found.registers_out) == [9, *(13 * [0])]
    # What the call does not write is what KVM put there.
    assert list(guests.vcpus[0].run.hyperv.registers[4:6]) == [7, DROPPED]


def test_an_old_vmm_writes_nothing() -> None:
    call = Call(0x50, fast=True, path="vmm", times=3, rdx=11, writes=((0, 9),))
    guests = Guests(call, vmm="old")
    assert guests.failed == []
    (found,) = guests.memory.descriptors(0)
    assert (found.completed, found.confirmed, found.registers_out[0]) == (3, 0, 11)


def test_an_old_vmm_ends_at_an_exit_it_does_not_know() -> None:
    """The call stays open where the mix has it killed; elsewhere the mix is wrong."""
    call = Call(0x50, fast=True, path="killed", writes=((0, 9),))
    guests = Guests(Call(2, times=3), Call(4, path="vmm"), call, vmm="old", prepare=new_type)
    assert guests.failed == []
    found = guests.memory.descriptors(0)
    assert [(c.started, c.completed) for c in found] == [(3, 3), (1, 1), (1, 0)]
    guests = Guests(Call(0x50, fast=True, path="vmm"), vmm="old", prepare=new_type)
    assert guests.failed == ["vcpu0: an exit of type 4, at which an old VMM ends"]
    assert guests.memory.descriptors(0)[0].completed == 0


def test_a_killed_call_comes_last_and_stays_open() -> None:
    guests = Guests(Call(2, times=3), Call(0x5D, path="killed"), vcpus=2)
    assert guests.told == ["ready", "idle"]
    for vcpu in range(2):
        call = guests.memory.descriptors(vcpu)[1]
        assert (call.started, call.forwarded, call.completed) == (1, 1, 0)
    assert all(vcpu._forwarded is not None for vcpu in guests.vcpus)


def test_threads_are_known_by_name_and_id() -> None:
    guests = Guests(Call(2), vcpus=2)
    assert [thread.name for thread in guests.threads] == ["vcpu0", "vcpu1"]
    tids = [guests.memory.control(i).tid for i in range(2)]
    assert tids == [thread.native_id for thread in guests.threads]


def test_an_exception_in_the_guest_is_an_error_with_its_frame() -> None:
    def prepare(guests: Guests) -> None:
        vcpu, control = guests.vcpus[0], guests.memory.control(0)
        control.panic_frame = control.stack_top - 64
        guests.memory.write(control.panic_frame, bytes([0x34, 0x12]))
        vcpu.run.exit_reason, vcpu.run.io.port = abi.KVM_EXIT_IO, PANIC_PORT
        vcpu.enter = lambda: True

    guests = Guests(Call(2), prepare=prepare)
    assert guests.failed == [
        "vcpu0: the guest had an exception; its frame: 0x1234 0x0 0x0 0x0 0x0 0x0"
    ]


def test_an_exit_that_nothing_expects_is_an_error() -> None:
    def prepare(guests: Guests) -> None:
        guests.vcpus[0].run.exit_reason = 8
        guests.vcpus[0].enter = lambda: True

    guests = Guests(Call(2), prepare=prepare)
    assert guests.failed == ["vcpu0: the guest left with exit reason 8, which nothing expects"]


def test_an_error_of_kvm_is_told() -> None:
    def prepare(guests: Guests) -> None:
        def enter() -> bool:
            raise OSError(5, "Input/output error")

        guests.vcpus[0].enter = enter

    assert Guests(Call(2), prepare=prepare).failed == ["vcpu0: [Errno 5] Input/output error"]


def test_a_signal_just_enters_again() -> None:
    def prepare(guests: Guests) -> None:
        vcpu = guests.vcpus[0]
        enter, answers = vcpu.enter, iter([False, False, True])
        vcpu.enter = lambda: next(answers, True) and enter()

    guests = Guests(Call(2, times=3), prepare=prepare)
    assert guests.vcpus[0].hypercalls == 3
