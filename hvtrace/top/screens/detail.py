"""All that is known of one row, and it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widget import Widget

from hvtrace.top.desk import Desk
from hvtrace.top.detail import Detail, detail
from hvtrace.top.keyline import Key
from hvtrace.top.lines import MODE
from hvtrace.top.model import Frame
from hvtrace.top.panes import detail_lines
from hvtrace.top.screens.pane import ALWAYS, Pane
from hvtrace.top.textpane import SCROLLBAR, TextPane

KEYS = (
    Key("escape", "Esc", "Back"),
    Key("n", "n", "Next row"),
    Key("N", "N", "Previous row"),
    Key("down", "↑↓", "Scroll"),
    Key("t", "t", "Total"),
    *ALWAYS,
)


class DetailPane(Pane):
    """The row with a key, frame after frame. Where it is gone, its last numbers stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,enter,q", "back"),
        ("n,tab", "beside(1)"),
        ("N,shift+tab", "beside(-1)"),
    ]

    def __init__(self, desk: Desk, key: int, select: Callable[[int], None]) -> None:
        super().__init__(desk)
        self.key = key
        self._select = select
        self._pane = TextPane()
        self._detail: Detail | None = None
        self._of: tuple[object, int] | None = None
        self._seen: Frame | None = None
        self._place = 0

    def body(self) -> list[Widget]:
        """Lines that scroll."""
        return [self._pane]

    def on_mount(self) -> None:
        """Keys are for the lines."""
        self._pane.focus()

    def keys(self) -> tuple[Key, ...]:
        """Those of this screen."""
        return KEYS

    def draw(self) -> None:
        """The row as it is in the frame, or as it was."""
        rows = self.desk.rows
        place = rows.place(self.key) if rows else None
        if rows and place is not None:
            self._place = place
            if self._of is None or self._of[0] is not rows.sheet or self._of[1] != self.key:
                self._detail = detail(rows.sheet, int(rows.order[place]), self.desk.history)
                self._of, self._seen = (rows.sheet, self.key), rows.sheet.frame
        if self._detail is not None:
            gone = place is None
            lines = detail_lines(self._detail, self.room.width - SCROLLBAR, self.room.height - gone)
            self._pane.show([*self._gone(), *lines] if gone else lines)

    def _gone(self) -> Sequence[Text]:
        assert self._seen is not None
        when = time.strftime("%H:%M:%S", time.localtime(self._seen.time))
        return [Text(f" GONE: not in the table at this moment; this was at {when} ", MODE)]

    def action_beside(self, step: int) -> None:
        """The next row of the table (1), or the one before (-1)."""
        rows = self.desk.rows
        if rows:
            place = rows.place(self.key)
            place = min(self._place, len(rows)) - (step > 0) if place is None else place
            self.key = rows.key(max(0, min(place + step, len(rows) - 1)))
            self._select(self.key)
            self._pane.scroll_home(animate=False, immediate=True)
            self.show()
