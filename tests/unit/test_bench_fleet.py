"""Simulated hosts, the arithmetic of their series, and docs/fleet.md, which shows both."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest

from benchmarks import fleet_page
from benchmarks.fleet_page import PAGE, Shape
from benchmarks.hosts import MIX, SimulatedHost
from benchmarks.results import Results, from_json
from hvtrace.export.collector import SourceCollector
from hvtrace.export.families import Family
from hvtrace.export.formats import render
from hvtrace.export.own import own
from hvtrace.stats.snapshot import Snapshot, completed
from hvtrace.web.limits import REASONS


class Clock:
    """Unix seconds, as a test wants them."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


def host(seed=7, vms=5, codes=7, seconds=0.0):
    clock = Clock()
    it = SimulatedHost(seed, vms, codes, clock)
    clock.now += seconds
    return it, clock


def shape(snapshot: Snapshot) -> Shape:
    """What a snapshot, by (vm, code, fast, handler), has of everything: counted the slow way."""
    calls, verdicts, failures = set(), set(), set()
    for row in snapshot.rows:
        call = (int(row["vm"]), int(row["code"]))
        calls.add(call)
        verdicts |= {(*call, int(verdict)) for verdict in row["xmm_output"].nonzero()[0]}
    for at, status, _ in snapshot.statuses.tolist():
        row = snapshot.rows[at]
        failures.add((int(row["vm"]), int(row["code"]), status))
    vms = len(snapshot.vms)
    return Shape(vms, len(calls), len(snapshot.rows), len(verdicts), len(failures))


class TestHost:
    def test_counts_grow_with_the_clock_and_never_fall(self):
        it, clock = host()
        before = it.snapshot()
        assert it.calls == 0
        for _ in range(3):
            clock.now += 13
            after = it.snapshot()
            assert (after.rows["buckets"] >= before.rows["buckets"]).all()
            assert completed(after.rows).sum() > completed(before.rows).sum()
            before = after

    def test_rates_are_those_of_the_mix(self):
        it, _ = host(vms=97, codes=10, seconds=101)
        rows = it.snapshot().rows
        [ipi] = [variant for variant in MIX if variant.code == 0x000B]
        of_a_vm = completed(rows[rows["code"] == 0x000B]).mean() / 101
        assert of_a_vm == pytest.approx(ipi.per_second * (0.05 + 3) / 2, rel=0.2)

    def test_the_same_seed_is_the_same_host(self):
        first, second, other = (host(seed, seconds=11)[0].snapshot() for seed in (3, 3, 5))
        assert first.vms == second.vms
        assert first.rows.tobytes() == second.rows.tobytes()
        assert not set(first.vms) & set(other.vms)
        assert not np.array_equal(completed(first.rows), completed(other.rows))

    def test_frozen_it_counts_no_more(self):
        it, clock = host(seconds=17)
        before = it.snapshot()
        it.freeze()
        clock.now += 17
        assert it.snapshot().rows.tobytes() == before.rows.tobytes()

    def test_every_vm_makes_so_many_codes(self):
        snapshot = host(vms=5, codes=7, seconds=1)[0].snapshot()
        made = Counter(vm for vm, _ in set(snapshot.rows[["vm", "code"]].tolist()))
        assert made == dict.fromkeys(range(5), 7)

    def test_metrics_show_what_it_says_to_have_counted(self):
        it, _ = host(vms=11, codes=13, seconds=997)
        families = {family.sample: family for family in SourceCollector(it, pytest.fail).families()}
        assert sum(families["hvtrace_hypercalls_total"].values) == it.calls > 10**6
        assert sum(families["hvtrace_hypercall_failures_total"].values) == it.calls_failed > 997
        histogram = families["hvtrace_hypercall_duration_seconds"]
        assert histogram.buckets.sum() == it.calls_completed < it.calls
        for name in ("reps", "xmm_input", "xmm_output", "unfinished"):
            assert sum(families[f"hvtrace_hypercall_{name}_total"].values) > 0


class TestSeries:
    """The formula of docs/fleet.md, beside what the exporter really serves."""

    @pytest.fixture(params=[(1, 1, 0.01), (3, 7, 60), (20, 10, 3600)], ids=str)
    def served(self, request, monkeypatch):
        monkeypatch.setattr(os, "getppid", os.getpid)  # as if we may see all of the keeper
        vms, codes, seconds = request.param
        it, _ = host(11, vms, codes, seconds)
        refused = Counter(dict.fromkeys(REASONS, 0))
        collector = SourceCollector(it, pytest.fail, own=lambda: own(refused))
        return collector.families(), shape(it.snapshot())

    def test_classic(self, served):
        families, counted = served
        _, text = render(families, "")
        lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
        assert len(lines) == counted.series("classic")

    def test_native(self, served):
        families, counted = served
        assert sum(map(series_of, families)) == counted.series("native")

    def test_every_option_adds_what_the_formula_says(self, served):
        _, plain = served
        more = plain._replace(histograms=2, vcpus=17)
        assert more.series("native") - plain.series("native") == plain.variants + 17
        assert more.series("classic") - plain.series("classic") == 29 * plain.variants + 17

    def test_what_is_called_typical_is_within_a_tenth(self):
        it, _ = host(11, 20, 10, 3600)
        real, typical = shape(it.snapshot()), fleet_page.typical(20, 10)
        for form in fleet_page.HISTOGRAM:
            assert typical.series(form) == pytest.approx(real.series(form), rel=0.1)


def series_of(family: Family) -> int:
    """What Prometheus makes of it where it takes native histograms."""
    return len(family.keys)


class TestPage:
    def results(self) -> Results:
        found = from_json(fleet_page.KEPT.read_text())
        assert found
        return found

    def test_shows_the_run_that_is_kept(self):
        text = PAGE.read_text()
        assert fleet_page.with_block(text, "measured", fleet_page.measured(self.results())) == text

    def test_formula_has_these_numbers(self):
        text = PAGE.read_text()
        assert f"+ VMs + vCPUs + {fleet_page.OF_HOST}\n" in text
        assert f"| {fleet_page.OF_HOST} |" in text
        classic, native = fleet_page.HISTOGRAM["classic"], fleet_page.HISTOGRAM["native"]
        assert (
            f"| `h` | {classic} classic ({classic - 2} buckets, count, sum), {native} native"
            in text
        )

    def test_shows_the_arithmetic(self):
        text = PAGE.read_text()
        assert fleet_page.with_block(text, "cardinality", fleet_page.cardinality()) == text

    def test_series_of_that_run_are_those_of_the_arithmetic(self):
        figures = self.results().figures
        typical = fleet_page.SHAPES["20 VMs x 10 codes"]
        for form in fleet_page.HISTOGRAM:
            measured = figures[f"fleet/{form}/series of a host"]
            assert measured == pytest.approx(typical.series(form), rel=0.05)

    def test_a_block_that_is_not_there_is_an_error(self):
        with pytest.raises(ValueError, match="0 blocks nowhere"):
            fleet_page.with_block(PAGE.read_text(), "nowhere", [])
