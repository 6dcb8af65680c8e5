"""Which columns are wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from hvtrace.top.columns import COLUMNS, Column
from hvtrace.top.desk import Desk
from hvtrace.top.layout import NAMES

CHOICE = tuple(column for column in COLUMNS if column not in NAMES)
"""Columns that can be left out: those that say what a row is cannot."""


class Chooser(ModalScreen[None]):
    """A list of columns over the table; those with a mark are shown where there is room."""

    DEFAULT_CSS = """
    Chooser { align: center middle; background: transparent; }
    Chooser OptionList, Chooser OptionList:focus {
        width: 84; max-width: 100%; height: auto; max-height: 100%; border: round $foreground;
        background: $surface; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis;
    }
    Chooser OptionList > .option-list--option-highlighted { text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,c", "dismiss", "Close"),
        Binding("space", "turn", "Show or hide"),
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._list = OptionList(*(Option(self._line(column)) for column in CHOICE))

    def compose(self) -> ComposeResult:
        """Only the list."""
        self._list.border_title = "Columns"
        self._list.border_subtitle = "space shows or hides, Esc closes"
        yield self._list

    def _line(self, column: Column) -> Text:
        mark = " " if column.key in self._desk.state.view.hidden else "x"
        line = Text(f"[{mark}] ", no_wrap=True, overflow="ellipsis")
        return line.append(f"{column.key:8}", "bold").append(column.about)

    def action_turn(self) -> None:
        """Show what is hidden, hide what is shown."""
        at = self._list.highlighted
        if at is not None:
            column = CHOICE[at]
            view = self._desk.state.view
            self._desk.look(replace(view, hidden=view.hidden ^ {column.key}))
            self._list.replace_option_prompt_at_index(at, self._line(column))

    @on(OptionList.OptionSelected)
    def selected(self) -> None:
        """Enter, or a click."""
        self.action_turn()

    def action_cursor_down(self) -> None:
        """The next column."""
        self._list.action_cursor_down()

    def action_cursor_up(self) -> None:
        """The column before."""
        self._list.action_cursor_up()
