"""Where a filter is typed: a line that is there only while it is used."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
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

    def __init__(self) -> None:
        super().__init__(placeholder="VM, call, number or status", select_on_focus=False)
        self.display = False

    def open(self) -> None:
        """Begin typing; what was kept is there to be changed."""
        self.display = True
        self.focus()

    def on_blur(self) -> None:
        """Typing has ended."""
        self.display = False

    def action_drop(self) -> None:
        """Empty it, and end typing."""
        self.value = ""
        self.post_message(self.Submitted(self, ""))
