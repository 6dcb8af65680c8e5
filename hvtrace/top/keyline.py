"""The last line: the keys of a screen. A click is as good as a key.

Textual's Footer has a widget for each key: a fifth of a second to open a screen.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.text import Text
from textual import events
from textual.widgets import Static


class Key(NamedTuple):
    """A key, by Textual's name of it, and what stands for it."""

    name: str
    shown: str
    words: str


class KeyLine(Static):
    """Keys and what they do, as many as there is room for."""

    DEFAULT_CSS = "KeyLine { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }"

    def __init__(self) -> None:
        super().__init__()
        self._keys: tuple[Key, ...] = ()

    def show(self, keys: tuple[Key, ...]) -> None:
        """Draw `keys`."""
        if keys != self._keys:
            self._keys = keys
            line = Text(no_wrap=True, overflow="ellipsis")
            for key in keys:
                line.append(key.shown, "bold").append(f" {key.words} ")
            self.update(line, layout=False)

    def on_click(self, event: events.Click) -> None:
        """As if the key were pressed."""
        end = 0
        for key in self._keys:
            end += len(key.shown) + len(key.words) + 2
            if event.x < end:
                self.app.simulate_key(key.name)
                return
