"""Rows of counters as plain Python values with names: what every view shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hvtrace.hyperv import codes, statuses
from hvtrace.stats.histogram import LE_NS, Counts, extremes_ns, quantiles_ns
from hvtrace.stats.snapshot import HANDLERS, VERDICTS, Array, SlowCall, Snapshot, Vm, completed

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_TIMES = ("sum", "min", "max", *QUANTILES)


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of completed calls, in ns: sum, extremes and percentiles."""

    sum: int
    min: int
    max: int
    p50: int
    p90: int
    p99: int
    p999: int


@dataclass(frozen=True, slots=True)
class Call:
    """What one VM made of one (code, fast, handler)."""

    vm: Vm
    code: int
    name: str  # TLFS name, or hex where the code is unknown
    fast: bool
    handler: str  # of HANDLERS
    completed: int
    unfinished: int
    reps: int
    xmm_input: int
    xmm_output: dict[str, int]  # verdict of VERDICTS -> calls; no zeros
    statuses: dict[str, int]  # status name, or hex -> completed calls; no zeros
    latency: Latency | None  # service time; None where nothing has completed
    buckets: Counts
    trips: int | None = None  # how many round trips; None: not asked for
    round_trip: Latency | None = None  # their times; None where there was none
    trip_buckets: Counts | None = None

    @property
    def calls(self) -> int:
        """All calls that are over: completed or not."""
        return self.completed + self.unfinished

    @property
    def failures(self) -> int:
        """Completed calls with a status other than SUCCESS."""
        return self.completed - self.statuses.get("SUCCESS", 0)


def calls(snapshot: Snapshot) -> list[Call]:
    """The rows of `snapshot`, in their order; roll it up first."""
    rows, trips = snapshot.rows, snapshot.trips
    called, done = rows["code"].tolist(), completed(rows).tolist()
    # By columns, in the order of Call's fields: row by row it takes several times as long.
    columns = (
        [snapshot.vms[vm] for vm in rows["vm"].tolist()],
        called,
        [codes.name_of(code) for code in called],
        rows["fast"].astype(bool).tolist(),
        [HANDLERS[handler] for handler in rows["handler"].tolist()],
        done,
        *(rows[name].tolist() for name in ("unfinished", "reps", "xmm_input")),
        _verdicts(rows["xmm_output"]),
        _statuses(snapshot.statuses, done),
        _latencies(rows, done),
        rows["buckets"],
    )
    if len(trips):
        ended = completed(trips).tolist()
        columns += (ended, _latencies(trips, ended), trips["buckets"])
    return [Call(*fields) for fields in zip(*columns, strict=True)]


def _verdicts(counts: Counts) -> list[dict[str, int]]:
    """Of each row of `counts`, shape (n, len(VERDICTS))."""
    found: list[dict[str, int]] = [{} for _ in counts]
    row, verdict = np.nonzero(counts)
    for i, which in zip(row.tolist(), verdict.tolist(), strict=True):
        found[i][VERDICTS[which]] = int(counts[i, which])
    return found


def _statuses(failures: Array, done: list[int]) -> list[dict[str, int]]:
    """Of each row, of which so many are `done`."""
    found = [{"SUCCESS": count} for count in done]
    for row, status, count in failures[failures["count"] > 0].tolist():
        found[row]["SUCCESS"] -= count
        found[row][statuses.name_of(status)] = count
    for own in found:
        if own["SUCCESS"] <= 0:  # less: a failure is counted after its bucket, but read before it
            del own["SUCCESS"]
    return found


def _latencies(rows: Array, done: list[int]) -> list[Latency | None]:
    """Of rows of ROW or TRIP; None where nothing is `done`."""
    low, high = extremes_ns(rows["buckets"], rows["min_ns"], rows["max_ns"])
    quantiles = quantiles_ns(rows["buckets"], tuple(QUANTILES.values()), low, high)
    times = (column.tolist() for column in (rows["sum_ns"], low, high, *quantiles.T))
    return [
        Latency(*own) if count else None
        for count, own in zip(done, zip(*times, strict=True), strict=True)
    ]


def as_json(call: Call) -> dict[str, Any]:
    """One element of "calls" in the JSON contract (docs/schema.md)."""
    element = {
        "vm": _vm(call.vm) | ({"vcpus": call.vm.vcpus} if call.vm.vcpus else {}),
        "code": call.code,
        "name": call.name,
        "fast": call.fast,
        "handler": call.handler,
        "calls": call.calls,
        "completed": call.completed,
        "unfinished": call.unfinished,
        "reps": call.reps,
        "xmm_input": call.xmm_input,
        "xmm_output": call.xmm_output,
        "statuses": call.statuses,
        "latency_ns": _times(call.latency),
        "buckets": _filled(call.buckets),
    }
    if call.trip_buckets is not None:
        element["round_trips"] = call.trips
        element["round_trip_ns"] = _times(call.round_trip)
        element["round_trip_buckets"] = _filled(call.trip_buckets)
    return element


def slow_as_json(call: SlowCall) -> dict[str, Any]:
    """One element of "slow"."""
    return {
        "start": round(call.start, 6),
        "duration_ns": call.duration_ns,
        "vm": _vm(call.vm),
        "vcpu": call.vcpu,
        "tid": call.tid,
        "code": call.code,
        "name": codes.name_of(call.code),
        "fast": call.fast,
        "handler": call.handler,
        "var_cnt": call.var_cnt,
        "rep_cnt": call.rep_cnt,
        "status": statuses.name_of(call.status),
        "reps": call.reps,
    }


def _vm(vm: Vm) -> dict[str, object]:
    """Which one it is."""
    fd = {} if vm.fd is None else {"fd": vm.fd}
    return {"pid": vm.pid, "name": vm.name, "vmm": vm.vmm, **fd}


def _times(latency: Latency | None) -> dict[str, int] | None:
    # asdict() takes several times as long.
    return None if latency is None else {name: getattr(latency, name) for name in _TIMES}


def _filled(buckets: Counts) -> list[list[int | None]]:
    """Buckets that hold a call: upper bound in whole ns, and how many."""
    used = np.flatnonzero(buckets)
    counts = zip(used.tolist(), buckets[used].tolist(), strict=True)
    return [[LE_NS[bucket], count] for bucket, count in counts]
