"""Round trips against the kernel's log of the same exits and entries, call by call.

Here how many there are, of which calls, and that none ends at another vCPU's entry; how long
they took is compared where the clock counts instructions (tests/icount).
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from hvtrace.guest import abi, mixfile
from hvtrace.guest.image import Amount, write
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.machine import Machine
from hvtrace.guest.vcpu import Signals, VcpuThread
from hvtrace.kernel.live import LiveSource, open_source
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.snapshot import Snapshot, delta, rollup
from tests.vm import trips
from tests.vm.run import Run, record
from tests.vm.tracefs import Log

POST, UNKNOWN = 0x5C, 0x7777
MIX = {
    "call": [
        {"code": POST, "path": "vmm", "block": [0x20, 1, 8, 0x2A]},
        {"code": UNKNOWN, "status": 2},
    ]
}


@pytest.fixture(scope="module")
def source() -> Iterator[LiveSource]:
    with open_source(round_trip=True) as opened:
        assert opened.probes == 6
        yield opened


@pytest.fixture(scope="module")
def run(source: LiveSource) -> Run:
    return record(source, "--vms", "2", "--vcpus", "3", events=trips.EVENTS)


def test_every_completed_call_of_the_run_has_one(run: Run) -> None:
    traced = run.traced
    assert sum(call.completed for call in traced.values()) > 1000
    assert {key: call.trips for key, call in traced.items()} == {
        key: call.completed for key, call in traced.items()
    }
    assert (run.snapshot.lost.no_trip, run.snapshot.lost.missed) == (0, 0)


def test_they_are_those_of_the_log(run: Run) -> None:
    logged = run.logged_trips_ns
    assert {key: call.trips for key, call in run.traced.items() if call.trips} == {
        key: len(trips_ns) for key, trips_ns in logged.items()
    }
    assert {handler for *_, handler in logged} == {"kernel", "vmm"}


def test_they_are_longer_than_their_calls(run: Run) -> None:
    for call in run.traced.values():
        if call.round_trip and call.latency:
            assert call.round_trip.sum > call.latency.sum
            assert call.round_trip.min > call.latency.min
            assert call.round_trip.max > call.latency.max


# --- one thread that runs two vCPUs in turn


class Guest(VcpuThread):
    """A vCPU that the calling thread runs, exit by exit."""

    def __init__(self, machine: Machine, number: int) -> None:
        super().__init__(machine, number, Signals(1, print), print)
        self.until_stop()

    def leave(self) -> None:
        """Run as far as the exit of the forwarded call."""
        self._choose(0)
        while not self.vcpu.enter() or self.vcpu.run.exit_reason != abi.KVM_EXIT_HYPERV:
            pass
        self.vcpu.run.hyperv.result = 0

    def call_kernel(self, count: int) -> None:
        """Make `count` calls that KVM finishes."""
        self._choose(1, count)
        self.until_stop()

    def exit(self, count: int) -> None:
        """Leave and enter again, without a call."""
        for _ in range(count):
            self.run_slice(0, 0)

    def destroy(self, machine: Machine) -> None:
        """Let KVM end the VM of one vCPU."""
        del self.vcpu.run
        gc.collect()  # it is mapped memory, which keeps the vCPU
        for fd in (self.vcpu.fd, machine.vm.fd, machine.vm.kvm.fd):
            os.close(fd)

    def _choose(self, call: int, times: int = 1) -> None:
        self.calls[call].repeat = times
        self.control.first = self.memory.descriptor_address(self.number, call)
        self.control.end = self.memory.descriptor_address(self.number, call + 1)


def machine(vcpus: int) -> Machine:
    return Machine(Kvm(), write(mixfile.parse("two", MIX), vcpus, Amount()))


@contextmanager
def logging() -> Iterator[Log]:
    log = Log("trips", events=trips.EVENTS)
    try:
        yield log
    finally:
        log.close()


def close_vms() -> None:
    """What the end of a VMM would close: this process goes on, and kvm.ko shall be free."""
    gc.collect()  # a vCPU's mapped memory keeps it, too
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # listdir's own
            if os.readlink(f"/proc/self/fd/{fd}").startswith(("anon_inode:kvm", "/dev/kvm")):
                os.close(int(fd))


def traced(source: LiveSource, work: Callable[[], None]) -> tuple[dict[int, Call], Snapshot]:
    """What was counted while a thread of its own did `work`: by code, and all of it."""
    by = ("code", "handler")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    before = rollup(source.snapshot(), by)
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        source.look()
        thread.join(0.05)
    close_vms()
    if failed:
        raise failed[0]
    time.sleep(0.1)  # a thread that was joined has yet to end
    counted = delta(before, rollup(source.snapshot(), by))
    return {call.code: call for call in calls(counted)}, counted


def test_a_forwarded_calls_trip_ends_at_its_own_entry(source: LiveSource) -> None:
    """The thread lets another vCPU exit and enter 17 times, and takes its time, meanwhile."""
    between_ns = 0

    def work() -> None:
        nonlocal between_ns
        both = machine(2)
        first, second = Guest(both, 0), Guest(both, 1)
        first.leave()
        begin = time.monotonic_ns()
        second.exit(17)
        time.sleep(0.1)
        between_ns = time.monotonic_ns() - begin
        first.until_stop()
        second.call_kernel(13)

    with logging() as log:
        found, counted = traced(source, work)
        logged = {key[1]: times for key, times in trips.round_trips(log.read()).items()}
    assert {code: call.trips for code, call in found.items()} == {POST: 1, UNKNOWN: 13}
    assert {code: len(times) for code, times in logged.items()} == {POST: 1, UNKNOWN: 13}
    assert found[POST].round_trip.sum > between_ns
    assert abs(found[POST].round_trip.sum - logged[POST][0]) < between_ns / 10
    assert counted.lost.no_trip == 0


def test_calls_of_another_vcpu_meanwhile_have_their_own(source: LiveSource) -> None:
    """The open call is superseded on this thread, so it has no trip; the other's 17 have."""

    def work() -> None:
        both = machine(2)
        first, second = Guest(both, 0), Guest(both, 1)
        first.leave()
        time.sleep(0.1)
        second.call_kernel(17)
        first.until_stop()

    found, counted = traced(source, work)
    assert (found[POST].completed, found[POST].unfinished, found[POST].trips) == (0, 1, 0)
    assert (found[UNKNOWN].completed, found[UNKNOWN].trips) == (17, 17)
    assert found[UNKNOWN].round_trip.sum < 100_000_000
    assert (counted.lost.no_trip, counted.lost.orphans) == (0, 1)


def test_a_completed_call_that_the_thread_leaves_for_another_vcpu_is_counted(
    source: LiveSource,
) -> None:
    """KVM_RUN with immediate_exit completes it; then the other vCPU makes calls first."""

    def work() -> None:
        both = machine(2)
        first, second = Guest(both, 0), Guest(both, 1)
        first.leave()
        first.vcpu.complete()
        second.call_kernel(17)
        first.until_stop()
        first.call_kernel(5)

    found, counted = traced(source, work)
    assert (found[POST].completed, found[POST].trips) == (1, 0)
    assert (found[UNKNOWN].completed, found[UNKNOWN].trips) == (22, 22)
    assert counted.lost.no_trip == 1


def test_a_new_vm_does_not_end_the_trips_of_the_one_before(source: LiveSource) -> None:
    """KVM gives the memory of a vCPU that has gone to the next, on the same thread at once."""

    def work() -> None:
        for _ in range(11):
            one = machine(1)
            guest = Guest(one, 0)
            guest.leave()
            guest.vcpu.complete()
            guest.destroy(one)
            time.sleep(0.02)
        Guest(machine(1), 0).call_kernel(7)

    found, counted = traced(source, work)
    assert (found[POST].completed, found[POST].trips) == (11, 0)
    assert (found[UNKNOWN].completed, found[UNKNOWN].trips) == (7, 7)
    assert counted.lost.no_trip == 11
