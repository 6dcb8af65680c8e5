"""A sheet in its order, worked out anew only where that is needed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len

from hvtrace.stats import text
from hvtrace.stats.tally import CODE_KEY, CODE_SHIFT, Index, find
from hvtrace.top.columns import BY_KEY, CALL, NEW, VCPU, VM
from hvtrace.top.model import Frame
from hvtrace.top.sheet import Sheet, View, sheet


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a frame, as a view wants them."""

    sheet: Sheet
    order: Index  # rows of the sheet, the first on the screen first
    codes: frozenset[int]  # calls of the frame, also of rows that the filter hides
    names: dict[str, int]  # the longest name in each column of names, likewise

    def __len__(self) -> int:
        return len(self.order)

    def key(self, place: int) -> int:
        """The key of the row at `place` of the order."""
        return int(self.sheet.keys[self.order[place]])

    def place(self, key: int) -> int | None:
        """Where the row with this key is in the order; None: nowhere."""
        row = find(self.sheet.keys, np.array([key], np.uint64))[0]
        return int(np.flatnonzero(self.order == row)[0]) if row >= 0 else None


class Arranger:
    """Makes Rows, and keeps the last ones: another order needs no new sums."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._sheet: Sheet | None = None
        self._frame: Frame | None = None
        self._codes: frozenset[int] = frozenset()
        self._names: dict[str, int] = {}
        self._rows: tuple[object, Rows] | None = None

    def rows(self, frame: Frame, view: View) -> Rows:
        """The rows of `frame` that match the view, in its order."""
        if frame is not self._frame:
            self._codes, self._names = _names(frame)
        of = view.grouping, view.filter, view.scope
        if frame is not self._frame or self._of != of or self._sheet is None:
            self._sheet, self._frame, self._of, self._rows = sheet(frame, view), frame, of, None
        order = view.sort, view.descending
        if self._rows is None or self._rows[0] != order:
            column = BY_KEY[view.sort]
            if view.grouping not in column.of:
                column = BY_KEY["/s"]
            places = self._sheet.order(column, view.descending)
            self._rows = order, Rows(self._sheet, places, self._codes, self._names)
        return self._rows[1]


def _names(frame: Frame) -> tuple[frozenset[int], dict[str, int]]:
    """The frame's calls, and the lengths of its longest names."""
    found = np.unique((frame.counts.keys & CODE_KEY) >> np.uint64(CODE_SHIFT)).tolist()
    names = text.short_names(found, 1000)
    vms = max(map(cell_len, frame.labels.values()), default=0) + len(NEW)
    return frozenset(found), {
        VM.key: max(vms, len("all VMs")),
        VCPU.key: VCPU.width,
        CALL.key: max(map(len, names.values()), default=0),
    }
