"""The live view: keys of all its screens, and the thread that feeds them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.events import Event, Key
from textual.message import Message

from hvtrace.errors import HvtraceError
from hvtrace.stats.snapshot import Snapshot, Source
from hvtrace.top import settings
from hvtrace.top.desk import Desk
from hvtrace.top.driver import LastingDriver
from hvtrace.top.filterfield import FilterField
from hvtrace.top.lines import State
from hvtrace.top.model import Frame, Model
from hvtrace.top.picture import standalone
from hvtrace.top.sampler import Open, Sampler
from hvtrace.top.screens.help import Help
from hvtrace.top.screens.pane import Pane
from hvtrace.top.screens.table import TablePane
from hvtrace.top.settings import Settings
from hvtrace.top.sheet import Grouping, View

KEEP_SECONDS = 1.0
"""How long after a change of the settings they are written: not with every key."""


class TopApp(App[None]):
    """Calls of all VMs, at an interval. `failure` says why it ended, where not by a key."""

    TITLE = "hvtrace top"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        ("p,space", "pause"),
        ("left_square_bracket", "step(-1)"),
        ("right_square_bracket", "step(1)"),
        ("left_curly_bracket", "step(-10)"),
        ("right_curly_bracket", "step(10)"),
        ("t", "scope"),
        ("plus,equals_sign", "interval(1)"),
        ("minus", "interval(-1)"),
        ("r", "reset"),
        ("S", "picture"),
        ("question_mark", "help"),
        ("q", "quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
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

    class Ended(Message):
        """The recording is over; what is to be said of its end."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Failed(Message):
        """There will be no more frames, and nothing to look at."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(
        self,
        open_source: Open,
        interval_seconds: float | None = None,
        *,
        slow_ns: int = 0,
        recording: str | None = None,
        settings_file: Path | None = None,
    ) -> None:
        # The terminal's own colours: right on dark and light ones, and where there are only 16.
        super().__init__(driver_class=LastingDriver, ansi_color=True)
        self.theme = "ansi-dark"
        self.animation_level = "none"
        self.failure: Exception | None = None
        self._settings_file = settings_file
        self._kept, self._complaint = settings.load(settings_file)
        interval = self._kept.interval_seconds if interval_seconds is None else interval_seconds
        self._interval_is_kept = interval_seconds is None
        view = self._kept.view
        if recording is not None and view.grouping is Grouping.VCPU:
            view = View()  # it does not say which vCPU made a call
        state = State(
            view=view,
            interval_seconds=interval,
            recording=recording,
            slow_ns=slow_ns,
        )
        self.desk = Desk(state)
        self.desk.on_change = self._changed
        self._keeping = False
        self._is_idle = True  # the last frame is on the screen
        self._model = Model()
        self._sampler = Sampler(
            open_source,
            interval,
            on_say=lambda text: self._tell(self.Said(text)),
            on_open=self._opened,
            on_snapshot=self._feed,
            on_end=lambda text: self._tell(self.Ended(text)),
            on_error=lambda error: self._tell(self.Failed(error)),
            is_ready=lambda: self._is_idle,
        )

    def get_default_screen(self) -> TablePane:
        """The table."""
        return TablePane(self.desk, self._set_slow)

    def on_mount(self) -> None:
        """Start sampling; end on signals as on a key."""
        if self._complaint:
            self.notify(self._complaint, severity="warning", timeout=10)
        if not self.is_headless:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self.exit)
        self._sampler.start()

    async def on_event(self, event: Event) -> None:
        """Keys of the table act one after another, even where many come at once (a slow ssh).

        Textual hands a key to what has the focus, and gets it back where that has no use for it:
        letters that came together with "/" were lost, and keys after Enter went into the filter.
        """
        if isinstance(event, Key) and not event.is_forwarded and isinstance(self.screen, TablePane):
            if isinstance(self.focused, FilterField) and event.is_printable:
                return await self.focused.on_event(event)
            bound = self.screen.active_bindings.get(event.key)
            if bound is not None:
                await self.run_action(bound.binding.action, bound.node)
                return None
        return await super().on_event(event)

    async def on_unmount(self) -> None:
        """Detach before the terminal is given back."""
        if self._keeping:
            settings.store(self._settings_file, self._kept)
        await asyncio.to_thread(self._sampler.stop)

    # In the sampler's thread.

    def _tell(self, message: Message) -> None:
        self.post_message(message)

    def _opened(self, source: Source) -> None:
        self._tell(self.Opened(source.kernel, getattr(source, "probes", None)))

    def _feed(self, parts: Iterator[Snapshot]) -> None:
        self._is_idle = False
        self._tell(self.Arrived(self._model.feed(parts, process_time())))

    # What it says.

    def on_top_app_opened(self, message: Opened) -> None:
        """Attached."""
        self.desk.opened(message.kernel, message.probes)

    def on_top_app_said(self, message: Said) -> None:
        """Shown as long as there are no rows."""
        self.desk.say(message.text)

    def on_top_app_arrived(self, message: Arrived) -> None:
        """Every screen that can be seen shows it."""
        self.desk.arrived(message.frame)
        self._is_idle = True

    def on_top_app_ended(self, message: Ended) -> None:
        """The last frame stays."""
        self.desk.ended(message.text)

    def on_top_app_failed(self, message: Failed) -> None:
        """End; `run` says why."""
        self.failure = message.error
        self.exit(return_code=1)

    # What the user does.

    def action_scope(self) -> None:
        """Of the last interval, or since the start."""
        self.desk.look(self.desk.state.view.other_scope())

    def action_pause(self) -> None:
        """Freeze the picture, or go on with the present."""
        self.desk.pause()

    def action_step(self, steps: int) -> None:
        """Forward, or back through the last minutes."""
        self.desk.step(steps)

    def action_reset(self) -> None:
        """Count from now on."""
        self._model.reset()
        self._sampler.hurry()

    def action_interval(self, step: int) -> None:
        """The next longer (1) or shorter (-1) interval."""
        self._interval_is_kept = True
        self._sampler.set_interval(self.desk.next_interval(step))

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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a filter is typed, keys are letters."""
        typing = isinstance(self.focused, FilterField)
        return not typing or action in ("quit", "suspend_process")

    def _set_slow(self, limit_ns: int) -> None:
        def change(source: Source) -> None:
            set_slow = getattr(source, "set_slow", None)
            if set_slow is not None:
                set_slow(limit_ns)

        self._sampler.order(change)

    def _changed(self) -> None:
        """The screen in front is drawn anew; those behind it are when they come to the front."""
        panes = [screen for screen in self.screen_stack if isinstance(screen, Pane)]
        if panes:
            panes[-1].show()
        self._keep()

    def _keep(self) -> None:
        """See to it that the settings are written, where they have changed."""
        state = self.desk.state
        interval = state.interval_seconds if self._interval_is_kept else self._kept.interval_seconds
        now = Settings(replace(state.view, filter=""), interval)
        if now == self._kept or self._settings_file is None:
            return
        self._kept = now
        if not self._keeping:
            self._keeping = True
            self.set_timer(KEEP_SECONDS, self._store)

    def _store(self) -> None:
        self._keeping = False
        problem = settings.store(self._settings_file, self._kept)
        if problem:
            self._settings_file = None
            self.notify(f"settings are not kept: {problem}", severity="warning")


def run(
    open_source: Open,
    interval_seconds: float | None,
    *,
    mouse: bool = True,
    slow_ns: int = 0,
    recording: str | None = None,
) -> int:
    """Show the live view until the user ends it; the exit status.

    `interval_seconds` is None where the user said nothing. `slow_ns` is the limit that
    `open_source` asks slow calls for, 0: none; `recording` names what is replayed. Raises
    HvtraceError where there is no terminal, or where the source says why it ended.
    """
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if os.environ.get("TERM") == "dumb" or not all(s is not None and s.isatty() for s in streams):
        raise HvtraceError("top needs a terminal; without one: hvtrace top --batch")
    if any(s is not None and s.encoding.lower() != "utf-8" for s in streams):
        raise HvtraceError("top needs UTF-8: set LC_ALL=C.UTF-8, or use hvtrace top --batch")
    app = TopApp(
        open_source,
        interval_seconds,
        slow_ns=slow_ns,
        recording=recording,
        settings_file=settings.place(os.environ),
    )
    app.run(mouse=mouse)
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0
