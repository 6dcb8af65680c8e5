"""Details of rows as a view makes them, without chance: what charts and panes are tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from statistics import NormalDist

import numpy as np

from hvtrace.stats.histogram import BUCKETS, UPPER_NS
from hvtrace.top.detail import Detail, Part

END = 1_700_000_000.0
"""Unix seconds at which the last moment ended: 22:13:20 UTC."""


def spread(count: int, median_ns: float, sigma: float) -> np.ndarray:
    """`count` service times as many paths of code have them: the logarithm is normal."""
    normal = NormalDist(math.log(median_ns), sigma)
    return np.exp([normal.inv_cdf((i + 0.5) / count) for i in range(count)])


def bucketed(times_ns: Sequence[float]) -> np.ndarray:
    """Counts by bucket, shape (BUCKETS,)."""
    found = np.searchsorted(UPPER_NS, np.asarray(times_ns))
    return np.bincount(found, minlength=BUCKETS).astype(np.float64)


def part(label: str, times_ns: Sequence[float], unfinished: int = 0) -> Part:
    """All numbers of some calls."""
    if not len(times_ns):
        return Part(label, unfinished, 0.0, *[math.nan] * 4)
    times = np.asarray(times_ns)
    p50, p99 = np.quantile(times, (0.5, 0.99), method="inverted_cdf")
    calls = len(times) + unfinished
    return Part(label, calls, times.sum(), times.mean(), p50, p99, times.max())


def by_time(*parts: Part) -> tuple[Part, ...]:
    """The part that took most time first."""
    return tuple(sorted(parts, key=lambda one: -one.time_ns))


def detail(
    kernel_ns: Sequence[float] = (),
    vmm_ns: Sequence[float] = (),
    *,
    moments: int = 0,
    unfinished: int = 0,
    **more: object,
) -> Detail:
    """A row with these service times, of which the past is made too; `more` replaces fields."""
    both = np.concatenate((np.asarray(kernel_ns, float), np.asarray(vmm_ns, float)))
    spans = np.array([1 + 0.0007 * (i % 3 - 1) for i in range(moments)])
    ends = END - np.concatenate((np.cumsum(spans[:0:-1])[::-1], [0.0])) if moments else spans
    heat = np.zeros((moments, BUCKETS))
    rates = np.zeros(moments)
    order = np.arange(len(both)) * 7 % 100
    for i in range(moments):
        share = 0.55 + 0.45 * math.sin(i / 7) ** 3
        heat[i] = bucketed(both[order < 100 * share]) if 37 * i % 11 else 0
        rates[i] = heat[i].sum() / spans[i]
    if moments > 23:
        heat[moments - 23] = bucketed(np.concatenate((both, both[:211] * 40)))
    handlers = by_time(part("kernel", kernel_ns, unfinished), part("vmm", vmm_ns))
    made = Detail(
        title="win11  FlushVirtualAddressListEx",
        span="last 1.00s",
        seconds=1.0,
        code=0x14,
        whole=part("all", both, unfinished),
        completed=len(both),
        unfinished=unfinished,
        fast=len(both) * 97 // 100,
        xmm_input=len(both) * 89 // 100,
        verdicts={},
        statuses={"SUCCESS": len(both)} if len(both) else {},
        buckets=bucketed(both),
        heat=heat,
        ends=ends,
        spans=spans,
        rates=rates,
        reps_completed=0,
        reps=np.zeros(12),
        var=np.zeros(10),
        handlers=tuple(one for one in handlers if one.calls),
        vcpus=(),
        calls=(),
        vms=(),
    )
    return replace(made, **more)


def vcpus(times_ns: Sequence[float], count: int) -> tuple[Part, ...]:
    """The calls dealt to vCPUs, each with fewer than the one before."""
    ends = [len(times_ns) * (i * (2 * count - i)) // count**2 for i in range(count + 1)]
    mixed = [times_ns[i * 7919 % len(times_ns)] for i in range(len(times_ns))]
    return by_time(*(part(f"vCPU {i}", mixed[ends[i] : ends[i + 1]]) for i in range(count)))


@cache
def busy() -> Detail:
    """All there is to show of a call that kernel and VMM answer: some fail, some never end."""
    kernel, vmm = spread(4001, 1_900, 0.55), spread(211, 61_000, 0.7)
    kernel = np.concatenate((kernel, [1.3e6, 2.1e6, 38e6]))
    both = np.concatenate((kernel, vmm))
    reps = np.array([701, 1009, 907, 401, 89, 7, 0, 1, 0, 0, 0, 0], float)
    var = np.array([2003, 53, 3, 0, 0, 0, 0, 0, 0, 0], float)
    return detail(
        kernel,
        vmm,
        moments=97,
        unfinished=2,
        reps_completed=11503,
        reps=reps,
        var=var,
        statuses={"SUCCESS": len(both) - 12, "INVALID_HYPERCALL_INPUT": 7, "ACCESS_DENIED": 5},
        vcpus=vcpus(both, 16),
    )


@cache
def host() -> Detail:
    """Several calls of several VMs, with output asked for in registers."""
    kernel, vmm = spread(8009, 1_100, 0.4), spread(401, 47_000, 0.5)
    both = np.concatenate((kernel, vmm))
    names = ("SignalEvent", "PostMessage", "FlushVirtualAddressSpaceEx", "GetVpRegisters")
    vms = ("win11", "win2022-build-agent-17", "ws2025", "linux\x1b[31m")
    return detail(
        kernel,
        vmm,
        moments=600,
        title="all VMs",
        code=None,
        span="total 9m59s",
        seconds=599.0,
        verdicts={"refused": 31, "impossible": 7, "claimed": 1},
        statuses={"SUCCESS": len(both) - 40, "INVALID_HYPERCALL_CODE": 31, "0x7777": 9},
        reps=None,
        var=None,
        vcpus=(),
        calls=tuple(replace(p, label=n) for p, n in zip(vcpus(both, 4), names, strict=True)),
        vms=tuple(replace(p, label=n) for p, n in zip(vcpus(both, 4), vms, strict=True)),
    )
