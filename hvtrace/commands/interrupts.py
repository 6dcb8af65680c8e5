"""Waiting that a signal ends: Ctrl-C asks a running command for its result, not for its death."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While entered, SIGINT and SIGTERM end `wait` and nothing else.

    For the main thread. Signals arrive through a pipe (Python's wake-up
    descriptor), so none is lost between two calls of `wait`. With `at_once`
    they end the block itself, wherever it is: for what waits in a read.
    """

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once

    def __enter__(self) -> Interrupts:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        handler = signal.default_int_handler if self._at_once else _nothing
        self._handlers: dict[int, Any] = {
            number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)
        return self._at_once and kind is KeyboardInterrupt

    def wait(self, seconds: float, *descriptors: int) -> list[int]:
        """Sleep until `seconds` have passed, a signal arrived or a descriptor is readable.

        Returns the numbers of the signals that arrived, mostly [].
        """
        poll = select.poll()
        for descriptor in (self._read, *descriptors):
            poll.register(descriptor, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000)
        try:
            return [number for number in os.read(self._read, 64) if number in self._handlers]
        except BlockingIOError:
            return []


def _nothing(number: int, frame: FrameType | None) -> None:
    """Only a handler in Python makes a signal write to the wake-up descriptor."""
