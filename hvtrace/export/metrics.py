"""Prometheus metrics of a snapshot. Pure; docs/exporter.md is their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from hvtrace.export.families import Family, Key, single
from hvtrace.hyperv import codes, statuses
from hvtrace.stats.histogram import octaves
from hvtrace.stats.snapshot import (
    HANDLERS,
    VERDICTS,
    Array,
    Lost,
    Probe,
    Snapshot,
    completed,
    rollup,
)
from hvtrace.stats.vm import Vm

ROW_LABELS = ("vm", "code", "fast", "handler")
_AMBIGUOUS = {
    name for name, uses in Counter(d.name for d in codes.CODES.values()).items() if uses > 1
}


def code_label(code: int) -> str:
    """TLFS name of a call code, hex where it has none; with hex where two codes share a name."""
    name = codes.name_of(code)
    return f"{name}_0x{code:04x}" if name in _AMBIGUOUS else name


def families(snapshot: Snapshot, labels: Sequence[str]) -> Iterator[Family]:
    """All that is said of the counters in `snapshot`; `labels` are those of its VMs."""
    rolled = rollup(snapshot, ROW_LABELS)  # once: of a row for each thread
    yield from _by_variant(rolled, labels)
    yield from _by_call(rollup(rolled, ("vm", "code")), labels)
    if len(snapshot.vcpus):
        yield _vcpus(snapshot, labels)
    in_flight = "Hypercalls that are open now; they are in no other metric yet."
    yield single("hvtrace_hypercalls_in_flight", in_flight, snapshot.in_flight)
    yield _lost(snapshot.lost)
    yield _vms(snapshot.vms, labels)
    if snapshot.probes:
        yield from _probes(snapshot.probes)


def _by_variant(rolled: Snapshot, labels: Sequence[str]) -> Iterator[Family]:
    """Metrics with a series for each (vm, code, fast, handler)."""
    rows = rolled.rows
    keys = [
        (labels[vm], code_label(code), "true" if fast else "false", HANDLERS[handler])
        for vm, code, fast, handler in rows[list(ROW_LABELS)].tolist()
    ]
    yield Family(
        "hvtrace_hypercalls",
        "counter",
        "Hypercalls that are over, completed or not.",
        ROW_LABELS,
        keys,
        (completed(rows) + rows["unfinished"]).tolist(),
    )
    yield _histogram(
        "hvtrace_hypercall_duration_seconds",
        "Time from a hypercall to its completion; unfinished ones have none.",
        keys,
        rows,
    )
    if len(rolled.trips):
        yield _histogram(
            "hvtrace_hypercall_round_trip_seconds",
            "Time from the exit that made a hypercall to the vCPU's next entry.",
            keys,
            rolled.trips,
        )


def _histogram(name: str, help: str, keys: Sequence[Key], times: Array) -> Family:
    """A histogram of the `times` (ROWs or TRIPs) of the series `keys`."""
    sums = (times["sum_ns"] / 1e9).tolist()
    buckets = octaves(times["buckets"])
    return Family(name, "histogram", help, ROW_LABELS, keys, sums, buckets, unit="seconds")


def _by_call(rolled: Snapshot, labels: Sequence[str]) -> Iterator[Family]:
    """Metrics with series for each (vm, code)."""
    rows = rolled.rows
    keys = [(labels[vm], code_label(code)) for vm, code in rows[["vm", "code"]].tolist()]
    for field, about in {
        "unfinished": "Hypercalls that never completed: faulted, superseded, or pending when "
        "their thread ended.",
        "reps": "Elements that rep hypercalls completed.",
        "xmm_input": "Hypercalls that read input from XMM registers.",
    }.items():
        name = f"hvtrace_hypercall_{field}"
        yield Family(name, "counter", about, ("vm", "code"), keys, rows[field].tolist())
    at, verdict = rows["xmm_output"].nonzero()
    yield Family(
        "hvtrace_hypercall_xmm_output",
        "counter",
        "Hypercalls by verdict on output through registers.",
        ("vm", "code", "verdict"),
        [(*keys[i], VERDICTS[v]) for i, v in zip(at.tolist(), verdict.tolist(), strict=True)],
        rows["xmm_output"][at, verdict].tolist(),
    )
    failed = rolled.statuses
    yield Family(
        "hvtrace_hypercall_failures",
        "counter",
        "Completed hypercalls with a status other than SUCCESS.",
        ("vm", "code", "status"),
        [(*keys[i], statuses.name_of(s)) for i, s in failed[["row", "status"]].tolist()],
        failed["count"].tolist(),
    )


def _vcpus(snapshot: Snapshot, labels: Sequence[str]) -> Family:
    vcpus = snapshot.vcpus
    numbers = vcpus[["vm", "vcpu"]].tolist()
    return Family(
        "hvtrace_vcpu_hypercall_seconds",
        "counter",
        "Time that hypercalls of a vCPU took, from call to completion.",
        ("vm", "vcpu"),
        [(labels[vm], "unknown" if vcpu < 0 else str(vcpu)) for vm, vcpu in numbers],
        (vcpus["sum_ns"] / 1e9).tolist(),
        unit="seconds",
    )


def _lost(lost: Lost) -> Family:
    counts = asdict(lost)
    keys = [(reason,) for reason in counts]
    about = "What was not counted, by reason."
    return Family("hvtrace_lost", "counter", about, ("reason",), keys, list(counts.values()))


def _vms(vms: Sequence[Vm], labels: Sequence[str]) -> Family:
    keys = [
        (label, vm.name, str(vm.pid), vm.vmm, vm.uuid or "")
        for label, vm in zip(labels, vms, strict=True)
    ]
    names = ("vm", "name", "pid", "vmm", "uuid")
    return Family("hvtrace_vm", "info", "VMs that made hypercalls.", names, keys, [1] * len(keys))


def _probes(probes: Sequence[Probe]) -> Iterator[Family]:
    """What the kernel says of our BPF programs."""
    keys = [(probe.name,) for probe in probes]
    yield Family(
        "hvtrace_probe_attached",
        "gauge",
        "Whether a BPF program of ours is attached.",
        ("probe",),
        keys,
        [int(probe.attached) for probe in probes],
    )
    yield Family(
        "hvtrace_probe_runs",
        "counter",
        "Runs of a BPF program while the kernel measured them.",
        ("probe",),
        keys,
        [probe.runs for probe in probes],
    )
    yield Family(
        "hvtrace_probe_run_seconds",
        "counter",
        "Time of these runs.",
        ("probe",),
        keys,
        [probe.run_ns / 1e9 for probe in probes],
        unit="seconds",
    )
