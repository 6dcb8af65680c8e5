"""The text that Prometheus scrapes: a golden file, read back, and consistent in itself."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import check, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from samples import FakeSource, row, snapshot, vm

from hvtrace import __version__
from hvtrace.export.collector import SourceCollector
from hvtrace.export.families import Family, Keys
from hvtrace.export.formats import render
from hvtrace.export.metrics import code_label
from hvtrace.hyperv.codes import CODES, name_of
from hvtrace.stats.histogram import OCTAVE_UPPER_SECONDS
from hvtrace.stats.snapshot import HANDLERS, VCPU, VERDICTS, Lost, Probe

DOCS = Path(__file__).parents[2] / "docs" / "exporter.md"


def families_of(snap) -> list[Family]:
    return SourceCollector(FakeSource(snap), print, clock=iter((1.0, 1.25)).__next__).families()


def text_of(snap, accept: str = "") -> str:
    return render(families_of(snap), accept)[1].decode()


def openmetrics_of(snap) -> str:
    return text_of(snap, "application/openmetrics-text")


def everything(**more):
    """The sample, and what is only there where it is asked for."""
    vcpus = np.array([(0, 0, 31 * 10**9), (0, 1, 7), (1, -1, 3)], dtype=VCPU)
    probes = (Probe("call_begins", True, 6073, 1_013_000), Probe("exit_to_user", False))
    return replace(sample(trips=True, **more), vcpus=vcpus, probes=probes)


def series(text: str, parse=text_string_to_metric_families) -> dict[tuple, float]:
    """{(name, labels): value}; fails where a series comes twice."""
    found: dict[tuple, float] = {}
    for family in parse(text):
        for s in family.samples:
            key = (s.name, tuple(sorted(s.labels.items())))
            assert key not in found, f"{key} comes twice"
            found[key] = s.value
    return found


def total(found: dict[tuple, float], name: str, **labels: str) -> float:
    """Sum of all series of `name` that have `labels`."""
    return sum(
        value
        for (series_name, pairs), value in found.items()
        if series_name == name and labels.items() <= dict(pairs).items()
    )


def assert_histograms_are_consistent(found: dict[tuple, float]) -> None:
    name = "hvtrace_hypercall_duration_seconds"
    buckets = defaultdict(list)
    for (series_name, pairs), value in found.items():
        labels = dict(pairs)
        if series_name == f"{name}_bucket":
            bound = float(labels.pop("le"))
            buckets[tuple(labels.items())].append((bound, value))
    for key, pairs in buckets.items():
        pairs.sort()
        counts = [count for _, count in pairs]
        assert tuple(bound for bound, _ in pairs) == OCTAVE_UPPER_SECONDS
        assert counts == sorted(counts)
        assert found[f"{name}_count", key] == counts[-1]
        mean_bounds = found[f"{name}_sum", key]
        assert (mean_bounds == 0) == (counts[-1] == 0)
    assert len(buckets) == sum(series_name == f"{name}_count" for series_name, _ in found)


def test_text_is_the_golden_file_s():
    check("metrics.prom", text_of(everything()).replace(f'"{__version__}"', '"VERSION"'))


def test_openmetrics_is_the_golden_file_s():
    check("metrics.om", openmetrics_of(everything()).replace(f'"{__version__}"', '"VERSION"'))


def test_both_texts_say_the_same():
    openmetrics = openmetrics_of(everything())
    assert series(text_of(everything())) == series(openmetrics, parse_openmetrics)


def test_round_trips_are_a_histogram_of_their_own():
    found = series(text_of(sample(trips=True)))
    # All rows but two have completed calls, and the last of each has not entered yet.
    assert total(found, "hvtrace_hypercall_round_trip_seconds_count") == 6065 - 11
    snap = sample(trips=True)
    expected = int(snap.trips["sum_ns"].sum()) / 1e9
    assert total(found, "hvtrace_hypercall_round_trip_seconds_sum") == pytest.approx(expected)
    assert {key for key in series(text_of(sample())) if "round_trip" in key[0]} == set()


def test_numbers_are_the_snapshot_s():
    found = series(text_of(sample()))
    assert total(found, "hvtrace_hypercalls_total") == 6068
    assert total(found, "hvtrace_hypercalls_total", vm="win11", fast="true") == 5747
    assert total(found, "hvtrace_hypercalls_total", handler="vmm") == 314
    assert total(found, "hvtrace_hypercall_duration_seconds_count") == 6068 - 3
    assert total(found, "hvtrace_hypercall_unfinished_total") == 3
    assert total(found, "hvtrace_hypercall_failures_total") == 15
    assert total(found, "hvtrace_hypercall_failures_total", status="INVALID_HYPERCALL_CODE") == 9
    assert total(found, "hvtrace_hypercall_reps_total") == 359
    assert total(found, "hvtrace_hypercall_xmm_input_total") == 1231 + 401 + 71
    assert total(found, "hvtrace_hypercall_xmm_output_total") == 6068
    assert total(found, "hvtrace_hypercall_xmm_output_total", verdict="refused") == 7
    assert total(found, "hvtrace_lost_total") == 77
    assert total(found, "hvtrace_hypercalls_in_flight") == 1
    assert found["hvtrace_scrape_duration_seconds", ()] == 0.25
    assert found["hvtrace_up", ()] == 1
    seconds = total(found, "hvtrace_hypercall_duration_seconds_sum", code="HvCallGetPartitionId")
    assert seconds == 5


def test_histograms_are_consistent():
    found = series(text_of(sample()))
    assert_histograms_are_consistent(found)
    labels = {"code": "HvCallGetPartitionId"}
    name = "hvtrace_hypercall_duration_seconds_bucket"
    assert total(found, name, le="4.0", **labels) == 0
    assert total(found, name, le="+Inf", **labels) == 1


def test_rows_of_threads_are_added_up():
    """What the live source gives: a row for each vCPU thread."""
    snap = snapshot(
        [row(tid=tid, latencies_ns=[700] * 3, statuses={2: 1}) for tid in (0, 101, 103)]
    )
    found = series(text_of(snap))
    assert total(found, "hvtrace_hypercalls_total") == 9
    assert total(found, "hvtrace_hypercall_failures_total") == 3


def test_vms_are_described():
    found = series(text_of(sample()))
    infos = [dict(pairs) for name, pairs in found if name == "hvtrace_vm_info"]
    uuid = "c0ffee00-0000-4000-8000-000000000001"
    assert infos == [
        {"vm": "win11", "name": "win11", "pid": "1009", "vmm": "qemu", "uuid": uuid},
        {
            "vm": "win11-1013",
            "name": "win11",
            "pid": "1013",
            "vmm": "cloud-hypervisor",
            "uuid": "",
        },
    ]


def keys_of(collector, snap) -> dict[str, Keys]:
    collector._source.left = [snap]
    return {f.name: f.keys for f in collector.families() if isinstance(f.keys, Keys)}


def test_keys_stay_while_only_counts_change():
    """And with them all that encoders have made of them."""
    names = dict(code=2, statuses={5: 1})
    collector = SourceCollector(FakeSource(snapshot()), print)
    first = keys_of(collector, snapshot([row(latencies_ns=[700] * 3, **names)]))
    more = row(latencies_ns=[901] * 7, unfinished=2, reps=11, xmm_input=5, **names)
    second = keys_of(collector, snapshot([more]))
    assert len(first) == 7
    assert all(second[name] is first[name] for name in first)
    third = keys_of(collector, snapshot([more, row(code=3, latencies_ns=[5])]))
    assert not any(third[name] is first[name] for name in first)
    assert [key[1] for key in third["hvtrace_hypercalls"]] == [name_of(2), name_of(3)]
    moved = snapshot([row("b", latencies_ns=[901] * 7, **names)], vms=[vm("b", 1013)])
    assert keys_of(collector, moved)["hvtrace_hypercall_failures"][0][0] == "b"


def test_time_of_vcpus():
    found = series(text_of(everything()))
    name = "hvtrace_vcpu_hypercall_seconds_total"
    assert total(found, name, vm="win11", vcpu="0") == 31
    assert total(found, name, vm="win11", vcpu="1") == 7e-9
    assert total(found, name, vm="win11-1013", vcpu="unknown") == 3e-9
    assert not any("vcpu" in name for name, _ in series(text_of(sample())))


def test_probes():
    found = series(text_of(everything()))
    begins = (("probe", "call_begins"),)
    assert found["hvtrace_probe_attached", begins] == 1
    assert found["hvtrace_probe_attached", (("probe", "exit_to_user"),)] == 0
    assert found["hvtrace_probe_runs_total", begins] == 6073
    assert found["hvtrace_probe_run_seconds_total", begins] == 0.001013


def test_build_is_described():
    found = series(text_of(snapshot()))
    labels = (("kernel", FakeSource.kernel), ("version", __version__))
    assert found["hvtrace_build_info", labels] == 1


def test_nothing_counted_is_still_a_whole_answer():
    found = series(text_of(snapshot()))
    assert found["hvtrace_up", ()] == 1
    for reason in Lost.__dataclass_fields__:
        assert found["hvtrace_lost_total", (("reason", reason),)] == 0


def test_labels_of_codes_differ():
    labels = [code_label(code) for code in range(0x10000)]
    assert len(set(labels)) == 0x10000
    assert code_label(2) == "HvCallFlushVirtualAddressSpace"
    assert code_label(0x1234) == "0x1234"
    twice = [code for code in CODES if name_of(code) == "HvCallConnectPort"]
    assert [code_label(code) for code in twice] == [f"HvCallConnectPort_0x{c:04x}" for c in twice]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.builds(
            row,
            vm=st.sampled_from(
                [vm(name, pid) for pid, name in enumerate(("a", 'b"\\\n', "中", "a", "a-1"), 1)]
            ),
            code=st.sampled_from([2, 0x59, 0x96, 0x1234]),
            fast=st.booleans(),
            handler=st.sampled_from(HANDLERS),
            latencies_ns=st.lists(st.integers(1, 10**11), max_size=5),
            unfinished=st.integers(0, 3),
            statuses=st.dictionaries(st.integers(1, 5), st.integers(1, 7), max_size=3),
            tid=st.sampled_from([0, 101, 103]),
        ),
        max_size=12,
    )
)
def test_any_snapshot_gives_unique_and_consistent_series(rows):
    snap = snapshot(rows)
    found = series(text_of(snap))
    assert_histograms_are_consistent(found)
    over = int(snap.rows["buckets"].sum() + snap.rows["unfinished"].sum())
    assert total(found, "hvtrace_hypercalls_total") == over
    assert total(found, "hvtrace_hypercall_failures_total") == snap.statuses["count"].sum()
    seconds = total(found, "hvtrace_hypercall_duration_seconds_sum")
    assert math.isclose(seconds, snap.rows["sum_ns"].sum() / 1e9, abs_tol=1e-9)


def test_promtool_finds_nothing():
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: it comes with Debian's package prometheus"
    text = text_of(everything()).encode()
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "family",
    list(text_string_to_metric_families(text_of(everything()))),
    ids=lambda family: family.name,
)
def test_every_metric_is_documented(family):
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = sorted({label for s in family.samples for label in s.labels} - {"le"})
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    (documented,) = [line for line in lines if line.startswith(f"| `{name}` |")]
    for label in labels:
        assert f"`{label}`" in documented


@pytest.mark.parametrize("word", [*VERDICTS, *Lost.__dataclass_fields__])
def test_every_verdict_and_reason_is_documented(word):
    assert f"`{word}`" in DOCS.read_text(encoding="utf-8")
