"""Lines of text that scroll. Only those on the screen are drawn, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.strip import Strip

from hvtrace.top.scrolling import Scrolling

SCROLLBAR = 1
"""Columns at the right that it keeps free of text."""


class TextPane(Scrolling, inherit_bindings=False):
    """A heading, which stays, and lines below it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", show=False),
        Binding("down,j", "scroll_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("home", "scroll_home", show=False),
        Binding("end", "scroll_end", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._heading: Text | None = None
        self._count = 0
        self._line: Callable[[int], Text] = lambda number: Text()

    def show(self, lines: Sequence[Text], heading: Text | None = None) -> None:
        """Draw `lines`."""
        self.show_each(len(lines), lines.__getitem__, heading)

    def show_each(
        self, count: int, line: Callable[[int], Text], heading: Text | None = None
    ) -> None:
        """Draw `count` lines; `line` makes those that are on the screen."""
        self._count, self._line, self._heading = count, line, heading
        self.set_count(count + (heading is not None))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Line `y` of the screen."""
        width = self.scrollable_content_region.width
        number = self.scroll_offset.y + y
        text = Text()
        if self._heading is not None:
            number -= 1
        if self._heading is not None and y == 0:
            text = self._heading
        elif number < self._count:
            text = self._line(number)
        console = self.app.console
        # Rich leaves the style of a whole text out where no part has one of its own.
        segments = Segment.apply_style(text.render(console), console.get_style(text.style))
        return Strip(segments).apply_style(self.rich_style).adjust_cell_length(width)
