"""The table of calls. Only the lines on the screen are drawn, however many there are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hvtrace.stats.text import short_names
from hvtrace.top.columns import CALL, VM, Column, Shown
from hvtrace.top.layout import Layout, fit
from hvtrace.top.view import View


class CallTable(ScrollView, can_focus=True, inherit_bindings=False):
    """Rows under headings; the heading in use has an arrow. A click on one asks to sort by it."""

    DEFAULT_CSS = """
    CallTable { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    CallTable .call-table--heading { background: $panel; color: $text-muted; }
    CallTable .call-table--sorted { background: $primary; color: $text; text-style: bold; }
    CallTable .call-table--vm { color: $text-accent; }
    CallTable .call-table--call { text-style: bold; }
    CallTable .call-table--number { color: $text; }
    CallTable .call-table--nothing { color: $text-disabled; }
    CallTable .call-table--idle { color: $text-muted; }
    CallTable .call-table--ended { color: $text-disabled; text-style: italic; }
    CallTable .call-table--alarm { color: red; text-style: bold; }
    CallTable .call-table--note { color: $text-muted; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"call-table--{name}"
        for name in (
            *("heading", "sorted", "vm", "call", "number", "nothing"),
            *("idle", "ended", "alarm", "note"),
        )
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", show=False),
        Binding("down,j", "scroll_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("home", "scroll_home", show=False),
        Binding("end", "scroll_end", show=False),
    ]

    class SortWanted(Message):
        """The user asks to sort by `column`."""

        def __init__(self, column: Column) -> None:
            super().__init__()
            self.column = column

    class Arranged(Message):
        """Another width has made room for other columns."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[Shown] = ()
        self._view = View()
        self._note = ""
        self._name_widths = (VM.width, CALL.width)
        self._layout_of_columns = fit(80, 0, 0)
        self._names: dict[int, str] = {}

    @property
    def columns(self) -> Layout:
        """The columns on the screen now."""
        return self._layout_of_columns

    def show(
        self, rows: Sequence[Shown], view: View, name_widths: tuple[int, int], note: str
    ) -> None:
        """Draw `rows`, sorted as `view` says; `note` where there are none.

        `name_widths` are those of the longest names of VMs and calls, also
        of rows that a filter hides: columns should not move while it is typed.
        """
        self._rows, self._view, self._note = rows, view, note
        self._name_widths = name_widths
        self.virtual_size = Size(0, 1 + len(rows))
        self._arrange()

    def on_resize(self, event: events.Resize) -> None:
        """Another width has room for other columns."""
        self._arrange()
        self.post_message(self.Arranged())

    def _arrange(self) -> None:
        self._layout_of_columns = fit(
            self.scrollable_content_region.width,
            *self._name_widths,
            trips=any(row.total.total.trips is not None for row in self._rows[:1]),
        )
        width = dict(self._layout_of_columns.columns)[CALL]
        self._names = short_names({row.code for row in self._rows}, width)
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A heading was clicked, perhaps."""
        offset = event.get_content_offset(self)
        if offset is not None and offset.y == 0:
            column = self._layout_of_columns.at(offset.x)
            if column is not None:
                self.post_message(self.SortWanted(column))

    def render_line(self, y: int) -> Strip:
        """Line `y` of the screen; the headings stay on the first."""
        width = self.scrollable_content_region.width
        if y == 0:
            segments = self._headings()
            fill = self._style("heading")
        else:
            fill = self.rich_style
            number = self.scroll_offset.y + y - 1
            segments = self._row(self._rows[number]) if number < len(self._rows) else []
            if not self._rows:
                segments = self._note_line(y, width)
        return Strip([*segments]).adjust_cell_length(width, fill)

    def _headings(self) -> list[Segment]:
        segments: list[Segment] = []
        for column, width in self._layout_of_columns.columns:
            in_use = column == self._view.column
            arrow = ("▼" if self._view.descending else "▲") if in_use else " "
            style = self._style("sorted" if in_use else "heading")
            gap = "" if column == VM else " "
            if column.left:
                text = f"{column.key}{arrow}"[:width].ljust(width)
                segments += [Segment(gap, self._style("heading")), Segment(text, style)]
            else:
                # The arrow stands in the space before a number's column: it costs no room.
                segments.append(Segment(f"{arrow}{column.key}".rjust(width + 1), style))
        return segments

    def _row(self, row: Shown) -> list[Segment]:
        segments: list[Segment] = []
        for column, width in self._layout_of_columns.columns:
            text = self._names[row.code] if column == CALL else column.show(row)
            style = self._style(_look(column, row, text))
            gap = "" if column == VM else " "
            segments.append(Segment(gap + _cell(text, width, column.left), style))
        return segments

    def _note_line(self, y: int, width: int) -> list[Segment]:
        lines = [
            line
            for paragraph in self._note.splitlines()
            for line in textwrap.wrap(paragraph, max(20, width - 4)) or [""]
        ]
        if not 2 <= y < 2 + len(lines):
            return []
        return [Segment(f"  {lines[y - 2]}", self._style("note"))]

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"call-table--{name}")


def _look(column: Column, row: Shown, text: str) -> str:
    """Which of the table's styles a cell has."""
    if row.line and column.alarm and column.alarm(row.line):
        return "alarm"
    if row.vm.ended:
        return "ended"
    if text == "-":
        return "nothing"
    if row.line is None:
        return "idle"
    return column.key if column in (VM, CALL) else "number"


def _cell(text: str, width: int, left: bool) -> str:
    """`text` in exactly `width` columns; where too long, without its middle."""
    if cell_len(text) > width:
        # Names of many VMs differ at their end: "instance-00000012".
        tail = (width - 1) // 2
        text = set_cell_size(text, width - tail - 1) + "…" + text[len(text) - tail :]
    if left or cell_len(text) > width:
        return set_cell_size(text, width)
    return " " * (width - cell_len(text)) + text
