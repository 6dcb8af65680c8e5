"""Snapshots in a thread of their own."""

from __future__ import annotations

import queue
import time
from itertools import pairwise
from typing import Any

from samples import FakeSource, row, snapshot

from hvtrace.errors import HvtraceError
from hvtrace.top import sampler as samplers
from hvtrace.top.sampler import Sampler

WAIT_SECONDS = 10.0


class Seen:
    """A sampler whose callbacks fill a queue of (kind, value, time)."""

    def __init__(self, open_source, interval_seconds: float = 0.01) -> None:
        self.queue: queue.Queue[tuple[str, Any, float]] = queue.Queue()
        self.sampler = Sampler(
            open_source,
            interval_seconds,
            on_say=self._put("say"),
            on_open=self._put("open"),
            on_snapshot=self._put("snapshot"),
            on_error=self._put("error"),
        )
        self.sampler.start()

    def _put(self, kind: str):
        return lambda value: self.queue.put((kind, value, time.monotonic()))

    def get(self, kind: str) -> tuple[Any, float]:
        """The next one, which must be of `kind`."""
        found, value, when = self.queue.get(timeout=WAIT_SECONDS)
        assert found == kind, value
        return value, when


def of(source):
    return lambda say: source


def test_opens_gives_snapshots_rolled_up_and_closes():
    rows = [row(code=2, tid=7, latencies_ns=[700] * 3), row(code=2, tid=11, latencies_ns=[700] * 2)]
    source = FakeSource(snapshot(rows))

    def open_source(say):
        say("waiting")
        return source

    seen = Seen(open_source)
    assert seen.get("say")[0] == "waiting"
    assert seen.get("open")[0] is source
    first, _ = seen.get("snapshot")
    assert len(first.rows) == 1
    assert first.rows["buckets"].sum() == 5
    seen.get("snapshot")
    assert not source.closed
    seen.sampler.stop()
    assert source.closed
    assert not seen.sampler._thread.is_alive()


def test_interval():
    seen = Seen(of(FakeSource(snapshot())), 0.2)
    seen.get("open")
    times = [seen.get("snapshot")[1] for _ in range(4)]
    seen.sampler.stop()
    assert all(later - earlier >= 0.19 for earlier, later in pairwise(times))


def test_first_interval_is_short(monkeypatch):
    monkeypatch.setattr(samplers, "FIRST_SECONDS", 0.1)
    seen = Seen(of(FakeSource(snapshot())), 3600)
    seen.get("open")
    seen.get("snapshot")
    seen.get("snapshot")
    time.sleep(0.3)
    assert seen.queue.empty()
    seen.sampler.stop()


def test_stop_ends_a_long_interval_at_once():
    source = FakeSource(snapshot())
    seen = Seen(of(source), 3600)
    seen.get("open")
    seen.get("snapshot")
    begun = time.monotonic()
    seen.sampler.stop()
    assert time.monotonic() - begun < 1
    assert source.closed


def test_hurry_and_a_short_interval_after_it(monkeypatch):
    monkeypatch.setattr(samplers, "FIRST_SECONDS", 0.05)
    seen = Seen(of(FakeSource(snapshot())), 3600)
    seen.get("open")
    for _ in range(2):
        seen.get("snapshot")
    seen.sampler.hurry()
    for _ in range(2):
        seen.get("snapshot")
    time.sleep(0.2)
    assert seen.queue.empty()
    seen.sampler.stop()


def test_new_interval_takes_effect_in_the_running_one(monkeypatch):
    monkeypatch.setattr(samplers, "FIRST_SECONDS", 0.05)
    seen = Seen(of(FakeSource(snapshot())), 3600)
    seen.get("open")
    for _ in range(2):
        seen.get("snapshot")
    seen.sampler.set_interval(0.01)
    for _ in range(3):
        seen.get("snapshot")
    seen.sampler.stop()


def test_long_intervals_are_looked_into(monkeypatch):
    monkeypatch.setattr(samplers, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(samplers, "POLL_SECONDS", 0.01)
    source = FakeSource(snapshot())
    seen = Seen(of(source), 3600)
    seen.get("open")
    for _ in range(2):
        seen.get("snapshot")
    taken, looks = source.taken, source.looks
    time.sleep(0.3)
    assert source.looks > looks + 2
    assert source.taken == taken
    assert seen.queue.empty()
    seen.sampler.stop()


def test_a_source_that_cannot_be_opened():
    def open_source(say):
        raise HvtraceError("no KVM")

    seen = Seen(open_source)
    error, _ = seen.get("error")
    assert str(error) == "no KVM"
    seen.sampler.stop()


def test_a_source_that_vanishes_is_closed():
    source = FakeSource(snapshot())
    seen = Seen(of(source))
    seen.get("open")
    seen.get("snapshot")

    def vanish():
        raise HvtraceError("KVM was unloaded")

    source.snapshot = vanish  # type: ignore[method-assign]
    while (found := seen.queue.get(timeout=WAIT_SECONDS))[0] == "snapshot":
        pass
    assert found[0] == "error"
    assert str(found[1]) == "KVM was unloaded"
    seen.sampler.stop()
    assert source.closed


def test_stop_does_not_wait_for_a_source_that_hangs():
    opened = queue.Queue()

    def open_source(say):
        opened.put(1)
        time.sleep(WAIT_SECONDS)
        return FakeSource(snapshot())

    seen = Seen(open_source)
    opened.get(timeout=WAIT_SECONDS)
    begun = time.monotonic()
    seen.sampler.stop(timeout_seconds=0.05)
    assert time.monotonic() - begun < 2
