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
    "↑ ↓  PgUp PgDn": "move the cursor; it goes with its row, but for the first line (Home)",
    "Enter": "all of the row: latencies over time, statuses, sizes, vCPUs; or double-click",
    "1 2 3 4 5": "group by VM and call, VM, call, vCPU, host; g: the next one",
    "← →  < >": "sort by the column beside, or click its heading",
    "s": "the other direction, or click again",
    "/": "filter by VM, call, number or status as you type; Esc drops it",
    "c": "choose columns",
    "t": "rates, shares and times: of the last interval, or since the start",
    "p  space": "pause: the picture stands, counting goes on",
    "[  ]": "step back and forward through the last minutes; { } ten steps",
    "l": "slow calls, one by one; there < > change the limit, o is off",
    "+  -": "longer, shorter interval",
    "r": "reset: count from now",
    "S": "save a picture (SVG) in the current folder",
    "?": "this help",
    "q  Ctrl-C": "quit; in other screens q, Esc go back",
}

NOTES = (
    "calls, fail, unfin and xmm-out count since the start or the last reset. "
    "Times are of completed calls, and percentiles right to 12.5 %.\n",
    "Last line: programs attached; calls or events lost (below); cost: ns that the kernel takes "
    "for each call, and the share of a core for all of them; own: the share of a core that this "
    "view takes; interval; calls in flight, which are in no row yet.\n",
)


class Help(ModalScreen[None]):
    """Shown over the table until a key."""

    DEFAULT_CSS = """
    Help { align: center middle; background: transparent; }
    Help VerticalScroll { width: 78; max-height: 100%; height: auto;
                          border: round $foreground; background: $surface; padding: 0 1; }
    Help Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
    ]

    def compose(self) -> ComposeResult:
        """One text in a frame that scrolls."""
        with VerticalScroll() as frame:
            frame.border_title = "hvtrace top"
            frame.border_subtitle = "↑ ↓ scroll, Esc closes"
            yield Static(_table("Keys", KEYS))
            yield Static(_table("Columns", {c.key: c.about for c in COLUMNS}))
            for note in NOTES:
                yield Static(Text(note))
            yield Static(_table("Lost", LOSSES))

    def action_scroll(self, step: int) -> None:
        """A line down, or up."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)


def _table(title: str, entries: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(title, "bold underline"), "")
    for name, about in entries.items():
        table.add_row(Text(name, "bold"), about)
    table.add_row("", "")
    return table
