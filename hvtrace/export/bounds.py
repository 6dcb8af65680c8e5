"""How many series there may be: what is beyond is added up as "other". Pure.

A scrape's size must not be up to a guest, which can make 65,536 different codes, or a VMM,
which can answer with as many statuses. So a thing has series of its own, or is a part of
others', from the first scrape that shows it to its end: a counter that took something in, or
gave something up, would look like calls that nobody made, or like a reset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv import codes, statuses
from hvtrace.stats.histogram import OCTAVES
from hvtrace.stats.snapshot import (
    VERDICTS,
    Array,
    Snapshot,
    common,
    completed,
    concat,
    empty,
    rollup,
    select,
)
from hvtrace.stats.vm import Identity, Vm

OTHER_STATUS = 0
"""Stands for all statuses beyond the limit: success is in no list of failures."""

_HISTOGRAM = OCTAVES + 2 + 2  # series of one: buckets, count and sum
_CALL = 3 + len(VERDICTS) + 1  # at most of a (vm, code): counters, verdicts, and other statuses
_VARIANTS = 4  # (fast, handler) of a code
_FIXED = 100  # of the host and of the exporter itself
_BY_CALL = (("vm", "code"), ("unfinished", "reps", "xmm_input", "xmm_output"))
_OTHER_CODE = -1
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many things have series of their own.

    A Windows guest makes a dozen or two of different calls, the TLFS knows 138. 500 VMs of 10
    calls each, two of them in two variants, with round trips, are reckoned as 540,000 series.
    """

    vms: int = 1024  # as many as there are vCPU threads by default; ended ones count for a while
    codes: int = 64  # of each VM
    series: int = 600_000  # of a scrape in all, as text; an upper bound
    statuses: int = 32  # of each (vm, code)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A snapshot in which there are no more things than may be.

    ``by_variant.vms`` are those VMs that have series of their own, n of them. In rows a vm
    below n is one of them; n + i is VM i again, with all its other codes; 2n are all other VMs.
    """

    by_variant: Snapshot  # by (vm, code, fast, handler)
    by_call: Snapshot  # by (vm, code), with the counters of _BY_CALL and statuses alone
    dropped: dict[str, int]  # by limit: what has no series of its own, since the start


@dataclass(slots=True)
class _Vm:
    """What has series of its own, in one VM."""

    spent: int = 0  # series
    variants: set[int] = field(default_factory=set)  # code, fast and handler in one number
    codes: set[int] = field(default_factory=set)
    full: str = ""  # the limit that it has met: no code comes in any more
    statuses: dict[int, set[int]] = field(default_factory=dict)  # by code
    vcpus: set[int] = field(default_factory=set)
    dropped: dict[Hashable, int] = field(default_factory=dict)  # what of it was counted


class Bounds:
    """Decides, and remembers for as long as there is something to remember."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.series - _FIXED
        self._vms: dict[Identity, _Vm] = {}
        self._others = _Vm()  # of all VMs beyond the limit
        self._other_vms: set[Identity] = set()
        self._last = empty()  # of these, by (vm, fast, handler)
        self._past = empty()  # of those of them that have gone, by (fast, handler)
        self._dropped = dict.fromkeys(("vms", "codes", "statuses", "series"), 0)
        self._row_cost = 1 + _HISTOGRAM
        self._take(self._others, self._vm_cost)

    @property
    def _vm_cost(self) -> int:
        """Series of a VM in which there is only what is beyond its limits."""
        return 1 + _VARIANTS * self._row_cost + _CALL

    def apply(self, snapshot: Snapshot) -> Bounded:
        """`snapshot` within the limits. All of its counts are in there."""
        rolled = rollup(snapshot)
        if len(rolled.trips) and self._row_cost == 1 + _HISTOGRAM:
            self._row_cost += _HISTOGRAM
            for vm in (self._others, *self._vms.values()):
                self._left -= _VARIANTS * _HISTOGRAM  # may be less than none: nobody new, then
                vm.spent += _VARIANTS * _HISTOGRAM
        self._admit_vms(rolled.vms)
        own = [i for i, vm in enumerate(rolled.vms) if vm.identity in self._vms]
        vms = tuple(rolled.vms[i] for i in own)
        of = [self._vms[vm.identity] for vm in vms]
        place = np.full(len(rolled.vms), 2 * len(own), dtype=np.int32)
        place[own] = np.arange(len(own))
        where = place[rolled.rows["vm"]]
        other = where == 2 * len(own)
        beyond = self._admit_codes(rolled.rows, own, of)
        if other.any() or len(self._last.rows):
            self._keep_past(select(rolled, other))
        if beyond.any() or len(own) < len(rolled.vms) or len(self._past.rows):
            rows = rolled.rows.copy()
            rows["vm"] = where + len(own) * beyond
            rows["code"][beyond | other] = 0
            self._past.rows["vm"] = 2 * len(own)
            rolled = rollup(concat(self._past, replace(rolled, rows=rows)))
        by_call = rollup(replace(rolled, trips=rolled.trips[:0]), *_BY_CALL)
        return Bounded(
            replace(rolled, vms=vms, vcpus=self._bound_vcpus(rolled.vcpus, place, of)),
            self._bound_statuses(by_call, [*of, *of, self._others]),
            dict(self._dropped),
        )

    def _take(self, vm: _Vm, cost: int) -> bool:
        """Spend so many series on `vm`, if there are so many left."""
        if cost > self._left:
            return False
        self._left -= cost
        vm.spent += cost
        return True

    def _admit_vms(self, vms: Sequence[Vm]) -> None:
        """Forget who has gone; let in who is new: the living first, and the oldest of them."""
        here = {vm.identity for vm in vms}
        for gone in self._vms.keys() - here:
            self._left += self._vms.pop(gone).spent
        self._other_vms &= here
        for vm in sorted(vms, key=lambda vm: (vm.ended, vm.start_time, vm.pid)):
            if vm.identity in self._vms or vm.identity in self._other_vms:
                continue
            new = _Vm()
            if len(self._vms) < self._limits.vms and self._take(new, self._vm_cost):
                self._vms[vm.identity] = new
            else:
                self._other_vms.add(vm.identity)
                self._dropped["vms" if len(self._vms) >= self._limits.vms else "series"] += 1

    def _admit_codes(self, rows: Array, own: Sequence[int], of: Sequence[_Vm]) -> Mask:
        """Which of `rows`, sorted by VM, are beyond what the VMs `own` may have."""
        beyond = np.zeros(len(rows), dtype=bool)
        variants = rows["code"].astype(np.int32) << 2 | rows["fast"] << 1 | rows["handler"]
        starts, ends = (np.searchsorted(rows["vm"], own, side).tolist() for side in _SIDES)
        for vm, start, end in zip(of, starts, ends, strict=True):
            found = variants[start:end].tolist()
            if set(found) - vm.variants:
                of_vm = rows[start:end]
                calls = (completed(of_vm) + of_vm["unfinished"]).tolist()
                self._admit_variants(vm, zip(found, calls, strict=True))
            if vm.full:
                beyond[start:end] = [variant not in vm.variants for variant in found]
                codes_beyond = np.unique(rows["code"][start:end][beyond[start:end]])
                self._drop(vm, vm.full, "codes", len(codes_beyond))
        return beyond

    def _admit_variants(self, vm: _Vm, found: Iterable[tuple[int, int]]) -> None:
        """Let in variants with these calls, until a limit is met; what is refused stays out."""
        for variant, _ in sorted(found, key=lambda v: (v[0] >> 2 not in codes.CODES, -v[1])):
            code = variant >> 2
            fresh = code not in vm.codes
            if variant in vm.variants or vm.full == "series" or (fresh and vm.full):
                continue
            if fresh and len(vm.codes) >= self._limits.codes:
                vm.full = "codes"
            elif self._take(vm, self._row_cost + (_CALL if fresh else 0)):
                vm.variants.add(variant)
                vm.codes.add(code)
            else:
                vm.full = "series"

    def _drop(self, vm: _Vm, limit: str, what: Hashable, count: int) -> None:
        """There are `count` things of a VM without series; those that are new are counted."""
        self._dropped[limit] += max(0, count - vm.dropped.get(what, 0))
        vm.dropped[what] = max(count, vm.dropped.get(what, 0))

    def _keep_past(self, others: Snapshot) -> None:
        """Of VMs without series of their own, keep what those counted that are here no more."""
        now = rollup(others, ("vm", "fast", "handler"))
        _, go_on = common(self._last, now)
        ended = np.ones(len(self._last.rows), dtype=bool)
        ended[go_on] = False
        if ended.any():
            ended_rows = select(self._last, ended)
            self._past = rollup(concat(self._past, ended_rows), ("fast", "handler"))
        self._last = now

    def _bound_statuses(self, by_call: Snapshot, of: Sequence[_Vm]) -> Snapshot:
        """With OTHER_STATUS for the statuses beyond the limit; `of` is for its rows' vm."""
        failed = by_call.statuses.copy()
        found = failed.tolist()
        refused: Counter[int] = Counter()
        for i in sorted(range(len(found)), key=lambda i: _order(*found[i])):
            row, status, _ = found[i]
            vm, code = self._call(by_call.rows, row, of)
            admitted = vm.statuses.setdefault(code, set())
            if status in admitted:
                continue
            closed = OTHER_STATUS in admitted or len(admitted) >= self._limits.statuses
            if closed or not self._take(vm, 1):
                admitted.add(OTHER_STATUS)  # no other one comes in any more
                failed["status"][i] = OTHER_STATUS
                refused[row] += 1
            else:
                admitted.add(status)
        for row, count in refused.items():
            vm, code = self._call(by_call.rows, row, of)
            self._drop(vm, "statuses", ("statuses", code), count)
        bounded = replace(by_call, statuses=failed)
        return rollup(bounded, *_BY_CALL) if refused else bounded

    @staticmethod
    def _call(rows: Array, row: int, of: Sequence[_Vm]) -> tuple[_Vm, int]:
        """The VM and the code that a row by (vm, code) is about."""
        vm = int(rows["vm"][row])
        return of[vm], int(rows["code"][row]) if vm < len(of) // 2 else _OTHER_CODE

    def _bound_vcpus(self, vcpus: Array, place: NDArray[np.int32], of: Sequence[_Vm]) -> Array:
        """Those that may have a series; there is no other for them, who would look at it?"""
        out = vcpus.copy()
        out["vm"] = place[vcpus["vm"]]
        there = out["vm"] < len(of)
        for i in np.flatnonzero(there).tolist():
            vm, vcpu = of[out["vm"][i]], int(out["vcpu"][i])
            if vcpu in vm.vcpus or self._take(vm, 1):
                vm.vcpus.add(vcpu)
            else:
                there[i] = False
        return out[there]


def _order(row: int, status: int, count: int) -> tuple[bool, int]:
    """Failures with a known status come first, then those that are many."""
    return status not in statuses.STATUSES, -count
