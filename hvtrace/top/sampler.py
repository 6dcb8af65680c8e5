"""Snapshots at every interval, taken in a thread of their own: no view waits for them."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from hvtrace.stats.snapshot import RecordingEnded, Snapshot, Source, parts_of

Open = Callable[[Callable[[str], None]], Source]
"""Opens a source; the argument takes lines on the progress."""

FIRST_SECONDS = 0.5
"""The first interval is no longer than this: first rows should not take long."""

_M_ARENA_MAX = -8  # mallopt(3)

POLL_SECONDS = 1.0
"""How often to look in longer intervals: VMs are to be known by name before they are gone."""

BUSY_SECONDS = 0.05
"""How often to ask whether the one who takes the snapshots is ready again."""


class Sampler:
    """Opens a source, and gives a snapshot of it at every interval.

    The callbacks run in the sampler's thread: `on_say` takes lines on the
    progress of opening, `on_open` the source, `on_snapshot` each snapshot in parts,
    `on_end` what is to be said of the end of a recording (mostly nothing), and
    `on_error` whatever ended it all.
    """

    def __init__(
        self,
        open_source: Open,
        interval_seconds: float,
        *,
        on_say: Callable[[str], None],
        on_open: Callable[[Source], None],
        on_snapshot: Callable[[Iterator[Snapshot]], None],
        on_end: Callable[[str], None],
        on_error: Callable[[Exception], None],
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._open = open_source
        self._interval_seconds = interval_seconds
        self._on_say, self._on_open = on_say, on_open
        self._on_snapshot = on_snapshot
        self._on_end, self._on_error = on_end, on_error
        self._is_ready = is_ready
        self._changed = threading.Condition()
        self._stopped = False
        self._hurry = False
        self._orders: list[Callable[[Source], None]] = []
        # A daemon: opening may wait for KVM without end, and must not keep the program alive.
        self._thread = threading.Thread(target=self._run, name="hvtrace-sampler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        _share_the_heap()
        self._thread.start()

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Have the source closed and the thread ended; wait for that, but not without end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def set_interval(self, seconds: float) -> None:
        """Change the interval, the running one too."""
        with self._changed:
            self._interval_seconds = seconds
            self._changed.notify()

    def hurry(self) -> None:
        """Take a snapshot at once, and another after FIRST_SECONDS at most."""
        with self._changed:
            self._hurry = True
            self._changed.notify()

    def order(self, do: Callable[[Source], None]) -> None:
        """Have something done with the source at once: it is used by this thread only."""
        with self._changed:
            self._orders.append(do)
            self._changed.notify()

    def _run(self) -> None:
        try:
            source = self._open(self._on_say)
            try:
                self._on_open(source)
                self._sample(source)
            except RecordingEnded as end:
                self._on_end(str(end))
            finally:
                source.close()
        except Exception as error:  # whatever it is, the view has to hear of it
            self._on_error(error)

    def _sample(self, source: Source) -> None:
        longest = FIRST_SECONDS
        while not self._stopped:
            # An interval begins with its snapshot: where that takes long, they get longer.
            begun = time.monotonic()
            self._on_snapshot(parts_of(source))
            while not self._nap(begun, longest):
                self._obey(source)
                source.look()
            self._obey(source)
            longest = FIRST_SECONDS if self._hurry else float("inf")
            self._hurry = False

    def _nap(self, begun: float, longest: float) -> bool:
        """Sleep, but not beyond the interval's end or POLL_SECONDS; whether it is over."""
        with self._changed:
            end = begun + min(self._interval_seconds, longest)
            if not self._over(end) and not self._orders:
                left = end - time.monotonic()
                self._changed.wait(min(left if left > 0 else BUSY_SECONDS, POLL_SECONDS))
            return self._over(begun + min(self._interval_seconds, longest))

    def _obey(self, source: Source) -> None:
        with self._changed:
            orders, self._orders = self._orders, []
        for do in orders:
            do(source)

    def _over(self, end: float) -> bool:
        due = self._hurry or time.monotonic() >= end
        return self._stopped or (due and self._is_ready())


def _share_the_heap() -> None:
    """Have glibc make no heap for a new thread alone, for what it frees there stays with us.

    That is a fifth of all memory where snapshots are large. Another libc has no such option.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
