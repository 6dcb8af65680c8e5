"""The table of calls. Only the lines on the screen are drawn, however many there are."""

from __future__ import annotations

import textwrap
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from hvtrace.stats.text import short_names
from hvtrace.top.columns import CALL, VCPU, VM, Column
from hvtrace.top.layout import Layout, fit
from hvtrace.top.past import Sparks
from hvtrace.top.rows import Rows
from hvtrace.top.scrolling import Scrolling
from hvtrace.top.sheet import Grouping, View
from hvtrace.top.window import Window, fitted

NO_NAMES = {VM.key: 0, VCPU.key: 0, CALL.key: 0}


class CallTable(Scrolling, inherit_bindings=False):
    """Rows under headings; the heading in use has an arrow, a row has the cursor.

    The cursor goes with its row wherever the order takes it; in the first line, where it is
    at first, it stays.
    """

    DEFAULT_CSS = """
    CallTable .call-table--heading { text-style: bold underline; }
    CallTable .call-table--sorted { text-style: bold reverse; }
    CallTable .call-table--vm { color: ansi_cyan; }
    CallTable .call-table--call { text-style: bold; }
    CallTable .call-table--number { text-style: none; }
    CallTable .call-table--minute { color: ansi_green; }
    CallTable .call-table--nothing { text-style: dim; }
    CallTable .call-table--idle { text-style: dim; }
    CallTable .call-table--ended { text-style: dim italic; }
    CallTable .call-table--alarm { color: ansi_red; text-style: bold underline; }
    CallTable .call-table--cursor { text-style: reverse; }
    CallTable .call-table--note { text-style: none; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"call-table--{name}"
        for name in (
            *("heading", "sorted", "vm", "call", "number", "minute", "nothing"),
            *("idle", "ended", "alarm", "cursor", "note"),
        )
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "first", show=False),
        Binding("end", "last", show=False),
    ]

    class SortWanted(Message):
        """The user asks to sort by `column`."""

        def __init__(self, column: Column) -> None:
            super().__init__()
            self.column = column

    class Chosen(Message):
        """The user wants to see all of the row under the cursor."""

    class Arranged(Message):
        """Another width has made room for other columns."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: Rows | None = None
        self._view = View()
        self._note = ""
        self._sparks: Sparks | None = None
        self._grouping: Grouping | None = None
        self._place = 0
        self._key: int | None = None  # of the row that the cursor goes with
        self._window: Window | None = None
        self._width = 0  # that these columns are for
        self._layout_of_columns = fit(80, Grouping.CALL_OF_VM, NO_NAMES)
        self._names: dict[int, str] = {}
        self._styles: dict[str, Style] = {}

    @property
    def columns(self) -> Layout:
        """The columns on the screen now."""
        return self._layout_of_columns

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._rows) if self._rows else 0

    @property
    def chosen(self) -> int | None:
        """The key of the row under the cursor."""
        return self._rows.key(self._place) if self._rows else None

    def show(self, rows: Rows | None, view: View, sparks: Sparks, note: str) -> None:
        """Draw `rows`, sorted as `view` says; `note` where there are none."""
        was_seen = 0 <= self._place - self.scroll_offset.y < self._height
        self._rows, self._view, self._sparks, self._note = rows, view, sparks, note
        self.set_count(1 + self.count)
        self._follow()
        if was_seen:
            self._reveal()
        self._arrange()

    def select(self, key: int) -> None:
        """Put the cursor on a row, if it is there."""
        place = self._rows.place(key) if self._rows else None
        if place is not None:
            self._go(place)

    @property
    def _height(self) -> int:
        """Lines for rows."""
        return max(1, self.scrollable_content_region.height - 1)

    def _follow(self) -> None:
        """The cursor goes with its row; where that has vanished, it stays where it is."""
        if self._grouping != self._view.grouping:
            self._grouping, self._key = self._view.grouping, None
        if self._key is None:
            self._place = 0
            return
        place = self._rows.place(self._key) if self._rows else None
        self._place = min(self._place, max(0, self.count - 1)) if place is None else place
        if place is None and self._rows:
            self._key = self._rows.key(self._place)

    def _go(self, place: int) -> None:
        self._place = max(0, min(place, self.count - 1))
        self._key = self._rows.key(self._place) if self._rows else None
        self._reveal()
        self.refresh()

    def _reveal(self) -> None:
        """Scroll as little as shows the cursor."""
        top = self.scroll_offset.y
        wanted = min(max(top, self._place - self._height + 1), self._place)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, immediate=True)

    def action_move(self, step: int) -> None:
        """Some rows down (or up)."""
        self._go(self._place + step)

    def action_page(self, step: int) -> None:
        """A screen down (or up)."""
        self._go(self._place + step * self._height)

    def action_first(self) -> None:
        """The first line: the cursor stays there, whichever row it is."""
        self._go(0)
        self._key = None

    def action_last(self) -> None:
        """The last row."""
        self._go(self.count - 1)

    def on_resize(self, event: events.Resize) -> None:
        """Another width has room for other columns."""
        self._reveal()
        if self.scrollable_content_region.width != self._width:  # all else is drawn already
            self._arrange()
            self.post_message(self.Arranged())

    def _arrange(self) -> None:
        rows, view = self._rows, self._view
        self._width = self.scrollable_content_region.width
        self._layout_of_columns = fit(
            self._width,
            view.grouping,
            rows.names if rows else NO_NAMES,
            hidden=view.hidden,
            trips=bool(rows and rows.sheet.counts["trips"].any()),
        )
        width = dict(self._layout_of_columns.columns).get(CALL, 0)
        self._names = short_names(rows.codes, width) if rows else {}
        self._window = None
        self._styles = {}
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A heading was clicked, or a row, perhaps twice."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        place = self.scroll_offset.y + offset.y - 1
        if offset.y == 0:
            column = self._layout_of_columns.at(offset.x)
            if column is not None:
                self.post_message(self.SortWanted(column))
        elif place < self.count:
            self._go(place)
            if event.chain == 2:
                self.post_message(self.Chosen())

    def render_line(self, y: int) -> Strip:
        """Line `y` of the screen; the headings stay on the first."""
        width = self.scrollable_content_region.width
        fill = self.rich_style
        number = self.scroll_offset.y + y - 1
        segments: list[Segment] = []
        if y == 0:
            segments, fill = self._headings(), self._style("heading")
        elif not self.count:
            segments = self._note_line(y, width)
        elif number < self.count:
            segments = self._row(number)
            fill = self._style("cursor") if number == self._place else fill
        return Strip([*segments]).adjust_cell_length(width, fill)

    def _headings(self) -> list[Segment]:
        segments: list[Segment] = []
        plain = self._style("heading")
        for i, (column, width) in enumerate(self._layout_of_columns.columns):
            in_use = column.key == self._view.sort
            arrow = ("▼" if self._view.descending else "▲") if in_use else " "
            style = self._style("sorted") if in_use else plain
            gap = " " if i else ""
            if column.left:
                text = f"{column.key}{arrow}"[:width].ljust(width)
                segments += [Segment(gap, plain), Segment(text, style)]
            else:
                # The arrow stands in the space before a number's column: it costs no room.
                segments.append(Segment(f"{arrow}{column.key}".rjust(width + len(gap)), style))
        return segments

    def _row(self, number: int) -> list[Segment]:
        window = self._window
        if window is None or not 0 <= number - window.first < len(window.ended):
            assert self._rows is not None
            assert self._sparks is not None
            first = self.scroll_offset.y
            shown = self._rows.sheet.take(self._rows.order[first : first + self._height + 1])
            window = self._window = Window.of(
                shown, first, self._layout_of_columns, self._names, self._sparks
            )
        segments: list[Segment] = []
        cursor = self._style("cursor") if number == self._place else Style.null()
        i = number - window.first
        for at, (column, width) in enumerate(self._layout_of_columns.columns):
            text = window.cells[column.key][i]
            style = self._style(window.look(column, i)) + cursor
            segments.append(Segment(" " if at else "", cursor))
            cell = fitted(text, width, column.left)
            # Underlined is the number, not the space before it.
            blank = len(cell) - len(cell.lstrip())
            segments += [Segment(cell[:blank], cursor), Segment(cell[blank:], style)]
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
        style = self._styles.get(name)
        if style is None:
            style = self._styles[name] = self.get_component_rich_style(f"call-table--{name}")
        return style
