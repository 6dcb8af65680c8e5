"""Single calls that took long."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Static

from hvtrace.stats import text
from hvtrace.stats.slow import SlowCall
from hvtrace.top.desk import Desk
from hvtrace.top.keyline import Key
from hvtrace.top.lines import ALARM
from hvtrace.top.screens.pane import ALWAYS, Pane
from hvtrace.top.slowlines import SlowLines, beside
from hvtrace.top.textpane import SCROLLBAR, TextPane

SetSlow = Callable[[int], None]
"""Has the kernel take another limit, in ns; 0: none."""

KEYS = (
    Key("escape", "Esc", "Back"),
    Key("s", "s", "Newest or slowest first"),
    Key("greater_than_sign", "<>", "Limit"),
    Key("o", "o", "Off"),
    *ALWAYS,
)


class SlowPane(Pane):
    """Those above the limit, the newest first or the slowest."""

    DEFAULT_CSS = """
    SlowPane .slow-limit { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,enter,q,l", "back"),
        ("s", "turn"),
        ("less_than_sign,left", "limit(-1)"),
        ("greater_than_sign,right", "limit(1)"),
        ("o", "off"),
    ]

    def __init__(self, desk: Desk, set_slow: SetSlow) -> None:
        super().__init__(desk)
        self._set_slow = set_slow
        self._limit = Static(classes="slow-limit")
        self._pane = TextPane()
        self._slowest = False

    def body(self) -> list[Widget]:
        """The limit, and the calls."""
        return [self._limit, self._pane]

    def on_mount(self) -> None:
        """Keys are for the calls."""
        self._pane.focus()

    def keys(self) -> tuple[Key, ...]:
        """Those of this screen."""
        return KEYS

    def draw(self) -> None:
        """The calls up to the frame that is shown."""
        state = self.desk.state
        until = state.frame.time if state.paused and state.frame else float("inf")
        calls = [one for one in self.desk.history.slow if one.start <= until]
        self._limit.update(self._heading(len(calls)), layout=False)
        if not calls:
            self._pane.show([Text(), Text(self._nothing())])
            return
        if self._slowest:
            calls.sort(key=lambda one: -one.duration_ns)
        else:
            calls.sort(key=lambda one: -one.start)
        lines = SlowLines(calls, self.room.width - SCROLLBAR, self._label)
        self._pane.show_each(len(calls), lines.line, lines.heading)

    def _label(self, call: SlowCall) -> str:
        """As in the table: with the pid where others have the same."""
        frame = self.desk.state.newest
        for number, vm in frame.vms.items() if frame else ():
            if vm.identity == call.vm.identity and frame:
                return frame.labels[number]
        return text.printable(call.vm.name)

    def _heading(self, count: int) -> Text:
        state = self.desk.state
        order = "slowest first" if self._slowest else "newest first"
        if state.recording is not None:
            line = Text(f"slow calls of the recording: {count:,}, {order}")
        elif state.slow_ns:
            line = Text(f"calls of {text.duration(state.slow_ns)} or longer", "bold")
            line.append(f": {count:,}, {order}", "none")
        else:
            line = Text("off: > sets a limit", "bold").append(
                f"; {count:,} from before, {order}" if count else "", "none"
            )
        lost = state.newest.lost.no_event if state.newest else 0
        if lost:
            line.append("  ").append(f" {lost:,} NOT LISTED ", ALARM)
        return line

    def _nothing(self) -> str:
        state = self.desk.state
        if state.recording is not None:
            return "The recording has none so far: they are in it where --slow was given."
        if not state.slow_ns:
            return "No call is looked at by itself. > sets a limit of 1 ms; < and > change it."
        return "No call has taken that long so far."

    def action_turn(self) -> None:
        """The other order."""
        self._slowest = not self._slowest
        self.show()

    def action_limit(self, step: int) -> None:
        """A longer limit (1), or a shorter one (-1)."""
        self._choose(beside(self.desk.state.slow_ns, step))

    def action_off(self) -> None:
        """No limit: calls are not looked at one by one."""
        self._choose(0)

    def _choose(self, limit_ns: int) -> None:
        if self.desk.state.recording is None:
            self._set_slow(limit_ns)
            self.desk.limit(limit_ns)
