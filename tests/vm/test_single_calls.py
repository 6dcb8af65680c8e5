"""Sizes of calls against the mix and the ledger, and slow calls against the kernel's log.

As `hvtrace top` has them: counted and told by one set of programs.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest

from hvtrace.kernel.live import LiveSource, open_source
from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import Snapshot
from tests.vm.run import Run, record
from tests.vm.test_round_trip import POST, UNKNOWN, Guest, logging, machine, traced
from tests.vm.tracefs import HYPERV_EXIT, Event

# Of each (code, fast) one size, so that the ledger's rows are of one size, too. Flushes
# succeed; the unknown code fails whatever its sizes are.
SIZES = {
    (0x0003, False): (3, 0),
    (0x0003, True): (2, 0),
    (0x0013, False): (0, 1),
    (0x0014, False): (5, 1),
    (0x7771, False): (0, 0),
    (0x7772, False): (4095, 1023),
    (0x7772, True): (2048, 512),
    (0x7773, False): (2047, 511),
    (0x5C, False): (0, 0),
}
TIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139)


def sized_mix() -> dict[str, object]:
    calls = []
    for ((code, fast), (reps, var)), times in zip(SIZES.items(), TIMES, strict=True):
        call: dict[str, object] = {"code": code, "fast": fast, "reps": reps, "var": var}
        call["times"] = times
        if code >= 0x7770:
            call["status"] = 2
        elif fast:
            call |= {"rdx": 0x1AA000, "xmm": [1, 0x7F0000001000, 0x7F0000003002]}
            call["xmm_input"] = True
        elif code == POST:
            call |= {"path": "vmm", "block": [0x20, 1, 8, 0x2A]}
        elif code == 0x0003:
            call["block"] = [0x1AA000, 0, 1, 0x7F0000001000, 0x7F0000003000, 0x7F0000005000]
        else:
            call["block"] = [0x1AA000, 0, 0, 1, 1, *(0x7F0000001000 for _ in range(5))]
        calls.append(call)
    return {"call": calls}


class Keeping:
    """A source that keeps what snapshots have only for a time."""

    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self.slow: list[SlowCall] = []
        self.vcpus: dict[int, int] = {}  # the number of each thread that had a row
        self.most: Counter[tuple[int, int | None]] = Counter()  # vCPUs of a VM, by pid and fd

    def snapshot(self) -> Snapshot:
        found = self._source.snapshot()
        self.slow += found.slow
        known = found.rows[["tid", "vcpu"]][found.rows["tid"] != 0]
        self.vcpus |= {tid: vcpu - 1 for tid, vcpu in known.tolist()}
        for vm in found.vms:
            self.most[vm.pid, vm.fd] = max(self.most[vm.pid, vm.fd], vm.vcpus)
        return found


@pytest.fixture(scope="module")
def source() -> Iterator[LiveSource]:
    with open_source(sizes=True, slow_ns=0, measure=True) as opened:
        yield opened


# --- sizes


@pytest.fixture(scope="module")
def sized(source: LiveSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    file = tmp_path_factory.mktemp("mix") / "sized.json"
    file.write_text(json.dumps(sized_mix()))
    return record(source, "--vms", "2", "--vcpus", "2", mix=str(file))


def buckets(size: int, count: int, bits: int) -> list[int]:
    return [count * (size.bit_length() == bit + 1) for bit in range(bits)]


def test_sizes_are_those_of_the_ledger(sized: Run) -> None:
    assert sized.ledger["problems"] == []
    expected = {}
    for key, row in sized.made.items():
        reps, var = SIZES[key[2], key[3]]
        expected[key] = (buckets(reps, row["calls"], 12), buckets(var, row["calls"], 10))
    assert {key[2:4] for key in expected} == SIZES.keys()
    sizes = sized.snapshot.sizes
    found = zip(sizes["reps"].tolist(), sizes["var"].tolist(), strict=True)
    assert dict(zip(sized.traced, found, strict=True)) == expected


# --- slow calls


class Logged(NamedTuple):
    """A completed call, as the log has it."""

    code: int
    fast: bool
    handler: str
    rep_cnt: int
    var_cnt: int
    status: int
    reps: int


def logged_calls(events: Iterable[Event]) -> dict[int, list[tuple[Logged, int]]]:
    """By thread, in their order: completed calls and how long they took, in ns."""
    found: defaultdict[int, list[tuple[Logged, int]]] = defaultdict(list)
    begun: dict[int, Event] = {}
    handlers: dict[int, str] = {}
    for event in events:
        tid, fields = event.tid, event.fields
        if event.name == "kvm_hv_hypercall":
            begun[tid], handlers[tid] = event, "kernel"
        elif event.name == "kvm_userspace_exit":
            if fields["reason"] == HYPERV_EXIT and fields["errno"] < 1 << 31:
                handlers[tid] = "vmm"
        elif event.name == "kvm_hv_hypercall_done" and tid in begun:
            start = begun.pop(tid)
            kind = (start.fields["code"], bool(start.fields["fast"]), handlers[tid])
            sizes = (start.fields["rep_cnt"], start.fields["var_cnt"])
            result = (fields["result"] & 0xFFFF, fields["result"] >> 32 & 0xFFF)
            found[tid].append((Logged(*kind, *sizes, *result), event.ns - start.ns))
    return dict(found)


def as_logged(call: SlowCall) -> Logged:
    return Logged(
        *(call.code, call.fast, call.handler),
        *(call.rep_cnt, call.var_cnt, call.status, call.reps),
    )


def test_every_call_is_told_as_the_log_has_it(source: LiveSource) -> None:
    """Under the least limit there is: each, in the order of its thread, with its times."""
    kept = Keeping(source)
    kept.snapshot()
    kept.slow.clear()
    source.set_slow(1)
    try:
        run = record(kept, "--vms", "2", "--vcpus", "1")  # type: ignore[arg-type]
    finally:
        source.set_slow(0)
    logged = logged_calls(run.events)
    assert len(kept.slow) == sum(map(len, logged.values())) > 1000
    assert run.snapshot.lost.no_event == 0
    told: defaultdict[int, list[SlowCall]] = defaultdict(list)
    for call in kept.slow:
        told[call.tid].append(call)
    assert {tid: [as_logged(call) for call in calls] for tid, calls in told.items()} == {
        tid: [call for call, _ in calls] for tid, calls in logged.items()
    }
    for vm in run.ledger["vms"]:
        assert kept.most[vm["pid"], vm["fd"]] == len(vm["vcpus"])
        for number, tid in enumerate(vm["vcpus"]):
            assert kept.vcpus[tid] == number
            assert {(call.vm.pid, call.vm.fd) for call in told[tid]} == {(vm["pid"], vm["fd"])}
            assert {call.vcpu for call in told[tid]} == {number}
    # Sums and extremes are of the same clock as these.
    for key, call in run.traced.items():
        mine = [
            one.duration_ns
            for one in kept.slow
            if (one.vm.pid, one.vm.fd, one.code, one.fast, one.handler) == key
        ]
        times = call.latency
        assert (sum(mine), min(mine, default=0), max(mine, default=0)) == (
            (times.sum, times.min, times.max) if times else (0, 0, 0)
        )


LIMIT_SECONDS, SLEEP_SECONDS = 0.15, 0.3


def test_slow_are_those_that_the_log_has_above_the_limit(source: LiveSource) -> None:
    """The VMM takes its time for every third of 17 calls; hvtrace reads its own clock."""
    tids = []

    def work() -> None:
        tids.append(threading.get_native_id())
        guest = Guest(machine(1), 0)
        for i in range(17):
            guest.leave()
            time.sleep(SLEEP_SECONDS if i % 3 == 0 else 0)
            guest.until_stop()
        guest.call_kernel(23)

    source.set_slow(round(LIMIT_SECONDS * 1e9))
    try:
        with logging() as log:
            begin = time.time()
            found, counted = traced(source, work)
            logged = logged_calls(log.read())[tids[0]]
    finally:
        source.set_slow(0)
    assert (found[POST].completed, found[UNKNOWN].completed) == (17, 23)
    above = [(call, ns) for call, ns in logged if ns >= LIMIT_SECONDS * 1e9]
    assert [as_logged(call) for call in counted.slow] == [call for call, _ in above]
    assert len(above) >= 6
    for call, (_, ns) in zip(counted.slow, above, strict=True):
        assert abs(call.duration_ns - ns) < 10**8
        assert begin <= call.start <= time.time() - SLEEP_SECONDS / 2
    assert counted.lost.no_event == 0
