"""The help screen: every key, every column."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from hvtrace.stats.table import LOSSES
from hvtrace.top.columns import COLUMNS

KEYS = {
    "← →  < >": "sort by the column beside, or click its heading",
    "s": "the other direction, or click again",
    "/": "filter by VM, call, number or status as you type; Esc drops it",
    "p  space": "pause: the picture stands, counting goes on",
    "t": "rates, shares and times: of the last interval, or since the start",
    "+  -": "longer, shorter interval",
    "r": "reset: count from now",
    "S": "save a picture (SVG) in the current folder",
    "↑ ↓  PgUp PgDn": "move",
    "?": "this help",
    "q  Ctrl-C": "quit",
}


class Help(ModalScreen[None]):
    """Shown over the table until a key."""

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help VerticalScroll { width: 76; max-height: 100%; height: auto;
                          border: round $primary; background: $surface; padding: 0 1; }
    Help Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close"),
    ]

    def compose(self) -> ComposeResult:
        """One text in a frame that scrolls."""
        with VerticalScroll() as frame:
            frame.border_title = "hvtrace top"
            frame.border_subtitle = "Esc closes"
            yield Static(_table("Keys", KEYS))
            yield Static(_table("Columns", {c.key: c.about for c in COLUMNS}))
            yield Static(
                Text(
                    "calls, fail, unfin and xmm-out count since the start or the last reset. "
                    "Times are of completed calls, and percentiles right to 12.5 %.\n",
                    "dim",
                )
            )
            yield Static(_table("Lost", LOSSES))


def _table(title: str, entries: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(title, "bold underline"), "")
    for name, about in entries.items():
        table.add_row(Text(name, "bold"), about)
    table.add_row("", "")
    return table
