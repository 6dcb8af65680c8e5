"""Rows of counters as plain Python values with names: what every view shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hvtrace.hyperv import codes, statuses
from hvtrace.stats.histogram import Counts, extremes_ns, percentiles_ns
from hvtrace.stats.snapshot import HANDLERS, VERDICTS, Snapshot, Vm

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


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
    failed: list[dict[str, int]] = [{} for _ in snapshot.rows]
    for row, status, count in snapshot.statuses.tolist():
        if count:
            failed[row][statuses.name_of(status)] = count
    found = [_call(snapshot.vms, row, failed[i]) for i, row in enumerate(snapshot.rows)]
    if not len(snapshot.trips):
        return found
    return [
        replace(call, trips=int(trip["buckets"].sum()), round_trip=_latency(trip))
        for call, trip in zip(found, snapshot.trips, strict=True)
    ]


def _call(vms: tuple[Vm, ...], row: np.void, failed: dict[str, int]) -> Call:
    buckets: Counts = row["buckets"]
    done = int(buckets.sum())
    # A failure is counted after its bucket, but read before it: never negative for long.
    success = max(0, done - sum(failed.values()))
    return Call(
        vm=vms[row["vm"]],
        code=int(row["code"]),
        name=codes.name_of(int(row["code"])),
        fast=bool(row["fast"]),
        handler=HANDLERS[row["handler"]],
        completed=done,
        unfinished=int(row["unfinished"]),
        reps=int(row["reps"]),
        xmm_input=int(row["xmm_input"]),
        xmm_output={v: int(n) for v, n in zip(VERDICTS, row["xmm_output"], strict=True) if n},
        statuses={**({"SUCCESS": success} if success else {}), **failed},
        latency=_latency(row),
        buckets=buckets,
    )


def _latency(row: np.void) -> Latency | None:
    """Of a ROW or a TRIP; None where nothing was counted."""
    buckets: Counts = row["buckets"]
    if not buckets.any():
        return None
    low, high = extremes_ns(buckets, int(row["min_ns"]), int(row["max_ns"]))
    quantiles = percentiles_ns(buckets, tuple(QUANTILES.values()), low, high)
    return Latency(int(row["sum_ns"]), low, high, *quantiles)


def as_json(call: Call) -> dict[str, Any]:
    """One element of "calls" in the JSON contract (docs/design.md, section 6)."""
    vm = {"pid": call.vm.pid, "name": call.vm.name, "vmm": call.vm.vmm}
    if call.vm.fd is not None:
        vm["fd"] = call.vm.fd
    trips = {"round_trips": call.trips, "round_trip_ns": _times(call.round_trip)}
    return {
        "vm": vm,
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
        **({} if call.trips is None else trips),
    }


def _times(latency: Latency | None) -> dict[str, int] | None:
    return None if latency is None else asdict(latency)
