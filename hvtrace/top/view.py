"""How a frame is looked at: scope, order and filter. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.cells import cell_len

from hvtrace.stats.table import Line
from hvtrace.top.columns import CALL, RATE, VM, Column, Shown, Value, call_text, vm_text
from hvtrace.top.model import Frame, Row, Scope


@dataclass(frozen=True, slots=True)
class View:
    """What the user has chosen. Methods give a changed copy."""

    scope: Scope = Scope.INTERVAL
    column: Column = RATE  # to sort by
    descending: bool = True
    filter: str = ""

    def sorted_by(self, column: Column) -> View:
        """By another column, in its usual direction; by the same one, the other way round."""
        if column == self.column:
            return replace(self, descending=not self.descending)
        return replace(self, column=column, descending=not column.upwards)

    def other_scope(self) -> View:
        """With rates, shares and times of the other scope."""
        scope = Scope.TOTAL if self.scope is Scope.INTERVAL else Scope.INTERVAL
        return replace(self, scope=scope)

    def rows(self, frame: Frame) -> list[Shown]:
        """The rows of `frame` that match the filter, in order.

        Those without a value to sort by come last in either direction, equal
        ones in the order of VM and call name.
        """
        span = frame.span(self.scope)
        terms = self.filter.lower().split()
        shown = [
            Shown(row.vm, row.label, row.total, self._line(row), span)
            for row in frame.rows
            if all(_matches(row, term) for term in terms)
        ]
        shown.sort(key=lambda row: (row.label, row.vm.pid, row.total.total.name))
        keyed: list[tuple[Value, Shown]] = [(self.column.value(row), row) for row in shown]
        there = [pair for pair in keyed if pair[0] is not None]
        there.sort(key=lambda pair: pair[0], reverse=self.descending)  # type: ignore[arg-type,return-value]
        return [row for _, row in there] + [row for value, row in keyed if value is None]

    def _line(self, row: Row) -> Line | None:
        return row.total if self.scope is Scope.TOTAL else row.last


def name_widths(frame: Frame | None) -> tuple[int, int]:
    """Width of the longest VM and call name in `frame`, on the screen."""
    rows = frame.rows if frame else ()
    vms = {row.vm.identity: vm_text(row.vm, row.label) for row in rows}
    calls = {call_text(code) for code in {row.total.total.code for row in rows}}
    return (
        max((cell_len(name) for name in vms.values()), default=VM.width),
        max((len(name) for name in calls), default=CALL.width),
    )


def _matches(row: Row, term: str) -> bool:
    """Whether a lower-case `term` is in the VM's name, the call's name or number, or a status."""
    call = row.total.total
    texts = (row.label, call.name, f"0x{call.code:04x}", f"0x{call.code:x}", *call.statuses)
    return any(term in text.lower() for text in texts) or _number(term) == call.code


def _number(term: str) -> int | None:
    """A hex number however many zeros it has; None for anything else."""
    try:
        return int(term, 16) if term.startswith("0x") else None
    except ValueError:
        return None
