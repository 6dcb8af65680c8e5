"""What the user looks at, and what there is to look at. Pure: no widget, no thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hvtrace.top.history import History
from hvtrace.top.lines import State
from hvtrace.top.model import Frame
from hvtrace.top.past import Sparks
from hvtrace.top.rows import Arranger, Rows
from hvtrace.top.sheet import Scope, View

INTERVALS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds, for the keys + and -."""


class Desk:
    """The state of the live view. Every change of it is told to `on_change`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.history = History()
        self.sparks = Sparks(self.history)
        self.said: list[str] = []  # on the progress of opening the source
        self.on_change: Callable[[], None] = lambda: None
        self._arranger = Arranger()

    @property
    def rows(self) -> Rows | None:
        """The rows of the frame that is shown; None where there is none yet."""
        state = self.state
        return self._arranger.rows(state.frame, state.view) if state.frame else None

    def say(self, line: str) -> None:
        """A line on the progress of opening."""
        self.said.append(line)
        self.on_change()

    def opened(self, kernel: str, probes: int | None) -> None:
        """Attached."""
        self._set(replace(self.state, kernel=kernel, probes=probes))

    def arrived(self, frame: Frame) -> None:
        """A new frame. A paused view keeps the one it has, but nothing of before a reset."""
        self.history.append(frame)
        state = replace(self.state, newest=frame)
        if not state.paused or state.frame is None or frame.counted is None:
            state = replace(state, frame=frame)
        self._set(state)

    def ended(self, words: str) -> None:
        """There will be no more frames."""
        self._set(replace(self.state, end=words))

    def look(self, view: View) -> None:
        """Another grouping, order, filter..."""
        frame = self.state.frame
        if frame and view.scope is Scope.TOTAL:
            frame = self.history.whole(frame)
        self._set(replace(self.state, view=view, frame=frame))

    def pause(self) -> None:
        """Hold the picture, or go on with the present."""
        state = self.state
        frame = state.newest if state.paused else state.frame
        self._set(replace(state, paused=not state.paused, frame=frame))

    def step(self, steps: int) -> None:
        """Some moments forward, or (negative) back; the newest is the present."""
        state, history = self.state, self.history
        if state.frame is None:
            return
        whole = state.view.scope is Scope.TOTAL
        if steps < 0:
            frame, paused = history.before(state.frame, -steps, whole=whole), True
        else:
            frame = history.after(state.frame, steps, whole=whole)
            paused = frame is not state.newest
        self._set(replace(state, frame=frame, paused=paused))

    def next_interval(self, step: int) -> float:
        """Choose the next longer (1) or shorter (-1) interval, in seconds."""
        now = self.state.interval_seconds
        longer = [seconds for seconds in INTERVALS if seconds > now]
        shorter = [seconds for seconds in INTERVALS if seconds < now]
        seconds = (longer[:1] if step > 0 else shorter[-1:]) or [now]
        self._set(replace(self.state, interval_seconds=seconds[0]))
        return seconds[0]

    def limit(self, slow_ns: int) -> None:
        """Another limit of slow calls; 0: none are listed."""
        self._set(replace(self.state, slow_ns=slow_ns))

    def _set(self, state: State) -> None:
        self.state = state
        self.on_change()
