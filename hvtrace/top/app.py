"""The live view: widgets, keys, and the thread that feeds them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Footer, Static

from hvtrace.errors import HvtraceError
from hvtrace.stats.snapshot import Snapshot, Source
from hvtrace.top import lines
from hvtrace.top.calltable import CallTable
from hvtrace.top.filterfield import FilterField
from hvtrace.top.help import Help
from hvtrace.top.model import Frame, Model
from hvtrace.top.picture import standalone
from hvtrace.top.sampler import Open, Sampler
from hvtrace.top.view import View, name_widths

INTERVALS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds, for the keys + and -."""


class TopApp(App[None]):
    """Calls of all VMs, at an interval. `failure` says why it ended, where not by a key."""

    TITLE = "hvtrace top"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS = """
    #summary, #status { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #summary { background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False, priority=True),
        Binding("p,space", "pause", "Pause", key_display="p"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("left,less_than_sign", "beside(-1)", "Sort", key_display="←→"),
        Binding("right,greater_than_sign", "beside(1)", "Sort", show=False),
        Binding("s", "turn", "Turn"),
        Binding("t", "scope", "Total"),
        Binding("plus,equals_sign", "interval(1)", "Interval", key_display="+-"),
        Binding("minus", "interval(-1)", "Shorter", show=False),
        Binding("r", "reset", "Reset"),
        Binding("S", "picture", "Picture", show=False),
        Binding("escape", "drop_filter", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    class Opened(Message):
        """The source is open."""

        def __init__(self, kernel: str, probes: int | None) -> None:
            super().__init__()
            self.kernel, self.probes = kernel, probes

    class Said(Message):
        """A line on the progress of opening it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Arrived(Message):
        """A new frame."""

        def __init__(self, frame: Frame) -> None:
            super().__init__()
            self.frame = frame

    class Failed(Message):
        """There will be no more frames."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(self, open_source: Open, interval_seconds: float = 1.0) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.animation_level = "none"
        self.state = lines.State(interval_seconds=interval_seconds)
        self._said: list[str] = []
        self._summary, self._table = Static(id="summary"), CallTable()
        self._filter, self._status = FilterField(), Static(id="status")
        self._model = Model()
        self._sampler = Sampler(
            open_source,
            interval_seconds,
            on_say=lambda text: self._tell(self.Said(text)),
            on_open=self._opened,
            on_snapshot=self._feed,
            on_error=lambda error: self._tell(self.Failed(error)),
        )

    def compose(self) -> ComposeResult:
        """Summary, table, filter, status, keys: from top to bottom."""
        yield from (self._summary, self._table, self._filter, self._status)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Start sampling; end on signals as on a key."""
        self._draw()
        self._table.focus()
        if not self.is_headless:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.exit)
        self._sampler.start()

    async def on_unmount(self) -> None:
        """Detach before the terminal is given back."""
        await asyncio.to_thread(self._sampler.stop)

    # In the sampler's thread.

    def _tell(self, message: Message) -> None:
        self.post_message(message)

    def _opened(self, source: Source) -> None:
        self._tell(self.Opened(source.kernel, getattr(source, "probes", None)))

    def _feed(self, snapshot: Snapshot) -> None:
        self._tell(self.Arrived(self._model.feed(snapshot)))

    # What it says.

    def on_top_app_opened(self, message: Opened) -> None:
        """Attached."""
        self.state = replace(self.state, kernel=message.kernel, probes=message.probes)
        self._draw()

    def on_top_app_said(self, message: Said) -> None:
        """Shown as long as there are no rows."""
        self._said.append(message.text)
        self._draw()

    def on_top_app_arrived(self, message: Arrived) -> None:
        """A paused view keeps the frame it has."""
        if not self.state.paused:
            self.state = replace(self.state, frame=message.frame)
            self._draw()

    def on_top_app_failed(self, message: Failed) -> None:
        """End; `run` says why."""
        self.failure = message.error
        self.exit(return_code=1)

    # What the user does.

    @on(CallTable.Arranged)
    def arranged(self) -> None:
        """The column sorted by is on the screen now, or is not any more."""
        self._draw()

    @on(CallTable.SortWanted)
    def sort(self, message: CallTable.SortWanted) -> None:
        """Sort by a column, or turn it round."""
        self._look(self.state.view.sorted_by(message.column))

    def action_beside(self, step: int) -> None:
        """Sort by the column `step` places to the right of the one in use."""
        view = self.state.view
        self._look(view.sorted_by(self._table.columns.beside(view.column, step)))

    def action_turn(self) -> None:
        """The other direction."""
        self._look(self.state.view.sorted_by(self.state.view.column))

    def action_scope(self) -> None:
        """Of the last interval, or since the start."""
        self._look(self.state.view.other_scope())

    def action_pause(self) -> None:
        """Freeze the picture, or go on with the present."""
        self.state = replace(self.state, paused=not self.state.paused)
        self._draw()

    def action_reset(self) -> None:
        """Count from now on."""
        self._model.reset()
        self._sampler.hurry()

    def action_interval(self, step: int) -> None:
        """The next longer (1) or shorter (-1) interval."""
        now = self.state.interval_seconds
        longer = [seconds for seconds in INTERVALS if seconds > now]
        shorter = [seconds for seconds in INTERVALS if seconds < now]
        seconds = (longer[:1] if step > 0 else shorter[-1:]) or [now]
        self.state = replace(self.state, interval_seconds=seconds[0])
        self._sampler.set_interval(seconds[0])
        self._draw()

    def action_filter(self) -> None:
        """Type a filter."""
        self._filter.open()

    def action_drop_filter(self) -> None:
        """All rows again."""
        self._filter.action_drop()

    @on(FilterField.Changed)
    def filter_changed(self, message: FilterField.Changed) -> None:
        """Filter as it is typed."""
        self._look(replace(self.state.view, filter=message.value))

    @on(FilterField.Submitted)
    def filter_done(self) -> None:
        """Back to the table."""
        self._table.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a filter is typed, keys are letters."""
        typing = isinstance(self.focused, FilterField)
        return not typing or action in ("quit", "suspend_process")

    def action_help(self) -> None:
        """Keys and columns."""
        self.push_screen(Help())

    def action_picture(self) -> None:
        """Save what is on the screen."""
        path = Path(time.strftime("hvtrace-top-%Y%m%d-%H%M%S.svg"))
        try:
            path.write_text(standalone(self.export_screenshot()), encoding="utf-8")
        except OSError as error:
            self.notify(f"cannot write {path}: {error.strerror}", severity="error")
        else:
            self.notify(f"saved {path}", timeout=3)

    def _look(self, view: View) -> None:
        self.state = replace(self.state, view=view)
        self._draw()

    def _draw(self) -> None:
        if not self._table.is_attached:
            return  # a frame that comes while the app ends
        state = self.state
        rows = state.view.rows(state.frame) if state.frame else []
        self._table.show(rows, state.view, name_widths(state.frame), self._note())
        hidden = state.view.column not in dict(self._table.columns.columns)
        self.state = replace(state, shown=len(rows), sort_hidden=hidden)
        self._summary.update(lines.summary(self.state), layout=False)
        self._status.update(lines.status(self.state), layout=False)

    def _note(self) -> str:
        """What to say where there is no row."""
        state = self.state
        if not state.kernel:
            now = "Attaching to the kernel: compiling and loading the probes..."
        elif state.frame and state.frame.rows:
            now = "No call matches the filter; Esc drops it."
        else:
            now = "No VM makes hypercalls now; one that does appears here."
        return "\n".join((now, *self._said))


def run(
    open_source: Open,
    interval_seconds: float,
    *,
    mouse: bool = True,
    slow_ns: int = 0,
    recording: str | None = None,
) -> int:
    """Show the live view until the user ends it; the exit status.

    `slow_ns` is the limit that `open_source` asks slow calls for, 0: none; `recording` names
    what is replayed. Raises HvtraceError where there is no terminal, or where the source says why
    it ended.
    """
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if os.environ.get("TERM") == "dumb" or not all(s is not None and s.isatty() for s in streams):
        raise HvtraceError("top needs a terminal; without one: hvtrace top --batch")
    app = TopApp(open_source, interval_seconds)
    app.run(mouse=mouse)
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0
