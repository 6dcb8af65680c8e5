"""Snapshots in a thread of their own."""

from __future__ import annotations

import queue
import time
from itertools import pairwise
from threading import Event, get_ident
from typing import Any

from samples import FakeSource, row, snapshot

from hvtrace.errors import HvtraceError
from hvtrace.stats.snapshot import RecordingEnded
from hvtrace.top import sampler as samplers
from hvtrace.top.sampler import Sampler

WAIT_SECONDS = 10.0


class Seen:
    """A sampler whose callbacks fill a queue of (kind, value, time)."""

    def __init__(self, open_source, interval_seconds: float = 0.01, **more) -> None:
        self.queue: queue.Queue[tuple[str, Any, float]] = queue.Queue()
        self.sampler = Sampler(
            open_source,
            interval_seconds,
            on_say=self._put("say"),
            on_open=self._put("open"),
            on_snapshot=lambda parts: self._put("snapshot")(list(parts)),
            on_end=self._put("end"),
            on_error=self._put("error"),
            **more,
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


def test_opens_gives_snapshots_as_they_are_and_closes():
    rows = [row(code=2, tid=7, latencies_ns=[700] * 3), row(code=2, tid=11, latencies_ns=[700] * 2)]
    source = FakeSource(snapshot(rows))

    def open_source(say):
        say("waiting")
        return source

    seen = Seen(open_source)
    assert seen.get("say")[0] == "waiting"
    assert seen.get("open")[0] is source
    (first,), _ = seen.get("snapshot")
    assert first.rows["tid"].tolist() == [7, 11]
    assert first.rows["buckets"].sum() == 5
    seen.get("snapshot")
    assert not source.closed
    seen.sampler.stop()
    assert source.closed
    assert not seen.sampler._thread.is_alive()


def test_a_recording_ends_and_that_is_no_error():
    source = FakeSource(snapshot())
    seen = Seen(of(source))
    seen.get("open")
    seen.get("snapshot")

    def end():
        raise RecordingEnded("line 7 is cut off")

    source.snapshot = end
    while (found := seen.queue.get(timeout=WAIT_SECONDS))[0] == "snapshot":
        pass
    assert found[:2] == ("end", "line 7 is cut off")
    seen.sampler._thread.join(WAIT_SECONDS)
    assert source.closed
    assert seen.queue.empty()
    seen.sampler.stop()


def test_orders_are_obeyed_at_once_and_by_its_own_thread():
    source = FakeSource(snapshot())
    seen = Seen(of(source), 3600)
    seen.get("open")
    seen.get("snapshot")
    begun = time.monotonic()
    obeyed = queue.Queue()
    for number in (2, 3, 5):
        seen.sampler.order(lambda s, number=number: obeyed.put((number, s, get_ident())))
    given = [obeyed.get(timeout=WAIT_SECONDS) for _ in range(3)]
    assert [number for number, *_ in given] == [2, 3, 5]
    assert {(s, ident) for _, s, ident in given} == {(source, seen.sampler._thread.ident)}
    assert time.monotonic() - begun < 2
    seen.sampler.stop()


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


def test_an_interval_goes_on_until_the_view_is_ready(monkeypatch):
    monkeypatch.setattr(samplers, "BUSY_SECONDS", 0.005)
    source = FakeSource(snapshot())
    ready = Event()
    seen = Seen(of(source), is_ready=ready.is_set)
    seen.get("open")
    seen.get("snapshot")
    looks = source.looks
    while source.looks < looks + 11:  # who is there is seen all the same
        time.sleep(0.005)
    assert source.taken == 1
    ready.set()
    seen.get("snapshot")
    ready.clear()
    begun = time.monotonic()
    seen.sampler.stop()
    assert time.monotonic() - begun < 2
    assert source.closed
