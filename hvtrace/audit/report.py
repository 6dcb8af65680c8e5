"""The audit for machines: docs/schema.md says what the keys mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hvtrace import __version__
from hvtrace.audit.facts import Guest, Host
from hvtrace.audit.rules import findings
from hvtrace.hyperv.cpuid import FEATURES, Cpuid
from hvtrace.stats import calls, exits
from hvtrace.stats.report import SCHEMA
from hvtrace.stats.snapshot import Lost


def as_json(host: Host, guests: Sequence[Guest], lost: Lost, start: float) -> dict[str, Any]:
    """One object; `start` of the interval in unix seconds."""
    return {
        "schema": SCHEMA,
        "hvtrace": __version__,
        "kernel": host.kernel,
        "start": round(start, 3),
        "duration_s": round(host.duration_s, 6),
        "host": {
            "xmm_output": host.xmm_output_kind,
            "offered": _cpuid(host.offered),
            "notes": list(host.notes),
        },
        "guests": [_guest(host, guest) for guest in guests],
        "lost": asdict(lost),
    }


def _guest(host: Host, guest: Guest) -> dict[str, Any]:
    vm = {"pid": guest.vm.pid, "name": guest.vm.name, "vmm": guest.vm.vmm}
    return {
        "vm": vm if guest.vm.fd is None else {**vm, "fd": guest.vm.fd},
        "vcpus": guest.vcpus,
        "hyperv": guest.hyperv,
        "exposed": _cpuid(guest.given),
        "same_cpuid": guest.same_cpuid,
        "enforced": guest.enforced,
        "flags": None if guest.flags is None else list(guest.flags),
        "calls": [calls.as_json(call) for call in guest.calls],
        "exits": [exits.as_json(one) for one in guest.exits],
        "findings": [asdict(one) for one in findings(host, guest)],
    }


def _cpuid(cpuid: Cpuid | None) -> dict[str, Any] | None:
    """The names of FEATURES it has, and all its words for what no name is known of."""
    if cpuid is None:
        return None
    return {
        "features": [feature.name for feature in FEATURES if feature.exposed(cpuid)],
        "cpuid": asdict(cpuid),
    }
