"""Where a filter is typed: a line that is there only while it is used."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input


class FilterField(Input):
    """Enter keeps the filter, Escape drops it; both end typing."""

    DEFAULT_CSS = """
    FilterField, FilterField:focus { height: 1; border: none; padding: 0 1; background: $boost; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep"),
        Binding("escape", "drop", "Drop"),
    ]

    def __init__(self, back: Widget) -> None:
        """`back` is for whom keys are when typing has ended."""
        super().__init__(placeholder="VM, call, number or status", select_on_focus=False)
        self.display = False
        self.cursor_blink = False  # nothing is written while nothing happens
        self._back = back

    # The focus moves at once: who calls Widget.focus() has it later, and keys may come sooner.

    def open(self) -> None:
        """Begin typing; what was kept is there to be changed."""
        self.display = True
        self.screen.set_focus(self)

    async def action_submit(self) -> None:
        """End typing."""
        self.screen.set_focus(self._back)
        await super().action_submit()

    async def action_drop(self) -> None:
        """Empty it, and end typing."""
        self.value = ""
        await self.action_submit()

    def on_blur(self) -> None:
        """Typing has ended."""
        self.display = False
