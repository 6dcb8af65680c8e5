"""What the guests of these tests make: prime numbers of calls, of every kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from math import isqrt
from typing import Any

POST = 0x5C
VMS, VCPUS = 3, 2

NAMES = {
    0x0002: "FlushVirtualAddressSpace",
    0x0003: "FlushVirtualAddressList",
    0x0013: "FlushVirtualAddressSpaceEx",
    0x0050: "GetVpRegisters",
    0x005C: "PostMessage",
    0x005D: "SignalEvent",
    0x1234: "0x1234",
}
STATUSES = {
    0: "SUCCESS",
    2: "INVALID_HYPERCALL_CODE",
    0x12: "INVALID_CONNECTION_ID",
    0x13: "INSUFFICIENT_BUFFERS",
}

FLUSH: dict[str, Any] = {"fast": True, "rdx": 0x1AA000, "xmm_input": True}
REGISTERS: dict[str, Any] = {"code": 0x50, "fast": True, "xmm_input": True}
REGISTERS |= {"rdx": (1 << 64) - 1, "r8": 0xFFFFFFFE, "path": "vmm"}
MIX: dict[str, Any] = {
    "primes": True,
    "guest": {"withhold": ["xmm-input"], "offer": ["xmm-output"]},
    "call": [
        {"code": 2, **FLUSH, "xmm": [1], "times": 101},
        {"code": 2, "block": [0x1AA000, 0, 1], "times": 47},
        {"code": 3, **FLUSH, "reps": 2, "xmm": [1, 0x1000, 0x3002], "times": 61},
        {"code": 3, "reps": 5, "block": [0x1AA000, 0, 1, *range(0, 0x5000, 0x1000)], "times": 43},
        {"code": 0x13, **FLUSH, "var": 1, "r8": 4, "xmm": [0, 1, 3], "times": 29},
        {"code": POST, "path": "vmm", "block": [0x100000001, 0x800000001, 0x68747261]}
        | {"answers": [0, 0x13, 0x12], "times": 97},
        {"code": 0x5D, "fast": True, "rdx": 0x77, "path": "vmm", "times": 103},
        {"code": 0x1234, "status": 2, "times": 71},
        {"code": 0x1234, "fast": True, "status": 2, "xmm_output": "unknown", "times": 73},
        # Output in registers: tried, and refused by a stock KVM; too long for them.
        {**REGISTERS, "reps": 4, "answers": [0x400000000], "times": 59, "stock": {}}
        | {"writes": {"xmm1": [1, 2]}, "xmm_output": "used-xmm"},
        {**REGISTERS, "reps": 5, "answers": [3], "times": 31, "xmm_output": "impossible"}
        | {"stock": {"xmm_output": "impossible"}},
        # Without XMM input in an enforced CPUID: #UD, and never a completion.
        {"code": 2, **FLUSH, "xmm": [1], "enforce": True, "path": "fault", "times": 37},
        # The last of these is over when its vCPU makes another call.
        {"code": 0x5D, "fast": True, "rdx": 0x77, "enforce": True, "path": "vmm", "times": 19},
    ],
}


def prime(start: int, number: int) -> int:
    """Prime `number` of those from `start` on: how often vCPU `number` makes a call."""
    primes = (n for n in range(start, 10 * start) if all(n % d for d in range(2, isqrt(n) + 1)))
    return next(islice(primes, number, None))


@dataclass
class Made:
    """Calls that are alike. `counts` has calls, fail, unfin..., and verdicts by their names."""

    vm: str
    vcpu: str
    code: int
    counts: Counter[str]


def of_ledger(call: dict[str, Any]) -> Made:
    """A line of the ledger, or of JSON: they name their keys alike."""
    good = ("0x0000", "SUCCESS")
    failed = sum(n for status, n in call["statuses"].items() if status not in good)
    counts = Counter(
        calls=call["calls"],
        fail=failed,
        unfin=call["unfinished"],
        fast=call["calls"] * call["fast"],
        xmm=call["xmm_input"],
        vmm=call["calls"] * (call["handler"] == "vmm"),
        **{name: n for name, n in call["xmm_output"].items() if name in ("refused", "impossible")},
    )
    return Made(call["vm"]["name"], "", call["code"], counts)


def of_mix() -> Iterator[Made]:
    """The same by vCPU, which no ledger tells: from what each was told to do."""
    for number in range(VMS * VCPUS):
        for call in MIX["call"]:
            times = prime(call["times"], number)
            verdict = call.get("stock", {}).get("xmm_output", "refused") if "stock" in call else ""
            handler = "kernel" if "stock" in call else call.get("path", "kernel")
            status = call.get("status", 2 if "stock" in call else 0)
            answers = call.get("answers", [status]) if handler == "vmm" else [status]
            unfinished = times * (handler == "fault")
            failed = sum(map(bool, islice(cycle(answers), times))) if not unfinished else 0
            counts = Counter(calls=times, fail=failed, unfin=unfinished)
            counts += Counter(fast=times * call.get("fast", False))
            counts += Counter(xmm=times * call.get("xmm_input", False))
            counts += Counter({"vmm": times * (handler == "vmm"), verdict: times * bool(verdict)})
            vm, vcpu = divmod(number, VCPUS)
            yield Made(f"prime-{vm}", str(vcpu), call["code"], counts)


def grouped(made: Iterable[Made], grouping: str) -> dict[tuple[str, ...], Counter[str]]:
    """Added up as the table does, by what stands in its columns of names."""
    found: dict[tuple[str, ...], Counter[str]] = {}
    for one in made:
        call = NAMES[one.code]
        keys = {"1": (one.vm, call), "2": (one.vm,), "3": (call,), "4": (one.vm, one.vcpu)}
        found.setdefault(keys.get(grouping, ("all VMs",)), Counter()).update(one.counts)
    return found
