"""The table: the screen that one looks at all day."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from hvtrace.top.calltable import CallTable
from hvtrace.top.columns import BY_KEY
from hvtrace.top.desk import Desk
from hvtrace.top.filterfield import FilterField
from hvtrace.top.keyline import Key
from hvtrace.top.screens.columns import Chooser
from hvtrace.top.screens.detail import DetailPane
from hvtrace.top.screens.pane import ALWAYS, Pane
from hvtrace.top.screens.slow import SetSlow, SlowPane
from hvtrace.top.sheet import Grouping

GROUPINGS = tuple(Grouping)

KEYS = (
    Key("enter", "⏎", "Detail"),
    Key("slash", "/", "Filter"),
    Key("right", "←→", "Sort"),
    Key("g", "g", "Group"),
    Key("c", "c", "Cols"),
    Key("l", "l", "Slow"),
    *ALWAYS,
    Key("q", "q", "Quit"),
)
TYPING = (Key("enter", "⏎", "keeps the filter"), Key("escape", "Esc", "drops it"))


class TablePane(Pane):
    """Rows, and the line where a filter is typed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("enter", "detail"),
        ("slash", "filter"),
        ("left,less_than_sign", "beside(-1)"),
        ("right,greater_than_sign", "beside(1)"),
        ("s", "turn"),
        ("g", "group"),
        *((str(i + 1), f"group({i})") for i in range(len(GROUPINGS))),
        ("c", "columns"),
        ("l", "slow"),
        ("escape", "drop_filter"),
    ]

    def __init__(self, desk: Desk, set_slow: SetSlow) -> None:
        super().__init__(desk)
        self._set_slow = set_slow
        self._table = CallTable()
        self._filter = FilterField(back=self._table)

    def body(self) -> list[Widget]:
        """The table, and the filter."""
        return [self._table, self._filter]

    def on_mount(self) -> None:
        """Keys are for the table."""
        self.set_focus(self._table)

    def keys(self) -> tuple[Key, ...]:
        """Those of the table, or of the filter that is typed."""
        return TYPING if isinstance(self.focused, FilterField) else KEYS

    def draw(self) -> None:
        """The rows of the frame."""
        self._table.show(self.desk.rows, self.desk.state.view, self.desk.sparks, self._note())

    @property
    def sort_hidden(self) -> bool:
        """Whether the column sorted by has no room, or is not wanted."""
        shown = {column.key for column, _ in self._table.columns.columns}
        return self.desk.state.view.sort not in shown

    def _note(self) -> str:
        """What to say where there is no row."""
        state = self.desk.state
        if not state.kernel:
            now = "Attaching to the kernel: compiling and loading the probes..."
            if state.recording is not None:
                now = "Opening the recording..."
        elif state.frame and len(state.frame.counts.keys) and state.view.filter.strip():
            now = "No call matches the filter; Esc drops it."
        elif state.recording is not None:
            now = "No VM has made a hypercall so far."
        else:
            now = "No VM makes hypercalls now; one that does appears here."
        return "\n".join((now, *self.desk.said))

    @on(CallTable.Arranged)
    def arranged(self) -> None:
        """The column sorted by is on the screen now, or is not any more."""
        self.show()

    @on(CallTable.SortWanted)
    def sort(self, message: CallTable.SortWanted) -> None:
        """Sort by a column, or turn it round."""
        self.desk.look(self.desk.state.view.sorted_by(message.column))

    def action_beside(self, step: int) -> None:
        """Sort by the column `step` places to the right of the one in use."""
        view = self.desk.state.view
        self.desk.look(view.sorted_by(self._table.columns.beside(view.sort, step)))

    def action_turn(self) -> None:
        """The other direction."""
        view = self.desk.state.view
        self.desk.look(replace(view, descending=not view.descending))

    def action_group(self, number: int | None = None) -> None:
        """Add up by something else: the next grouping, or one by its number."""
        state = self.desk.state
        among = [one for one in GROUPINGS if one is not Grouping.VCPU or not state.recording]
        if number is None:
            grouping = among[(among.index(state.view.grouping) + 1) % len(among)]
        else:
            grouping = GROUPINGS[number]
        if grouping not in among:
            self.notify("a recording does not say which vCPU made a call", severity="warning")
            return
        view = replace(state.view, grouping=grouping)
        if grouping not in BY_KEY[view.sort].of:
            view = replace(view, sort="/s", descending=True)
        self.desk.look(view)

    def action_filter(self) -> None:
        """Type a filter."""
        self._filter.open()
        self.show_keys()

    async def action_drop_filter(self) -> None:
        """All rows again."""
        await self._filter.action_drop()

    @on(FilterField.Changed)
    def filter_changed(self, message: FilterField.Changed) -> None:
        """Filter as it is typed."""
        self.desk.look(replace(self.desk.state.view, filter=message.value))

    @on(FilterField.Submitted)
    def filter_done(self) -> None:
        """Its keys are the table's again."""
        self.show_keys()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a filter is typed, keys are letters."""
        return not isinstance(self.focused, FilterField)

    @on(CallTable.Chosen)
    def action_detail(self) -> None:
        """All of one row."""
        key = self._table.chosen
        if key is not None:
            self.app.push_screen(DetailPane(self.desk, key, self._table.select))

    def action_columns(self) -> None:
        """Which columns there are."""
        self.app.push_screen(Chooser(self.desk))

    def action_slow(self) -> None:
        """Single calls."""
        self.app.push_screen(SlowPane(self.desk, self._set_slow))
