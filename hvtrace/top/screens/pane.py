"""What all screens share that show frames: the lines that are always true, above and below."""

from __future__ import annotations

from dataclasses import replace

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from hvtrace.top import lines
from hvtrace.top.desk import Desk
from hvtrace.top.keyline import Key, KeyLine

ALWAYS = (
    Key("p", "p", "Pause"),
    Key("left_square_bracket", "[]", "Step"),
    Key("question_mark", "?", "Help"),
)
"""Keys of all these screens."""


class Pane(Screen[None]):
    """Summary, body, status, keys: from top to bottom. `draw` is for the body."""

    DEFAULT_CSS = """
    Pane .summary { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Pane .status { height: auto; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    ALLOW_SELECT = False

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self._summary = Static(classes="summary")
        self._status = Static(classes="status")
        self._keyline = KeyLine()
        self.room = Size(0, 0)  # for the body: known before anything is laid out
        self._drawn_for = Size(0, 0)

    def compose(self) -> ComposeResult:
        """All of it."""
        yield self._summary
        yield from self.body()
        yield self._status
        yield self._keyline

    def body(self) -> list[Widget]:
        """What is between summary and status."""
        raise NotImplementedError

    def keys(self) -> tuple[Key, ...]:
        """What the last line says."""
        raise NotImplementedError

    def draw(self) -> None:
        """Draw the body anew, from what the desk has."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        """What changed meanwhile is seen."""
        self.show()

    def on_resize(self, event: events.Resize) -> None:
        """There is room for more, or for less."""
        if event.size != self._drawn_for:
            self.call_after_refresh(self.show)

    def show(self) -> None:
        """Draw all of it anew."""
        if not self._status.is_attached:
            return  # a frame that comes while the app ends
        rows, size = self.desk.rows, self.app.size
        state = replace(
            self.desk.state, shown=len(rows) if rows else 0, sort_hidden=self.sort_hidden
        )
        status = lines.status(state, size.width)
        self.room, self._drawn_for = Size(size.width, size.height - 2 - len(status)), size
        self.draw()
        if self.sort_hidden != state.sort_hidden:
            status = lines.status(replace(state, sort_hidden=self.sort_hidden), size.width)
        self._summary.update(lines.summary(state), layout=False)
        # Its height changes only where notes come or go.
        grown = len(status) != self._status.size.height
        self._status.update(Text("\n").join(status), layout=grown)
        self.show_keys()

    def show_keys(self) -> None:
        """Draw the last line anew."""
        self._keyline.show(self.keys())

    def action_back(self) -> None:
        """To the screen behind, which does not show for a moment what it was."""
        behind = self.app.screen_stack[-2]
        if isinstance(behind, Pane):
            behind.show()
        self.dismiss()

    @property
    def sort_hidden(self) -> bool:
        """Whether the table is sorted by a column that is not on the screen."""
        return False
