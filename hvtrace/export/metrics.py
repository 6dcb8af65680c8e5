"""Prometheus metrics of a snapshot. Pure; docs/exporter.md is their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from hvtrace.hyperv import codes, statuses
from hvtrace.stats.histogram import OCTAVE_UPPER_SECONDS, octaves
from hvtrace.stats.snapshot import HANDLERS, VERDICTS, Array, Snapshot, completed, rollup

_ROW = ("vm", "code", "fast", "handler")
_BOUNDS = (*(repr(bound) for bound in OCTAVE_UPPER_SECONDS[:-1]), "+Inf")
_AMBIGUOUS = {
    name for name, uses in Counter(d.name for d in codes.CODES.values()).items() if uses > 1
}


def code_label(code: int) -> str:
    """TLFS name of a call code, hex where it has none; with hex where two codes share a name."""
    name = codes.name_of(code)
    return f"{name}_0x{code:04x}" if name in _AMBIGUOUS else name


def families(snapshot: Snapshot, labels: Sequence[str]) -> Iterator[Metric]:
    """All that is said of the counters in `snapshot`; `labels` are those of its VMs."""
    snapshot = rollup(snapshot, _ROW)  # once: of a row for each thread
    yield from _by_variant(snapshot, labels)
    yield from _by_call(snapshot, labels)
    yield _failures(snapshot, labels)
    in_flight = "Hypercalls that are open now; they are in no other metric yet."
    yield GaugeMetricFamily("hvtrace_hypercalls_in_flight", in_flight, snapshot.in_flight)
    lost = CounterMetricFamily(
        "hvtrace_lost", "What was not counted, by reason.", labels=("reason",)
    )
    for reason, count in asdict(snapshot.lost).items():
        lost.add_metric((reason,), count)
    yield lost
    yield _vms(snapshot, labels)


def _by_variant(snapshot: Snapshot, labels: Sequence[str]) -> Iterator[Metric]:
    """Metrics with a series for each (vm, code, fast, handler)."""
    total = CounterMetricFamily(
        "hvtrace_hypercalls", "Hypercalls that are over, completed or not.", labels=_ROW
    )
    duration = HistogramMetricFamily(
        "hvtrace_hypercall_duration_seconds",
        "Time from a hypercall to its completion; unfinished ones have none.",
        labels=_ROW,
        unit="seconds",
    )
    trip = HistogramMetricFamily(
        "hvtrace_hypercall_round_trip_seconds",
        "Time from the exit that made a hypercall to the vCPU's next entry.",
        labels=_ROW,
        unit="seconds",
    )
    whole = rollup(snapshot, _ROW)
    rows = whole.rows
    over = (completed(rows) + rows["unfinished"]).tolist()
    keys = [
        (
            labels[row["vm"]],
            code_label(int(row["code"])),
            "true" if row["fast"] else "false",
            HANDLERS[row["handler"]],
        )
        for row in rows
    ]
    for key, count in zip(keys, over, strict=True):
        total.add_metric(key, count)
    yield total
    yield _histogram(duration, keys, rows)
    if len(whole.trips):
        yield _histogram(trip, keys, whole.trips)


def _histogram(
    family: HistogramMetricFamily, keys: Sequence[tuple[str, ...]], times: Array
) -> HistogramMetricFamily:
    """`family` with the `times` (ROWs or TRIPs) of the series `keys`."""
    cumulative = np.cumsum(octaves(times["buckets"]), axis=-1).tolist()
    for key, buckets, sum_ns in zip(keys, cumulative, times["sum_ns"].tolist(), strict=True):
        family.add_metric(key, list(zip(_BOUNDS, buckets, strict=True)), sum_ns / 1e9)
    return family


def _by_call(snapshot: Snapshot, labels: Sequence[str]) -> Iterator[Metric]:
    """Metrics with a series for each (vm, code)."""
    by_call = ("vm", "code")
    unfinished = CounterMetricFamily(
        "hvtrace_hypercall_unfinished",
        "Hypercalls that never completed: faulted, superseded, or pending when their thread ended.",
        labels=by_call,
    )
    reps = CounterMetricFamily(
        "hvtrace_hypercall_reps", "Elements that rep hypercalls completed.", labels=by_call
    )
    xmm_input = CounterMetricFamily(
        "hvtrace_hypercall_xmm_input",
        "Hypercalls that read input from XMM registers.",
        labels=by_call,
    )
    xmm_output = CounterMetricFamily(
        "hvtrace_hypercall_xmm_output",
        "Hypercalls by verdict on output through registers.",
        labels=(*by_call, "verdict"),
    )
    for row in rollup(snapshot, by_call).rows:
        key = (labels[row["vm"]], code_label(int(row["code"])))
        unfinished.add_metric(key, int(row["unfinished"]))
        reps.add_metric(key, int(row["reps"]))
        xmm_input.add_metric(key, int(row["xmm_input"]))
        for verdict, count in zip(VERDICTS, row["xmm_output"].tolist(), strict=True):
            if count:
                xmm_output.add_metric((*key, verdict), count)
    yield from (unfinished, reps, xmm_input, xmm_output)


def _failures(snapshot: Snapshot, labels: Sequence[str]) -> Metric:
    family = CounterMetricFamily(
        "hvtrace_hypercall_failures",
        "Completed hypercalls with a status other than SUCCESS.",
        labels=("vm", "code", "status"),
    )
    whole = rollup(snapshot, ("vm", "code"))
    for index, status, count in whole.statuses.tolist():
        row = whole.rows[index]
        key = (labels[row["vm"]], code_label(int(row["code"])), statuses.name_of(status))
        family.add_metric(key, count)
    return family


def _vms(snapshot: Snapshot, labels: Sequence[str]) -> Metric:
    family = InfoMetricFamily("hvtrace_vm", "VMs that made hypercalls.", labels=("vm",))
    for label, vm in zip(labels, snapshot.vms, strict=True):
        about = {"name": vm.name, "pid": str(vm.pid), "vmm": vm.vmm, "uuid": vm.uuid or ""}
        family.add_metric((label,), about)
    return family
