"""What was counted in an interval, for machines: JSON and CSV. Pure; docs/schema.md says more."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from hvtrace import __version__
from hvtrace.stats import calls as rows
from hvtrace.stats import exits
from hvtrace.stats.snapshot import Snapshot

SCHEMA = 1
"""Raised when a key changes its meaning; new keys do not raise it."""

CSV_COLUMNS = (
    *("start", "duration_s", "vm_pid", "vm_name", "vm_vmm", "vm_fd"),
    *("code", "name", "fast", "handler", "calls", "completed", "unfinished", "failures"),
    *("reps", "xmm_input", "xmm_output", "statuses", "sum_ns", "min_ns", "max_ns"),
    *("p50_ns", "p90_ns", "p99_ns", "p999_ns"),
)
"""Header of the CSV form. New columns are added at the end."""

CSV_TRIP_COLUMNS = (
    "round_trips",
    *(f"round_trip_{name}_ns" for name in ("sum", "min", "max", "p50", "p90", "p99", "p999")),
)
"""More of them, where round trips were asked for."""


def as_json(
    delta: Snapshot, kernel: str, start: float, duration_s: float, *, slow: bool = False
) -> dict[str, Any]:
    """The JSON contract (docs/schema.md) of a rolled-up `delta`.

    `kernel` is the release that was observed, `start` in unix seconds; `slow`: slow
    calls were asked for.
    """
    return {
        "schema": SCHEMA,
        "hvtrace": __version__,
        "kernel": kernel,
        "start": round(start, 3),
        "duration_s": round(duration_s, 6),
        "calls": [rows.as_json(call) for call in rows.calls(delta)],
        **({"exits": [exits.as_json(one) for one in delta.exits]} if delta.exits else {}),
        **({"slow": [rows.slow_as_json(one) for one in delta.slow]} if slow else {}),
        "lost": asdict(delta.lost),
        "in_flight": delta.in_flight,
    }


def as_csv(delta: Snapshot, start: float, duration_s: float, header: bool = True) -> str:
    """A line for each row of a rolled-up `delta`, behind a header where `header`.

    Losses and calls in flight belong to no row, so they are not in here.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(CSV_COLUMNS + (CSV_TRIP_COLUMNS if len(delta.trips) else ()))
    for call in rows.calls(delta):
        writer.writerow(
            (
                *(round(start, 3), round(duration_s, 6)),
                *(call.vm.pid, call.vm.name, call.vm.vmm, call.vm.fd),
                *(call.code, call.name, str(call.fast).lower(), call.handler),
                *(call.calls, call.completed, call.unfinished, call.failures),
                *(call.reps, call.xmm_input, _pairs(call.xmm_output), _pairs(call.statuses)),
                *_times(call.latency),
                *(() if call.trips is None else (call.trips, *_times(call.round_trip))),
            )
        )
    return out.getvalue()


def _times(latency: rows.Latency | None) -> Iterable[object]:
    return ("",) * 7 if latency is None else asdict(latency).values()


def _pairs(counts: Mapping[str, int]) -> str:
    """Counts by name in one cell: "SUCCESS=198 INVALID_PARAMETER=2"."""
    return " ".join(f"{name}={count}" for name, count in counts.items())
