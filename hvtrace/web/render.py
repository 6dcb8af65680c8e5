"""Makes what is scraped: one at a time, and one for all who wait for the same."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

Metrics = Callable[[str], tuple[str, bytes]]
"""Takes an Accept header, gives a content type and the metrics; may take its time."""

_TOO_SMALL = 1024  # bytes: not worth compressing


class Busy(Exception):
    """Too many wait already."""


class Rendered(NamedTuple):
    """What a scraper gets."""

    content_type: str
    body: bytes
    compressed: bool
    """By gzip."""


class Renderer:
    """Calls `metrics`, in a thread.

    Who asks while another's turn has not begun shares what that one will get. So nobody gets
    what was begun before they asked, and a thousand scrapes at once are two in a row.
    """

    def __init__(self, metrics: Metrics, most_waiting: int, say: Callable[[str], None]) -> None:
        """`say` gets a line where `metrics` fails, and when it works again."""
        self._metrics, self._most_waiting, self._say = metrics, most_waiting, say
        self._thread = ThreadPoolExecutor(1, "hvtrace-render")
        self._next: dict[tuple[str, bool], Future[Rendered | None]] = {}
        self._waiting = 0
        self._failing = False

    def close(self) -> None:
        """Begin no more; what is under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def render(self, accept: str, compress: bool) -> Rendered | None:
        """The metrics for this Accept header; None where they cannot be made. Raises Busy."""
        key = accept, compress
        future = self._next.get(key)
        if self._waiting >= self._most_waiting:
            raise Busy
        if not future:
            if len(self._next) >= self._most_waiting:  # left behind by those who gave up
                raise Busy
            future = self._next[key] = Future()
            self._thread.submit(self._make, key, future)
        self._waiting += 1
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        finally:
            self._waiting -= 1

    def _make(self, key: tuple[str, bool], future: Future[Rendered | None]) -> None:
        del self._next[key]
        future.set_result(self._call(*key))

    def _call(self, accept: str, compress: bool) -> Rendered | None:
        try:
            content_type, body = self._metrics(accept)
        except Exception as error:
            if not self._failing:
                self._say(f"metrics cannot be made: {type(error).__name__}: {error}")
            self._failing = True
            return None
        if self._failing:
            self._say("metrics can be made again")
        self._failing = False
        if not compress or len(body) < _TOO_SMALL:
            return Rendered(content_type, body, False)
        # 31: with gzip's header and sum. Level 1: less than half the time of 6, a fifth more bytes.
        return Rendered(content_type, zlib.compress(body, 1, 31), True)
