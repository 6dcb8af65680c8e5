"""The help screen: every key, every column."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from textwrap import wrap
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from hvtrace.stats.table import LOSSES
from hvtrace.top.columns import COLUMNS
from hvtrace.top.textpane import TextPane

WIDTH = 73  # of 80, within a frame and beside a scroll bar

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
    "Times are of completed calls, and percentiles right to 12.5 %.",
    "Last line: programs attached; calls or events lost (below); cost: ns that the kernel takes "
    "for each call, and the share of a core for all of them; own: the share of a core that this "
    "view takes; interval; calls in flight, which are in no row yet.",
)


class Help(ModalScreen[None]):
    """Shown over the table until a key."""

    DEFAULT_CSS = f"""
    Help {{ align: center middle; background: transparent; }}
    Help TextPane {{ width: {WIDTH + 5}; max-height: 100%; border: round $foreground;
                     background: $surface; padding: 0 1; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close"),
    ]

    def compose(self) -> ComposeResult:
        """One text in a frame that scrolls."""
        yield TextPane()

    def on_mount(self) -> None:
        """What it says is always the same."""
        pane, lines = self.query_one(TextPane), help_lines()
        pane.border_title = "hvtrace top"
        pane.border_subtitle = "↑ ↓ scroll, Esc closes"
        pane.styles.height = len(lines) + 2
        pane.show(lines)


@cache
def help_lines() -> tuple[Text, ...]:
    """All of it, in lines of `WIDTH` columns at most."""
    notes = (Text(line) for note in NOTES for line in (*wrap(note, WIDTH), ""))
    return (
        *_table("Keys", KEYS),
        *_table("Columns", {column.key: column.about for column in COLUMNS}),
        *notes,
        *_table("Lost", LOSSES),
    )


def _table(title: str, entries: dict[str, str]) -> Iterator[Text]:
    label = 2 + max(map(len, entries))
    yield Text(title, "bold underline")
    for name, about in entries.items():
        first, *more = wrap(about, WIDTH - label)
        yield Text().append(name.ljust(label), "bold").append(first)
        yield from (Text(" " * label + line) for line in more)
    yield Text()
