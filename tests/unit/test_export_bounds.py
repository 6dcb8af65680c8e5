"""Limits: no scrape is longer than it may be, no count is lost, no counter falls."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import FakeSource, row, snapshot, vm

from hvtrace.export import text
from hvtrace.export.bounds import _FIXED, Bounds, Limits
from hvtrace.export.collector import SourceCollector
from hvtrace.hyperv import codes
from hvtrace.stats.histogram import OCTAVES
from hvtrace.stats.snapshot import HANDLERS, ROW, STATUS, VCPU, Snapshot

CALLS = "hvtrace_hypercalls_total"
DROPPED = "hvtrace_series_dropped_total"
HISTOGRAMS = ("hvtrace_hypercall_duration_seconds", "hvtrace_hypercall_round_trip_seconds")


class Exporter:
    """A collector with limits, and what it gives for one snapshot after another."""

    def __init__(self, **limits: int) -> None:
        self.source = FakeSource(snapshot())
        self.collector = SourceCollector(self.source, print, Limits(**limits))

    def scrape(self, snap: Snapshot) -> dict[tuple[str, ...], float]:
        """{(name, label values...): value}; a histogram is its count, its sum and its buckets."""
        self.source.left = [snap]
        found: dict[tuple[str, ...], float] = {}
        for family in self.collector.families():
            assert len(set(family.keys)) == len(family.keys), f"{family.name}: a series is twice"
            for i, (key, value) in enumerate(zip(family.keys, family.values, strict=True)):
                name = family.sample
                found[name, *key] = value
                if family.type == "histogram":
                    counts = family.buckets[i].tolist()
                    found[f"{name}_count", *key] = sum(counts)
                    found |= {(f"{name}_bucket", *key, str(b)): n for b, n in enumerate(counts)}
        return found

    def lines(self) -> int:
        """Series of a whole scrape."""
        body = text.prometheus(self.collector.families()).decode()
        return sum(not line.startswith("#") for line in body.splitlines())


def total(found: dict[tuple[str, ...], float], name: str, *key: str) -> float:
    """Of all series of `name` whose first labels are `key`."""
    return sum(n for series, n in found.items() if series[: len(key) + 1] == (name, *key))


def calls(count: int) -> list[int]:
    return [700] * count


def test_a_big_host_is_not_touched():
    """500 VMs of 10 calls each, two of them in two variants, with round trips and failures."""
    rows = np.zeros(6000, dtype=ROW)
    rows["vm"] = np.repeat(np.arange(500), 12)
    rows["code"] = np.tile(sorted([*codes.CODES][:10] + [*codes.CODES][:2]), 500)
    rows["fast"] = np.tile([0, 1, 0, 1, *[0] * 8], 500)
    rows["buckets"][:, 7] = 3
    one = snapshot([row(latencies_ns=[700], trips_ns=[911])])
    failed = np.zeros(6000, dtype=STATUS)
    failed["row"], failed["status"], failed["count"] = np.arange(6000), 5, 1
    vms = tuple(vm(f"vm-{i}", pid=1000 + i) for i in range(500))
    exporter = Exporter()
    exporter.source.left = [
        replace(one, vms=vms, rows=rows, trips=np.repeat(one.trips, 6000), statuses=failed)
    ]
    found = {family.sample: family for family in exporter.collector.families()}
    assert sum(found[DROPPED].values) == 0
    assert len(found[CALLS].keys) == 6000
    assert not any("other" in key for family in found.values() for key in family.keys)


def test_codes_beyond_the_limit():
    """Known ones first, then those that are made most; those that have come in stay in."""
    exporter = Exporter(codes=3)
    first = snapshot(
        [
            row(code=0x4001, latencies_ns=calls(97)),
            row(code=0x4002, latencies_ns=calls(89)),
            row(code=0x0002, latencies_ns=calls(2)),
            row(code=0x4003, latencies_ns=calls(101)),
            row(code=0x4004, latencies_ns=calls(5), fast=True, handler="vmm"),
        ]
    )
    found = exporter.scrape(first)
    here = {series[2:]: n for series, n in found.items() if series[0] == CALLS}
    assert here == {
        (codes.name_of(2), "false", "kernel"): 2,
        ("0x4001", "false", "kernel"): 97,
        ("0x4003", "false", "kernel"): 101,
        ("other", "false", "kernel"): 89,
        ("other", "true", "vmm"): 5,
    }
    assert found[DROPPED, "codes"] == 2
    second = snapshot(
        [
            row(code=0x4001, latencies_ns=calls(97)),
            row(code=0x4002, latencies_ns=calls(1009)),
            row(code=0x4003, latencies_ns=calls(103)),
            row(code=0x4003, latencies_ns=calls(7), fast=True),  # another variant of one that is in
            row(code=0x4004, latencies_ns=calls(5), fast=True, handler="vmm"),
            row(code=0x0002, latencies_ns=calls(3)),
            row(code=0x0013, latencies_ns=calls(11)),  # known, but too late
        ]
    )
    found = exporter.scrape(second)
    here = {series[2:]: n for series, n in found.items() if series[0] == CALLS}
    assert here == {
        (codes.name_of(2), "false", "kernel"): 3,
        ("0x4001", "false", "kernel"): 97,
        ("0x4003", "false", "kernel"): 103,
        ("0x4003", "true", "kernel"): 7,
        ("other", "false", "kernel"): 1009 + 11,
        ("other", "true", "vmm"): 5,
    }
    assert found[DROPPED, "codes"] == 3
    assert exporter.scrape(second)[DROPPED, "codes"] == 3


def test_a_vm_beyond_the_limit_leaves_its_counts_behind():
    old, young = vm("old", 1009, start_time=5), vm("young", 1013, start_time=7)
    exporter = Exporter(vms=1)
    both = [row(young, 2, latencies_ns=calls(7)), row(old, 2, latencies_ns=calls(3))]
    found = exporter.scrape(snapshot(both))
    assert total(found, CALLS, "old") == 3
    assert total(found, CALLS, "other", "other") == 7
    assert total(found, "hvtrace_vm_info") == 1
    assert found[DROPPED, "vms"] == 1
    for later in ([row(old, 2, latencies_ns=calls(5))], []):  # it has gone; so has the other one
        found = exporter.scrape(snapshot(later))
        assert total(found, CALLS, "old") == 5 * len(later)
        assert total(found, CALLS, "other", "other") == 7
    third = vm("third", 1019)
    found = exporter.scrape(snapshot([row(third, 2, latencies_ns=calls(11))]))
    assert total(found, CALLS, "third") == 11  # there is room again
    assert found[DROPPED, "vms"] == 1


def test_a_vm_that_was_refused_is_refused_for_life():
    """Its counts are in the sum of the others, from which nothing can be taken."""
    first, second = vm("a", 1009), vm("b", 1013)
    exporter = Exporter(vms=1)
    exporter.scrape(
        snapshot([row(first, latencies_ns=calls(3)), row(second, latencies_ns=calls(1))])
    )
    found = exporter.scrape(snapshot([row(second, latencies_ns=calls(5))]))
    assert total(found, CALLS, "other") == total(found, CALLS) == 5


def test_a_vm_among_the_others_that_begins_again():
    """Closed and opened again in one process: the same identity, and counts that fell."""
    first, second = vm("a", 1009), vm("b", 1013)
    exporter = Exporter(vms=1)
    for made, expected in ((7, 7), (3, 7 + 3), (5, 7 + 5)):
        rows = [row(first, latencies_ns=[5]), row(second, latencies_ns=calls(made))]
        assert total(exporter.scrape(snapshot(rows)), CALLS, "other") == expected


def test_a_vm_beyond_the_limit_that_makes_no_calls():
    """The rows of those behind it are still theirs."""
    first, second, third = (
        vm(name, pid, start_time=pid) for name, pid in zip("abc", (1, 3, 2), strict=True)
    )
    snap = snapshot([row(third, latencies_ns=calls(7))], [first, second, third])
    assert total(Exporter(vms=2).scrape(snap), CALLS, "c") == 7


def test_a_vm_whose_name_is_other():
    found = Exporter().scrape(snapshot([row(vm("other", 1009), latencies_ns=calls(3))]))
    assert total(found, CALLS, "other-1009") == 3


def test_statuses_beyond_the_limit():
    """Known ones first; a VMM can answer with any of 65,535."""
    exporter = Exporter(statuses=2)
    statuses = {0x4001: 5, 0x4002: 97, 0x0005: 1, 0x4003: 89}
    found = exporter.scrape(snapshot([row(latencies_ns=calls(1009), statuses=statuses)]))
    name, code = "hvtrace_hypercall_failures_total", codes.name_of(2)
    assert {series[3]: n for series, n in found.items() if series[0] == name} == {
        "INVALID_PARAMETER": 1,
        "0x4002": 97,
        "other": 5 + 89,
    }
    assert found[DROPPED, "statuses"] == 2
    statuses[0x0006] = 3
    found = exporter.scrape(snapshot([row(latencies_ns=calls(1009), statuses=statuses)]))
    assert found[name, "win11", code, "other"] == 5 + 89 + 3
    assert found[DROPPED, "statuses"] == 3


def test_vcpus_take_room_too():
    exporter = Exporter(series=1000)
    vcpus = np.array([(0, i, 7) for i in range(4096)], dtype=VCPU)
    found = exporter.scrape(replace(snapshot([row(latencies_ns=[5])]), vcpus=vcpus))
    there = [series for series in found if series[0] == "hvtrace_vcpu_hypercall_seconds_total"]
    assert 0 < len(there) < 1000
    assert exporter.lines() <= 1000


def test_room_comes_back_when_a_vm_has_gone():
    exporter = Exporter(series=1000)
    for pid in range(1, 101):
        found = exporter.scrape(snapshot([row(vm(f"vm-{pid}", pid), latencies_ns=[5])]))
        assert total(found, CALLS, f"vm-{pid}") == 1
    assert total(found, DROPPED) == 0


def test_room_that_comes_back_is_for_newcomers():
    """What was refused for want of series stays a part of others when a VM leaves room."""
    old, young = vm("old", 1009, start_time=5), vm("young", 1013, start_time=7)
    histogram = OCTAVES + 2 + 2
    of_vm = 1 + 4 * (1 + histogram) + 12
    two_calls = 2 * (1 + histogram + 12)
    exporter = Exporter(series=_FIXED + 3 * of_vm + two_calls + 1)  # and one status
    rows = [
        row(old, 2, latencies_ns=calls(3), statuses={2: 3}),
        row(young, 2, latencies_ns=calls(2), statuses={2: 1}),
        row(young, 3, latencies_ns=calls(1)),
    ]
    failures = "hvtrace_hypercall_failures_total"
    for here in (rows, rows[1:]):
        found = exporter.scrape(snapshot(here))
        assert total(found, CALLS, "young", codes.name_of(2)) == 2
        assert total(found, CALLS, "young", "other") == 1
        assert total(found, failures, "young", codes.name_of(2), "other") == 1
        assert (found[DROPPED, "series"], found[DROPPED, "statuses"]) == (1, 1)
    found = exporter.scrape(snapshot([*rows[1:], row(vm("new", 1019), 3, latencies_ns=calls(5))]))
    assert total(found, CALLS, "new", codes.name_of(3)) == 5


def hostile(all_codes: int) -> Snapshot:
    """A guest that made every code once, and a quiet one."""
    rows = np.zeros(all_codes + 1, dtype=ROW)
    rows["code"][:-1], rows["vm"][-1], rows["code"][-1] = np.arange(all_codes), 1, 0x5C
    rows["buckets"][:, 30] = 1
    return replace(snapshot(vms=[vm("bad", 1009), vm("good", 1013, start_time=7)]), rows=rows)


def test_a_guest_that_makes_every_code():
    """64 codes and the rest; the guest beside it is as it was. In a time that is felt by nobody."""
    exporter = Exporter()
    snap = hostile(65536)
    found = exporter.scrape(snap)
    assert total(found, CALLS, "bad") == 65536
    assert total(found, CALLS, "good", codes.name_of(0x5C)) == 1
    assert len({series[2] for series in found if series[:2] == (CALLS, "bad")}) == 64 + 1
    assert found[DROPPED, "codes"] == 65536 - 64
    started = time.process_time()
    exporter.scrape(snap)
    assert time.process_time() - started < 3  # 0.3 s here


# --- whatever comes -----------------------------------------------------------

EVENT = st.tuples(
    st.integers(0, 4),  # VM
    st.sampled_from([0x2, 0x3, 0x5C, 0x4001, 0x4002, 0x4003]),
    st.booleans(),
    st.sampled_from(HANDLERS),
    st.integers(1, 3),  # calls
    st.sampled_from([0, 2, 5, 0x4001]),  # of which one fails so
)
STEP = st.tuples(st.lists(EVENT, max_size=7), st.sets(st.integers(0, 4), max_size=2))
LIMITS = st.builds(
    dict,
    vms=st.integers(1, 3),
    codes=st.integers(1, 3),
    series=st.sampled_from([300, 500, 700, 10**6]),
    statuses=st.integers(1, 2),
)


class Host:
    """VMs 0 to 4: what they have counted. One that goes comes back as another."""

    def __init__(self) -> None:
        self.born = Counter()
        self.counts: dict[int, dict[tuple, Counter]] = {}

    def name(self, number: int) -> str:
        return f"vm-{number}-{self.born[number]}"

    def make(self, events) -> None:
        for number, code, fast, handler, count, status in events:
            of_vm = self.counts.setdefault(number, {})
            counts = of_vm.setdefault((code, fast, handler), Counter())
            counts["calls"] += count
            if status:
                counts[status] += 1

    def end(self, number: int) -> None:
        if self.counts.pop(number, None):
            self.born[number] += 1

    def calls(self, number: int) -> int:
        return sum(counts["calls"] for counts in self.counts[number].values())

    def snapshot(self) -> Snapshot:
        rows = []
        for number, of_vm in self.counts.items():
            born = self.born[number]
            machine = vm(self.name(number), pid=1009 + number, start_time=born)
            for (code, fast, handler), counts in of_vm.items():
                failed = {status: n for status, n in counts.items() if status != "calls"}
                made = [700] * counts["calls"]
                rows.append(
                    row(machine, code, fast=fast, handler=handler, latencies_ns=made,
                        statuses=failed, trips_ns=made)
                )  # fmt: skip
        return snapshot(rows)


@settings(deadline=None, max_examples=60)
@given(LIMITS, st.lists(STEP, max_size=9))
@example({"vms": 1, "codes": 1, "series": 300, "statuses": 1}, [([(0, 2, True, "vmm", 1, 2)], {0})])
def test_whatever_comes(limits, steps):
    exporter, host = Exporter(**limits), Host()
    before: dict[tuple[str, ...], float] = {}
    left_behind = 0  # by VMs that had no series of their own, and have gone
    for events, ends in steps:
        host.make(events)
        found = exporter.scrape(host.snapshot())
        made = sum(host.calls(number) for number in host.counts)
        assert total(found, CALLS) == made + left_behind
        for name in HISTOGRAMS:
            assert total(found, f"{name}_count") == total(found, CALLS)
            assert total(found, f"{name}_bucket") == total(found, CALLS)
        verdicts = total(found, "hvtrace_hypercall_xmm_output_total")
        assert verdicts == total(found, CALLS)
        assert exporter.lines() <= limits["series"]
        for series, value in found.items():
            if series[0] not in ("hvtrace_up", "hvtrace_scrape_duration_seconds"):
                assert value >= before.get(series, 0), series
        with_series = {series[1] for series in found if series[0] == "hvtrace_vm_info"}
        assert len(with_series) <= limits["vms"]
        for number in ends & host.counts.keys():
            if host.name(number) not in with_series:
                left_behind += host.calls(number)
            host.end(number)
        before = found


@settings(deadline=None, max_examples=30)
@given(st.lists(STEP, max_size=9))
def test_without_need_nothing_is_called_other(steps):
    exporter, host = Exporter(), Host()
    for events, ends in steps:
        host.make(events)
        found = exporter.scrape(host.snapshot())
        assert not any("other" in series for series in found)
        assert total(found, DROPPED) == 0
        for number in ends:
            host.end(number)


def test_what_is_fixed_is_reckoned_with():
    """Series that are there without a single call, as many as there can be."""
    exporter = Exporter()
    exporter.scrape(snapshot())
    probes = 3 * 10  # of each of up to ten programs
    process = 12
    assert exporter.lines() + probes + process <= _FIXED


def test_the_limit_of_series_leaves_room_for_one_histogram_at_least():
    assert Bounds(Limits(series=_FIXED + 8 * (OCTAVES + 4)))._left > 0


@pytest.mark.parametrize("gone", ["vms", "codes"])
def test_state_of_vms_that_have_gone_is_dropped(gone):
    bounds = Bounds(Limits(**{gone: 1}))
    for pid in range(1, 12):
        pair = [vm("a", pid), vm("b", pid + 1000)]
        rows = [row(one, code, latencies_ns=[5]) for one in pair for code in (2, 3)]
        bounds.apply(snapshot(rows))
    assert len(bounds._vms) + len(bounds._other_vms) == 2
    bounds.apply(snapshot())
    assert bounds._vms == {}
    assert bounds._other_vms == set()
    assert len(bounds._last.rows) == 0
    assert len(bounds._past.rows) <= 4
    assert bounds._left == Bounds(Limits(**{gone: 1}))._left
