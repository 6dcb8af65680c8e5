"""The rows on the screen as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size

from hvtrace.top.columns import CALL, MINUTE, VM, Column
from hvtrace.top.draw import sparkline
from hvtrace.top.layout import Layout
from hvtrace.top.past import Sparks
from hvtrace.top.sheet import Sheet


@dataclass(frozen=True, slots=True)
class Window:
    """Some rows that follow one another, from the `first` place of the order on."""

    first: int
    cells: dict[str, list[str]]  # by key of the column
    alarms: dict[str, NDArray[np.bool_]]
    ended: list[bool]
    idle: list[bool]

    @classmethod
    def of(
        cls, rows: Sheet, first: int, layout: Layout, names: Mapping[int, str], sparks: Sparks
    ) -> Window:
        """What the columns of `layout` say of `rows`; `names` are those of calls, by code."""
        columns = dict(layout.columns)
        cells = {column.key: column.texts(rows) for column in columns if column is not MINUTE}
        if CALL in columns:
            cells[CALL.key] = [names[code] for code in rows.codes.tolist()]
        if width := columns.get(MINUTE):
            rates = sparks.rates(rows, width)
            cells[MINUTE.key] = [sparkline(row.tolist(), width) for row in rates]
        return cls(
            first=first,
            cells=cells,
            alarms={c.key: c.alarm(rows.shown) > 0 for c in columns if c.alarm},
            ended=[bool(vm and vm.ended) for vm in rows.vms],
            idle=(rows.shown.calls == 0).tolist(),
        )

    def look(self, column: Column, row: int) -> str:
        """Which of the table's styles a cell has."""
        if column.key in self.alarms and self.alarms[column.key][row]:
            return "alarm"
        if self.ended[row]:
            return "ended"
        if self.cells[column.key][row] == "-":
            return "nothing"
        if column is MINUTE:
            return "minute"
        if self.idle[row]:
            return "idle"
        return column.key if column in (VM, CALL) else "number"


def fitted(text: str, width: int, left: bool) -> str:
    """`text` in exactly `width` columns; where too long, without its middle."""
    if cell_len(text) > width:
        # Names of many VMs differ at their end: "instance-00000012".
        tail = (width - 1) // 2
        text = set_cell_size(text, width - tail - 1) + "…" + text[len(text) - tail :]
    if left or cell_len(text) > width:
        return set_cell_size(text, width)
    return " " * (width - cell_len(text)) + text
