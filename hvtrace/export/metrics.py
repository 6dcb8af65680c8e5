"""Prometheus metrics of a snapshot. Pure; docs/exporter.md is their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from hvtrace.export.bounds import OTHER_STATUS, Bounded
from hvtrace.export.families import Family, Key, Keys, single
from hvtrace.hyperv import codes, statuses
from hvtrace.stats.histogram import octaves
from hvtrace.stats.snapshot import (
    HANDLERS,
    VERDICTS,
    Array,
    Probe,
    Snapshot,
    completed,
)
from hvtrace.stats.vm import Vm

OTHER = "other"
_ROW = ("vm", "code", "fast", "handler")
_BOOL = ("false", "true")
_OF_A_CALL = {
    "unfinished": "Hypercalls that never completed: faulted, superseded, or pending when their "
    "thread ended.",
    "reps": "Elements that rep hypercalls completed.",
    "xmm_input": "Hypercalls that read input from XMM registers.",
}
_AMBIGUOUS = {
    name for name, uses in Counter(d.name for d in codes.CODES.values()).items() if uses > 1
}


def code_label(code: int) -> str:
    """TLFS name of a call code, hex where it has none; with hex where two codes share a name."""
    name = codes.name_of(code)
    return f"{name}_0x{code:04x}" if name in _AMBIGUOUS else name


class Metrics:
    """Families of one snapshot after another, with the same Keys where series stay the same."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[object, Keys]] = {}

    def families(self, bounded: Bounded, labels: Sequence[str]) -> Iterator[Family]:
        """All that is said of the counters; `labels` are those of ``by_variant.vms``."""
        snapshot = bounded.by_variant
        yield from self._by_variant(snapshot, labels)
        yield from self._by_call(bounded.by_call, labels)
        if len(snapshot.vcpus):
            yield _vcpus(snapshot, labels)
        in_flight = "Hypercalls that are open now; they are in no other metric yet."
        yield single("hvtrace_hypercalls_in_flight", in_flight, snapshot.in_flight)
        yield _by_reason("hvtrace_lost", "What was not counted, by reason.", asdict(snapshot.lost))
        about = "What has no series of its own and is a part of others', by the limit that it met."
        yield _by_reason("hvtrace_series_dropped", about, bounded.dropped, "limit")
        yield _vms(snapshot.vms, labels)
        if snapshot.probes:
            yield from _probes(snapshot.probes)

    def _kept(self, what: str, same: object, make: Callable[[], Iterable[Key]]) -> Keys:
        """The keys of the last time, where what they are made of is the `same`; else new ones."""
        last, keys = self._keys.get(what, (None, Keys(())))
        if last != same:
            keys = Keys(make())
            self._keys[what] = (same, keys)
        return keys

    def _by_variant(self, snapshot: Snapshot, labels: Sequence[str]) -> Iterator[Family]:
        """Metrics with a series for each (vm, code, fast, handler)."""
        rows = snapshot.rows

        def make() -> Iterator[Key]:
            for vm, code, fast, handler in rows[list(_ROW)].tolist():
                yield *_call(vm, code, labels), _BOOL[fast], HANDLERS[handler]

        keys = self._kept("variant", (_columns(rows, _ROW), labels), make)
        yield Family(
            "hvtrace_hypercalls",
            "counter",
            "Hypercalls that are over, completed or not.",
            _ROW,
            keys,
            (completed(rows) + rows["unfinished"]).tolist(),
        )
        yield _histogram(
            "hvtrace_hypercall_duration_seconds",
            "Time from a hypercall to its completion; unfinished ones have none.",
            keys,
            rows,
        )
        if len(snapshot.trips):
            yield _histogram(
                "hvtrace_hypercall_round_trip_seconds",
                "Time from the exit that made a hypercall to the vCPU's next entry.",
                keys,
                snapshot.trips,
            )

    def _by_call(self, snapshot: Snapshot, labels: Sequence[str]) -> Iterator[Family]:
        """Metrics with series for each (vm, code)."""
        rows, failed = snapshot.rows, snapshot.statuses

        def make() -> Iterator[Key]:
            return (_call(vm, code, labels) for vm, code in rows[["vm", "code"]].tolist())

        same = (_columns(rows, ("vm", "code")), labels)
        keys = self._kept("call", same, make)
        for field, about in _OF_A_CALL.items():
            name = f"hvtrace_hypercall_{field}"
            yield Family(name, "counter", about, ("vm", "code"), keys, rows[field].tolist())
        at, verdict = rows["xmm_output"].nonzero()
        yield Family(
            "hvtrace_hypercall_xmm_output",
            "counter",
            "Hypercalls by verdict on output through registers.",
            ("vm", "code", "verdict"),
            self._kept(
                "verdict",
                (same, at.tobytes(), verdict.tobytes()),
                lambda: ((*keys[i], VERDICTS[v]) for i, v in zip(at, verdict, strict=True)),
            ),
            rows["xmm_output"][at, verdict].tolist(),
        )
        yield Family(
            "hvtrace_hypercall_failures",
            "counter",
            "Completed hypercalls with a status other than SUCCESS.",
            ("vm", "code", "status"),
            self._kept(
                "status",
                (same, _columns(failed, ("row", "status"))),
                lambda: ((*keys[i], _status(s)) for i, s, _ in failed.tolist()),
            ),
            failed["count"].tolist(),
        )


def _columns(rows: Array, names: Sequence[str]) -> list[bytes]:
    """What these fields are, to compare; of several at once numpy gives the others, too."""
    return [rows[name].tobytes() for name in names]


def _call(vm: int, code: int, labels: Sequence[str]) -> Key:
    """The labels `vm` and `code` of a row of Bounded."""
    if vm < len(labels):
        return labels[vm], code_label(code)
    return labels[vm - len(labels)] if vm < 2 * len(labels) else OTHER, OTHER


def _status(status: int) -> str:
    return OTHER if status == OTHER_STATUS else statuses.name_of(status)


def _histogram(name: str, help: str, keys: Keys, times: Array) -> Family:
    """A histogram of the `times` (ROWs or TRIPs) of the series `keys`."""
    sums = (times["sum_ns"] / 1e9).tolist()
    return Family(
        name, "histogram", help, _ROW, keys, sums, octaves(times["buckets"]), unit="seconds"
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


def _by_reason(name: str, help: str, counts: Mapping[str, int], label: str = "reason") -> Family:
    keys = [(reason,) for reason in counts]
    return Family(name, "counter", help, (label,), keys, list(counts.values()))


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
