"""Hosts that are not there: sources whose VMs make hypercalls at fixed rates.

A host is made from a seed: its VMs, the calls that each of them makes, how often and how long
they take. What it has counted grows with its clock, by Poisson's distribution, so that samples
in a time series database are as irregular as real ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.interface import Interface
from hvtrace.hyperv.xmm import fixed_verdict, is_xmm_input
from hvtrace.kernel.programs import EVENTS
from hvtrace.stats.histogram import BUCKETS, LOWER_NS, UPPER_NS
from hvtrace.stats.snapshot import (
    HANDLERS,
    ROW,
    STATUS,
    VERDICTS,
    Lost,
    Probe,
    Snapshot,
    Vm,
    completed,
)

VMS, CODES = 20, 10


class Variant(NamedTuple):
    """Calls of one (code, fast, handler) in a VM that makes them."""

    code: int
    fast: bool
    handler: str
    per_second: float
    median_ns: float
    status: int = 0  # with which they fail,
    failing: float = 0.0  # this share of them


# What Windows guests make most, and what it costs them; further down what only some of them try.
# Flushes are fast where they are small and in memory where they are not.
MIX = (
    Variant(0x000B, True, "kernel", 900.0, 1_700),
    Variant(0x0002, True, "kernel", 400.0, 2_600),
    Variant(0x0003, True, "kernel", 300.0, 3_100),
    Variant(0x0003, False, "kernel", 120.0, 3_900),
    Variant(0x0015, True, "kernel", 150.0, 2_100),
    Variant(0x005C, False, "vmm", 60.0, 24_000),
    Variant(0x005D, True, "vmm", 80.0, 19_000),
    Variant(0x0008, True, "kernel", 40.0, 900),
    Variant(0x0013, True, "kernel", 90.0, 2_900),
    Variant(0x0014, True, "kernel", 50.0, 3_300),
    Variant(0x0014, False, "kernel", 20.0, 4_200),
    Variant(0x0050, True, "kernel", 0.2, 700, status=2, failing=1.0),
    Variant(0x0051, False, "kernel", 0.1, 800, status=2, failing=1.0),
    Variant(0x0044, False, "kernel", 0.1, 700, status=2, failing=1.0),
    Variant(0x8001, False, "vmm", 0.3, 26_000, status=2, failing=0.07),
)
_SIGMA = 0.6  # of the logarithm: most calls are within a factor of two around the median
_BUSY = (0.05, 3.0)  # how much of these rates a VM has
_UNFINISHED = 1e-4  # share of forwarded calls whose VMM went away


class SimulatedHost:
    """A source: `vms` VMs, each with calls of `codes` different codes, most of them in all VMs."""

    kernel = "6.12.0-simulated"
    interface = Interface(exit_bytes=72)

    def __init__(
        self,
        seed: int,
        vms: int = VMS,
        codes: int = CODES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`codes` is at most the number of codes in MIX."""
        self._random = np.random.default_rng(seed)
        self._clock, self._then, self._frozen = clock, clock(), False
        self._vms = tuple(self._vm(seed, number) for number in range(vms))
        made = [(vm, variant) for vm in range(vms) for variant in self._calls_of(codes)]
        self._variants = [variant for _, variant in made]
        self._rows = np.zeros(len(made), dtype=ROW)
        self._rows["vm"] = [vm for vm, _ in made]
        self._rows["code"] = [variant.code for variant in self._variants]
        self._rows["fast"] = [variant.fast for variant in self._variants]
        self._rows["handler"] = [HANDLERS.index(variant.handler) for variant in self._variants]
        busy = self._random.uniform(*_BUSY, vms)[self._rows["vm"]]
        medians = np.array([v.median_ns for v in self._variants]) * np.exp2(
            self._random.normal(0, 0.3, len(made))
        )
        self._rates = busy[:, None] * _rates(self._variants, medians)
        self._unfinished = np.where(self._rows["handler"], self._rates.sum(axis=1) * _UNFINISHED, 0)
        self._failing = np.flatnonzero([variant.status for variant in self._variants])
        self._failed = np.zeros(len(self._failing), dtype=STATUS)
        self._failed["row"] = self._failing
        self._failed["status"] = [self._variants[row].status for row in self._failing]
        self._verdicts = [VERDICTS.index(_verdict(variant)) for variant in self._variants]
        self._xmm = np.array([_reads_xmm(variant) for variant in self._variants])

    def _vm(self, seed: int, number: int) -> Vm:
        pid = 1_000 + 37 * number
        uuid = f"{seed:08x}-0000-4000-8000-{number:012x}"
        return Vm(pid, f"vm-{seed:03d}-{number:02d}", "qemu", start_time=pid, uuid=uuid)

    def _calls_of(self, codes: int) -> list[Variant]:
        """What one VM calls: the first half of the codes, and others at random."""
        known = list(dict.fromkeys(variant.code for variant in MIX))
        sure = codes - codes // 2
        others = self._random.choice(known[sure:], codes // 2, replace=False)
        chosen = {*known[:sure], *others.tolist()}
        return [variant for variant in MIX if variant.code in chosen]

    def snapshot(self) -> Snapshot:
        """What has been counted up to now."""
        now = self._clock()
        if not self._frozen:
            self._count(now - self._then)
            self._then = now
        rows = self._rows.copy()
        finished = completed(rows)
        made = finished + rows["unfinished"]
        rows["xmm_output"][np.arange(len(rows)), self._verdicts] = made
        rows["xmm_input"] = np.where(self._xmm, made, 0)
        rows["reps"] = np.where(np.isin(rows["code"], (0x0003, 0x0014)), 3 * finished, 0)
        rows["sum_ns"] = rows["buckets"] @ _MIDDLE_NS
        failed = self._failed[self._failed["count"] > 0]
        probes = tuple(Probe(name, True, int(made.sum()), 300 * int(made.sum())) for name in EVENTS)
        return Snapshot(
            now, int(now * 1e9), self._vms, rows, failed.copy(), Lost(), 3, probes=probes
        )

    def _count(self, seconds: float) -> None:
        more = self._random.poisson(self._rates * seconds).astype(np.uint64)
        self._rows["buckets"] += more
        self._rows["unfinished"] += self._random.poisson(self._unfinished * seconds).astype("<u8")
        calls = more[self._failing].sum(axis=1)
        shares = [self._variants[row].failing for row in self._failing]
        self._failed["count"] += self._random.binomial(calls.astype(np.int64), shares).astype("<u8")

    @property
    def calls(self) -> int:
        """All that have been counted, completed or not, at the last snapshot."""
        return int(completed(self._rows).sum() + self._rows["unfinished"].sum())

    @property
    def calls_completed(self) -> int:
        """Those of them that histograms hold."""
        return int(completed(self._rows).sum())

    @property
    def calls_failed(self) -> int:
        """Those of them with a status other than success."""
        return int(self._failed["count"].sum())

    def freeze(self) -> None:
        """Count no more: from now on all snapshots are the same but for their time."""
        self._frozen = True

    def look(self) -> None:
        """Nothing: who is here stays."""

    def close(self) -> None:
        """Nothing is held."""


_MIDDLE_NS = np.minimum((LOWER_NS + np.where(np.isinf(UPPER_NS), LOWER_NS, UPPER_NS)) / 2, 8e9)
_MIDDLE_NS = _MIDDLE_NS.astype(np.uint64)


def _rates(variants: list[Variant], medians_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calls a second into each bucket, (variants, BUCKETS): lognormal around the medians."""
    middles = np.log(_MIDDLE_NS.astype(np.float64))
    widths = np.where(np.isinf(UPPER_NS), 0, UPPER_NS - LOWER_NS) / _MIDDLE_NS
    distance = (middles - np.log(medians_ns)[:, None]) / _SIGMA
    density = np.exp(-(distance**2) / 2) * widths
    assert density.shape == (len(variants), BUCKETS)
    per_second = np.array([variant.per_second for variant in variants])
    return density / density.sum(axis=1, keepdims=True) * per_second[:, None]


def _verdict(variant: Variant) -> str:
    return fixed_verdict(variant.code, variant.fast) or "refused"


def _reads_xmm(variant: Variant) -> bool:
    return bool(is_xmm_input(variant.code, variant.fast, var_cnt=1, rep_cnt=3))
