"""Which columns fit on a screen, and how wide each is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvtrace.top.columns import BY_KEY, CALL, COLUMNS, MINUTE, TRIP, VCPU, VM, Column
from hvtrace.top.sheet import Grouping

NAMES = (VM, VCPU, CALL)
"""Columns that say what a row is: they are always there, and as wide as there is room."""

MIN_WIDTH = {VM.key: 10, VCPU.key: 8, CALL.key: 16}
"""What names get for certain, where they are that long."""

MIN_NAME = 4  # the width of a column of names is never below that of its heading

# What a screen has room for, one step after the other: another column, or
# a column up to that width. Nine numbers are there at 80 columns.
_STEPS: tuple[str | tuple[Column, int], ...] = (
    *("/s", "calls", "vcpu%", "mean", TRIP.key, "max", "p99", "fail", "time"),
    (CALL, 20),
    *(MINUTE.key, "fast", "p50"),
    (VM, 16),
    *("xmm", "vmm", "unfin"),
    (CALL, 1000),
    "xmm-out",
    (VM, 24),
    *("code", "p999", "pid"),
    (VM, 1000),
    (MINUTE, 30),
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

    def beside(self, key: str, step: int) -> Column:
        """The column `step` places to the right, all around; the first where `key` is hidden."""
        shown = [column for column, _ in self.columns]
        keys = [column.key for column in shown]
        return shown[(keys.index(key) + step) % len(shown)] if key in keys else shown[0]


def fit(
    width: int,
    grouping: Grouping,
    names: Mapping[str, int],
    *,
    hidden: frozenset[str] = frozenset(),
    trips: bool = False,
) -> Layout:
    """The columns for a screen of `width`.

    `names` has the length of the longest name in each column of NAMES, by key. Columns in
    `hidden` are left out, and round trips are there only with `trips`.
    """
    needed = {c: max(MIN_NAME, names[c.key]) for c in NAMES if grouping in c.of}
    widths = {column: min(need, MIN_WIDTH[column.key]) for column, need in needed.items()}
    left = width - sum(widths.values()) - len(widths) + 1
    full = False
    for step in _steps(grouping, hidden, trips):
        if isinstance(step, Column):
            full = full or step.width + 1 > left
            if not full:
                widths[step] = step.width
                left -= step.width + 1
        elif step[0] in widths:
            column, wanted = step
            more = max(0, min(left, min(wanted, needed.get(column, wanted)) - widths[column]))
            widths[column] += more
            left -= more
    return Layout(tuple((column, widths[column]) for column in COLUMNS if column in widths))


def _steps(
    grouping: Grouping, hidden: frozenset[str], trips: bool
) -> Sequence[Column | tuple[Column, int]]:
    """Those that this table can have."""
    left_out = hidden if trips else hidden | {TRIP.key}
    steps = [BY_KEY[step] if isinstance(step, str) else step for step in _STEPS]
    return [
        step
        for step in steps
        if not isinstance(step, Column) or (grouping in step.of and step.key not in left_out)
    ]
