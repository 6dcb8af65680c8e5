"""Which columns fit on a screen, and how wide each is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.top.columns import BY_KEY, CALL, COLUMNS, TRIP, VM, Column

MIN_WIDTH = {VM.key: 10, CALL.key: 16}
"""What names get for certain, where they are that long."""

# What a screen has room for, one step after the other: another column, or
# names up to that width. Nine are there at 80 columns.
_STEPS: tuple[str | tuple[Column, int], ...] = (
    *("/s", "calls", "time", "mean", TRIP.key, "max", "p99", "fail", "fast", "xmm"),
    (CALL, 20),
    *("vmm", "p50", "unfin", "xmm-out"),
    (CALL, 1000),
    (VM, 24),
    *("code", "p999", "pid"),
    (VM, 1000),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit, from left to right with one space between, and their widths."""

    columns: tuple[tuple[Column, int], ...]

    def at(self, x: int) -> Column | None:
        """The column at `x` (0 is the left edge); the space before a column belongs to it."""
        end = -1
        for column, width in self.columns:
            end += 1 + width
            if x < end:
                return column
        return None

    def beside(self, column: Column, step: int) -> Column:
        """The column `step` places to the right, all around; the first where `column` is hidden."""
        shown = [other for other, _ in self.columns]
        if column not in shown:
            return shown[0]
        return shown[(shown.index(column) + step) % len(shown)]


def fit(width: int, vm_width: int, call_width: int, *, trips: bool = False) -> Layout:
    """The columns for a screen of `width`; the longest names need `vm_width` and `call_width`.

    With `trips`, round trips are among them.
    """
    needed = {VM: vm_width, CALL: call_width}
    widths = {column: min(need, MIN_WIDTH[column.key]) for column, need in needed.items()}
    left = width - sum(widths.values()) - 1
    full = False
    for step in _STEPS:
        if isinstance(step, tuple):
            column, wanted = step
            more = max(0, min(left, min(wanted, needed[column]) - widths[column]))
            widths[column] += more
            left -= more
        elif not full and (trips or step != TRIP.key):
            column = BY_KEY[step]
            full = column.width + 1 > left
            if not full:
                widths[column] = column.width
                left -= column.width + 1
    return Layout(tuple((column, widths[column]) for column in COLUMNS if column in widths))
