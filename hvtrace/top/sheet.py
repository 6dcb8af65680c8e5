"""A frame as a table: which rows, added up by what, in which order. Pure.

Columns (columns.py) give one number for each row; text is made of those on the screen only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv import codes, statuses
from hvtrace.stats.groups import Groups, group
from hvtrace.stats.snapshot import Vm
from hvtrace.stats.tally import (
    CODE_KEY,
    CODE_SHIFT,
    EMPTY,
    TID_KEY,
    VM_KEY,
    VM_SHIFT,
    Floats,
    Index,
    Ints,
    Tally,
    find,
)
from hvtrace.top.model import Frame

if TYPE_CHECKING:
    from hvtrace.top.columns import Column

CALLS = VM_KEY | CODE_KEY
"""What of a key names a call of a VM: filters choose among these."""


class Grouping(Enum):
    """What a row of the table is."""

    CALL_OF_VM = "VM and call"
    VM = "VM"
    CALL = "call"
    VCPU = "vCPU"
    HOST = "host"

    @property
    def mask(self) -> np.uint64:
        """Bits of a row's key that tell it from others."""
        return _MASKS[self]


_MASKS = {
    Grouping.CALL_OF_VM: CALLS,
    Grouping.VM: VM_KEY,
    Grouping.CALL: CODE_KEY,
    Grouping.VCPU: VM_KEY | TID_KEY,
    Grouping.HOST: np.uint64(0),
}


class Scope(Enum):
    """What rates, shares and times are of. Counts are always since the start."""

    INTERVAL = "last"
    TOTAL = "total"

    def of(self, frame: Frame) -> Tally:
        """What `frame` has of it; nothing in a first one, which has no interval."""
        if self is Scope.INTERVAL:
            return frame.counted or EMPTY
        assert frame.total is not None, "the desk shows no frame without it"
        return frame.total


@dataclass(frozen=True, slots=True)
class View:
    """What the user has chosen. Methods give a changed copy."""

    grouping: Grouping = Grouping.CALL_OF_VM
    scope: Scope = Scope.INTERVAL
    sort: str = "/s"  # key of a column
    descending: bool = True
    filter: str = ""
    hidden: frozenset[str] = frozenset()  # keys of columns that are not wanted

    def sorted_by(self, column: Column) -> View:
        """By another column, in its usual direction; by the same one, the other way round."""
        if column.key == self.sort:
            return replace(self, descending=not self.descending)
        return replace(self, sort=column.key, descending=not column.left)

    def other_scope(self) -> View:
        """With rates, shares and times of the other scope."""
        scope = Scope.TOTAL if self.scope is Scope.INTERVAL else Scope.INTERVAL
        return replace(self, scope=scope)


@dataclass(frozen=True)
class Sheet:
    """Rows of one grouping, by `keys`; all arrays are of them, in their order."""

    frame: Frame
    grouping: Grouping
    scope: Scope
    keys: Ints
    counts: Groups  # since the start; what an outline has
    shown: Groups  # in the scope: what rates, shares and times are of
    time_ns: float  # service time of all rows in the scope
    calls_of_vms: Ints | None  # what the filter left, as CALLS of keys; None: no filter

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def seconds(self) -> float:
        """Length of the scope."""
        return self.frame.total_seconds if self.scope is Scope.TOTAL else self.frame.seconds

    def take(self, rows: Index) -> Sheet:
        """Only these rows, in this order; shares go on being of all."""
        return replace(
            self, keys=self.keys[rows], counts=self.counts.take(rows), shown=self.shown.take(rows)
        )

    @cached_property
    def vms(self) -> list[Vm | None]:
        """The VM of each row, None where a row is of several."""
        if not self.grouping.mask & VM_KEY:
            return [None] * len(self)
        return [self.frame.vms[number] for number in (self.keys >> np.uint64(VM_SHIFT)).tolist()]

    @cached_property
    def labels(self) -> list[str]:
        """Their names."""
        if not self.grouping.mask & VM_KEY:
            return ["all VMs"] * len(self)
        numbers = (self.keys >> np.uint64(VM_SHIFT)).tolist()
        return [self.frame.labels[number] for number in numbers]

    @property
    def codes(self) -> Index:
        """The call of each row; 0 where a row is of several."""
        return ((self.keys & CODE_KEY) >> np.uint64(CODE_SHIFT)).astype(np.intp)

    @cached_property
    def vcpus(self) -> list[int | None]:
        """KVM's number of each row's vCPU, None where it is not known or has ended."""
        return [self.frame.vcpus.get(key) for key in self.keys.tolist()]

    @cached_property
    def vcpu_counts(self) -> Floats:
        """Of how many vCPUs each row is: those of its VM, or of all VMs; NaN where not known."""
        if self.grouping is Grouping.VCPU:
            counts = np.ones(len(self))
        elif self.grouping.mask & VM_KEY:
            counts = np.array([vm.vcpus if vm else 0 for vm in self.vms], dtype=np.float64)
        else:
            counts = np.full(len(self), float(self.frame.vcpu_count))
        return np.where(counts > 0, counts, np.nan)

    def order(self, column: Column, descending: bool) -> Index:
        """Rows by a column. Those without a value come last either way, equal ones by name."""
        by_name = np.lexsort((self.codes, _ranks(self.labels)))
        values = column.value(self)[by_name]
        there = ~np.isnan(values)
        rows, values = by_name[there], values[there]
        order = np.argsort(-values if descending else values, kind="stable")
        return np.concatenate((rows[order], by_name[~there]))


def sheet(frame: Frame, view: View) -> Sheet:
    """The rows of `frame` that match the view's filter, grouped as it says."""
    chosen = _chosen(frame, view.filter)
    mask = view.grouping.mask
    kept = rows_of(frame.counts, frame, chosen)
    keys, labels = np.unique(frame.counts.keys[kept] & mask, return_inverse=True)
    of_counts = np.full(len(kept), -1)
    of_counts[kept] = labels
    part = view.scope.of(frame)
    of_part = np.where(rows_of(part, frame, chosen), find(keys, part.keys & mask), -1)
    shown = group(part, of_part, len(keys))
    return Sheet(
        frame=frame,
        grouping=view.grouping,
        scope=view.scope,
        keys=keys,
        counts=group(frame.counts, of_counts, len(keys), timed=False),
        shown=shown,
        time_ns=float(shown["sum_ns"].sum()),
        calls_of_vms=chosen,
    )


def rows_of(counted: Tally, frame: Frame, chosen: Ints | None) -> NDArray[np.bool_]:
    """Which rows of `counted` are of VMs that `frame` shows, and of the calls that are `chosen`."""
    shown = np.zeros(max(frame.vms, default=-1) + 2, bool)
    shown[list(frame.vms)] = True
    number = np.minimum(counted.keys >> np.uint64(VM_SHIFT), np.uint64(len(shown) - 1))
    kept: NDArray[np.bool_] = shown[number.astype(np.intp)]
    if chosen is not None:
        kept &= find(chosen, counted.keys & CALLS) >= 0
    return kept


def _chosen(frame: Frame, text: str) -> Ints | None:
    """The calls of VMs that match every word of `text`, ascending; None: all of them."""
    terms = text.lower().split()
    if not terms:
        return None
    calls = np.unique(frame.counts.keys & CALLS)
    for term in terms:
        code = ((calls & CODE_KEY) >> np.uint64(CODE_SHIFT)).astype(np.intp)
        vm = (calls >> np.uint64(VM_SHIFT)).tolist()
        of_vm = np.array([term in frame.labels.get(one, "").lower() for one in vm], bool)
        of_code = np.isin(code, [one for one in set(code.tolist()) if _is_call(one, term)])
        calls = calls[of_vm | of_code | (find(_with_status(frame.counts, term), calls) >= 0)]
    return calls


def _is_call(code: int, term: str) -> bool:
    """Whether a lower-case `term` is in the call's name or number."""
    texts = (codes.name_of(code), f"0x{code:04x}", f"0x{code:x}")
    return any(term in text.lower() for text in texts) or _number(term) == code


def _with_status(counted: Tally, term: str) -> Ints:
    """Calls of VMs that ended with a status whose name has `term` in it, ascending."""
    status = (counted.failures & np.uint64(0xFFFF)).astype(np.intp)
    meant = [one for one in set(status.tolist()) if term in statuses.name_of(one).lower()]
    rows = (counted.failures[np.isin(status, meant)] >> np.uint64(16)).astype(np.intp)
    if term in "success":
        failed = np.zeros(len(counted.keys), np.uint64)
        np.add.at(failed, (counted.failures >> np.uint64(16)).astype(np.intp), counted.failed)
        rows = np.append(rows, np.flatnonzero(counted.completed > failed))
    return np.unique(counted.keys[rows] & CALLS)


def _number(term: str) -> int | None:
    """A hex number however many zeros it has; None for anything else."""
    try:
        return int(term, 16) if term.startswith("0x") else None
    except ValueError:
        return None


def _ranks(names: Iterable[str]) -> Index:
    """The place of each name among all, in order."""
    names = [name.lower() for name in names]
    place = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([place[name] for name in names], dtype=np.intp)
