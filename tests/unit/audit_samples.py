"""Guests for tests of the audit: one in good order, changed where a test wants it otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from samples import vm

from hvtrace.audit.facts import Guest, Host
from hvtrace.hyperv import codes
from hvtrace.hyperv.cpuid import Cpuid
from hvtrace.hyperv.xmm import fixed_verdict
from hvtrace.stats.calls import Call
from hvtrace.stats.exits import Exit
from hvtrace.stats.histogram import BUCKETS

VM = vm("win11", 1009)


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


OFFERED = Cpuid(
    features_eax=bits(0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15),
    features_ebx=bits(4, 5, 11, 20),
    features_edx=bits(1, 4, 8, 10, 11, 14, 19),
    enlightenments_eax=bits(2, 3, 5, 9, 10, 11),
    enlightenments_ebx=0xFFF,
    syndbg_cap_eax=bits(1),
    nested_eax=bits(17, 19),
    nested_ebx=bits(0),
)
"""What kvm_get_hv_cpuid() of Linux 6.12 gives on AMD: written down from its source."""


def without(cpuid: Cpuid, **words: int) -> Cpuid:
    """`cpuid` without these bit numbers: without(OFFERED, features_edx=4)."""
    return replace(cpuid, **{w: getattr(cpuid, w) & ~(1 << bit) for w, bit in words.items()})


def having(cpuid: Cpuid, **words: int) -> Cpuid:
    """`cpuid` with these bit numbers set."""
    return replace(cpuid, **{w: getattr(cpuid, w) | 1 << bit for w, bit in words.items()})


def call(
    code: int,
    number: int = 101,
    *,
    fast: bool = False,
    handler: str = "kernel",
    statuses: dict[str, int] | None = None,
    unfinished: int = 0,
    output: dict[str, int] | None = None,
) -> Call:
    """A row of `number` completed calls, all successful without `statuses`."""
    statuses = {"SUCCESS": number} if statuses is None else statuses
    known = codes.CODES.get(code)
    return Call(
        vm=VM,
        code=code,
        name=codes.name_of(code),
        fast=fast,
        handler=handler,
        completed=number,
        unfinished=unfinished,
        reps=0,
        xmm_input=number if fast and known and known.xmm_input_since else 0,
        xmm_output=output or {fixed_verdict(code, fast) or "none": number + unfinished},
        statuses=statuses,
        latency=None,
        buckets=np.zeros(BUCKETS, dtype=np.uint64),
    )


def refused(code: int, number: int = 7, handler: str = "kernel", status: str = "") -> Call:
    """Attempts at output in registers, all of which failed with one status."""
    return call(
        code,
        number,
        fast=True,
        handler=handler,
        statuses={status or "INVALID_HYPERCALL_CODE": number},
        output={"refused": number},
    )


def exit_(code: int, kind: int = 2, calls: int = 11, untouched: int = 0) -> Exit:
    return Exit(VM, code, True, kind, 136 if kind < 5 else None, calls, untouched)


GOOD_CALLS = (call(0x02, 1009, fast=True), call(0x0B, 503, fast=True), call(0x5C, 7, handler="vmm"))

FLAGS = ("hv-vpindex", "hv-synic", "hv-tlbflush", "hv-ipi", "hv-xmm-input", "hv-spinlocks=0x1fff")


def guest(*more: Call, **changes: object) -> Guest:
    """A guest that needs no finding; `more` calls besides its own, `changes` to its fields."""
    good = Guest(
        vm=VM,
        vcpus=4,
        cpuid=OFFERED,
        enforced=False,
        hyperv=True,
        same_cpuid=True,
        flags=FLAGS,
        calls=(*GOOD_CALLS, *more),
        exits=(),
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def host(**changes: object) -> Host:
    """A stock kernel, ten seconds of it."""
    stock = Host("6.12.0-fake", "none", OFFERED, notes=(), duration_s=10.0)
    return replace(stock, **changes)  # type: ignore[arg-type]
