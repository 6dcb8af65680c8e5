"""From successive snapshots to what a live view can show. Pure.

A frame is immutable: a view that pauses just keeps the one it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from hvtrace.stats.snapshot import Lost, Snapshot, Vm, delta, empty
from hvtrace.stats.table import Line, lines
from hvtrace.stats.text import printable

KEEP_ENDED_SECONDS = 15.0
"""How long a VM that has ended is still shown, in one frame at least."""

Identity = tuple[int, int, int | None]


class Scope(Enum):
    """What rates, shares and times are of. Counts are always since the start."""

    INTERVAL = "last"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, and what all rows together did in it."""

    seconds: float = 0.0
    calls: int = 0
    time_ns: int = 0  # service time of completed calls


@dataclass(frozen=True, slots=True)
class Row:
    """One call of one VM, all its variants together."""

    label: str  # of the VM: its name, with the pid where others have the same
    total: Line  # since the start, or the last reset
    last: Line | None  # in the last interval; None: not called in it

    @property
    def vm(self) -> Vm:
        """Who called."""
        return self.total.total.vm


@dataclass(frozen=True, slots=True)
class Frame:
    """All that one picture can show."""

    time: float  # unix seconds
    rows: tuple[Row, ...]
    total: Span
    last: Span | None  # None until the first interval is over
    lost: Lost  # since the first snapshot, or the last reset
    in_flight: int

    def span(self, scope: Scope) -> Span:
        """The stretch that the rates of `scope` are of; an empty one where there is none yet."""
        return self.total if scope is Scope.TOTAL else self.last or Span()

    @property
    def vms(self) -> int:
        """How many VMs have made a call and are still there."""
        return len({row.vm.identity for row in self.rows if not row.vm.ended})


class Model:
    """Turns snapshots of one source, each rolled up, into frames.

    `reset` may be called by another thread than `feed`.
    """

    def __init__(self) -> None:
        self._base: Snapshot | None = None
        self._latest: Snapshot | None = None
        self._reset = False
        self._ended_ns: dict[Identity, int] = {}  # when first seen so

    def feed(self, snapshot: Snapshot) -> Frame:
        """The frame of a new snapshot."""
        before, self._latest = self._latest, snapshot
        if self._base is None:
            # Its counters began at zero: totals are those of the source, not a call less. But
            # what is lost by then (completions of calls that were open while attaching) is no loss.
            self._base = replace(
                empty(),
                monotonic_ns=snapshot.monotonic_ns,
                lost=Lost(orphans=snapshot.lost.orphans),
            )
        if self._reset:
            self._reset = False
            self._base, before = snapshot, None
        return _frame(self._base, before, snapshot, self._gone(snapshot))

    def reset(self) -> None:
        """Count from the next snapshot on."""
        self._reset = True

    def _gone(self, now: Snapshot) -> set[Identity]:
        """VMs that are not to be shown any more."""
        ended = {vm.identity for vm in now.vms if vm.ended}
        self._ended_ns = {vm: self._ended_ns.get(vm, now.monotonic_ns) for vm in ended}
        limit = now.monotonic_ns - KEEP_ENDED_SECONDS * 1e9
        return {vm for vm, since in self._ended_ns.items() if since < limit}


def _frame(base: Snapshot, before: Snapshot | None, now: Snapshot, gone: set[Identity]) -> Frame:
    since = delta(base, now)
    total = _lines(since, gone)
    last = [] if before is None else _lines(delta(before, now), gone)
    found = {_key(line): line for line in last}
    labels = _labels({line.total.vm for line in total})
    return Frame(
        time=now.time,
        rows=tuple(
            Row(labels[line.total.vm.identity], line, found.get(_key(line))) for line in total
        ),
        total=_span(base, now, total),
        last=None if before is None else _span(before, now, last),
        lost=since.lost,
        in_flight=now.in_flight,
    )


def _lines(counted: Snapshot, gone: set[Identity]) -> list[Line]:
    return [line for line in lines(counted) if line.total.vm.identity not in gone]


def _labels(vms: set[Vm]) -> dict[Identity, str]:
    uses = Counter(vm.name for vm in vms)
    return {
        vm.identity: printable(vm.name if uses[vm.name] == 1 else f"{vm.name}/{vm.pid}")
        for vm in vms
    }


def _key(line: Line) -> tuple[Identity, int]:
    return line.total.vm.identity, line.total.code


def _span(start: Snapshot, end: Snapshot, found: Sequence[Line]) -> Span:
    return Span(
        seconds=(end.monotonic_ns - start.monotonic_ns) / 1e9,
        calls=sum(line.total.calls for line in found),
        time_ns=sum(line.time_ns for line in found),
    )
