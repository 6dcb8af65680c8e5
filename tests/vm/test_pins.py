"""Counting that outlives its process, on real hypercalls: killed while guests call, none is lost.

What is counted is compared with the guests' own ledgers, which are compared with KVM's counter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.guest import mixfile
from hvtrace.guest.ledger import as_json
from hvtrace.guest.session import Orders, Session
from hvtrace.hyperv import statuses
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.pins import unpin
from hvtrace.kernel.vms import start_time
from hvtrace.stats.calls import calls
from hvtrace.stats.snapshot import Lost, rollup
from tests.bpf.tracer import Tracer
from tests.vm import modules

PIN = Path("/sys/fs/bpf/hvtrace-test")
MIX = {
    "primes": True,
    "call": [
        {"code": 0x02, "fast": True, "rdx": 0x1AA000, "xmm": [1], "xmm_input": True, "times": 17},
        {"code": 0x5D, "fast": True, "rdx": 0x10001, "path": "vmm", "times": 3},
        {"code": 0x7777, "status": 2, "times": 13},
    ],
}
UNTIL_STOPPED = 1_000_000  # rounds
Key = tuple[int, int, bool, str]
Made = dict[Key, tuple[int, int, int, dict[str, int]]]


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """The tests go on with the same pins: to compile takes long here."""
    yield
    with suppress(HvtraceError):
        unpin(PIN)
    assert not PIN.exists()


class Guests:
    """A VM that makes calls without pause, until it is told to stop."""

    def __init__(self, name: str, vcpus: int = 2, rounds: int = UNTIL_STOPPED) -> None:
        orders = Orders(mixfile.parse(name, MIX), vcpus=vcpus, rounds=rounds)
        self.session = Session(orders).__enter__()
        [self.vm] = self.session.wait_ready()
        self.session.go()

    def stop(self, seconds: float | None = 0.0) -> Made:
        """Let it run so long (None: until all is done); what it made. It is still there."""
        self.session.wait_idle(seconds)
        ledger = as_json(self.session.ledger())
        assert ledger["problems"] == []  # KVM's own counter is the guests', among others
        return {_key(row): _counts(row) for row in ledger["calls"]}

    def end(self) -> None:
        self.session.close()


def _key(row: dict[str, Any]) -> Key:
    return row["vm"]["pid"], row["code"], row["fast"], row["handler"]


def _counts(row: dict[str, Any]) -> tuple[int, int, int, dict[str, int]]:
    said = {statuses.name_of(int(s, 16)): n for s, n in row["statuses"].items()}
    return row["completed"], row["unfinished"], row["xmm_input"], said


def counted(tracer: Tracer, made: Made) -> Made:
    """What the tracer counts of the VMs in `made`, and that it has lost nothing."""
    snapshot = tracer.snapshot()
    assert snapshot.lost == Lost()
    return {
        (c.vm.pid, c.code, c.fast, c.handler): (c.completed, c.unfinished, c.xmm_input, c.statuses)
        for c in calls(rollup(snapshot))
        if c.vm.pid in {pid for pid, *_ in made}
    }


def test_killed_again_and_again_while_guests_call() -> None:
    with Tracer(PIN, vcpu_times=True) as tracer:
        stays, ends = Guests("stays"), Guests("ends", vcpus=1)
        tracer.snapshot()
        tracer.kill()
    for i, seconds in enumerate((0.0, 0.31, 0.05)):
        time.sleep(seconds)
        with Tracer(PIN, may_load=False, vcpu_times=True) as tracer:
            assert tracer.said == [f"counting goes on in {PIN}"]
            time.sleep(0.17 * i)
            tracer.snapshot()
            tracer.kill()
    # While nobody is there, one ends, one begins, and one does both.
    made = ends.stop()
    ends.end()
    unseen = Guests("unseen", vcpus=1, rounds=11)
    made |= unseen.stop(None)
    began = start_time(unseen.vm.pid)
    unseen.end()
    begins = Guests("begins", vcpus=3)
    time.sleep(0.3)
    with Tracer(PIN, may_load=False, vcpu_times=True) as tracer:
        for guests in (begins, stays):
            tracer.snapshot()
            made |= guests.stop()
        assert counted(tracer, made) == made
        times = tracer.snapshot()
        before = {vm.pid: vm for vm in times.vms}
        tracer.kill()
        begins.end()
        stays.end()
    with Tracer(PIN, may_load=False, vcpu_times=True) as tracer:
        assert counted(tracer, made) == made
        last = tracer.snapshot()
        assert sorted(last.vcpus.tolist()) == sorted(times.vcpus.tolist())
    assert sum(completed for completed, *_ in made.values()) > 3000
    after = {vm.pid: vm for vm in last.vms}
    assert all(vm.ended for vm in after.values())
    for guests in (stays, ends, begins):
        vm, known = after[guests.vm.pid], before[guests.vm.pid]
        assert (vm.name, vm.vmm) == (guests.vm.name, "hvtrace-guest")
        assert vm.identity == known.identity
        numbers = {vcpu for index, vcpu, _ in times.vcpus.tolist() if times.vms[index] == known}
        assert numbers == set(range(len(guests.vm.vcpus)))
    # Who it was is not known, but when its process began: no other of its pid is taken for it.
    nameless = after[unseen.vm.pid]
    assert nameless.name.endswith(f"-{unseen.vm.pid}")
    assert nameless.start_time == began > 0


def test_kvm_is_loaded_again(source: LiveSource) -> None:
    """With a process, which lets go; pinned anew; and with one that was killed meanwhile."""
    with Tracer(PIN) as tracer:

        def look() -> None:
            source.look()
            tracer.snapshot()

        first = Guests("first", vcpus=1, rounds=7)
        made = first.stop(None)
        first.end()
        assert counted(tracer, made) == made
        modules.unload(look)
        modules.load()
        look()
        second = Guests("second", vcpus=1, rounds=7)
        tracer.kill()
        made |= second.stop(None)
        second.end()
    with Tracer(PIN, may_load=False) as tracer:
        assert counted(tracer, made) == made
        modules.unload(look)
        tracer.kill()
        modules.load()
    with Tracer(PIN, may_load=False) as tracer:
        assert "KVM was unloaded meanwhile" in tracer.said[-1]
        third = Guests("third", vcpus=1, rounds=7)
        made |= third.stop(None)
        assert counted(tracer, made) == made
        third.end()
