"""Pace: shares of a rate that are exact on average, and time that is kept."""

from __future__ import annotations

import random
from itertools import islice
from threading import Event
from unittest.mock import patch

import pytest

from hvtrace.guest import pace


class Clock:
    """Time that passes only while somebody waits, or by `work`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def stop(self, after: float) -> Event:
        clock, until = self, self.now + after

        class Stop(Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                clock.waited.append(timeout)
                clock.now += timeout
                return clock.now >= until

        return Stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "monotonic", clock.monotonic)
    return clock


def test_draws_have_the_right_mean() -> None:
    rng = random.Random(7)
    draws = [pace.draw([3, 1, 16], 5.0, rng) for _ in range(20_000)]
    means = [sum(column) / len(draws) for column in zip(*draws, strict=True)]
    assert means == pytest.approx([0.75, 0.25, 4.0], rel=0.03)


def test_draws_are_whole_and_never_negative() -> None:
    rng = random.Random(7)
    for _ in range(1000):
        assert all(isinstance(n, int) and n >= 0 for n in pace.draw([1, 99], 0.3, rng))


def test_a_rate_is_kept(clock: Clock) -> None:
    ticks = list(pace.paced([2, 3], 1000.0, 0.0, "seed", clock.stop(after=50.0)))
    assert len(ticks) == pytest.approx(50 / pace.TICK_SECONDS, abs=2)
    assert sum(map(sum, ticks)) == pytest.approx(50 * 1000, rel=0.03)


def test_a_slow_rate_does_not_wake_for_nothing(clock: Clock) -> None:
    ticks = list(pace.paced([1], 0.5, 0.0, "seed", clock.stop(after=1000.0)))
    assert len(ticks) == pytest.approx(500, abs=2)
    assert sum(map(sum, ticks)) == pytest.approx(500, rel=0.03)


def test_the_load_swings_around_the_rate(clock: Clock) -> None:
    ticks = list(pace.paced([1], 2000.0, 0.5, "seed", clock.stop(after=pace.SWING_SECONDS)))
    per_second = round(1 / pace.TICK_SECONDS)
    loads = [
        sum(t[0] for t in ticks[i : i + per_second])
        for i in range(0, len(ticks) - per_second, per_second)
    ]
    assert 900 < min(loads) < 1200
    assert 2800 < max(loads) < 3100


def test_late_ticks_are_not_made_up_for(clock: Clock) -> None:
    made = 0
    for counts in islice(pace.paced([1], 1000.0, 0.0, "seed", clock.stop(after=1e9)), 10):
        made += sum(counts)
        clock.now += 1.0  # the slice took as long as twenty ticks
    assert made == pytest.approx(10 * 1000 * pace.TICK_SECONDS, rel=0.5)


def test_a_slow_machine_is_left_time_for_others(clock: Clock) -> None:
    began = clock.now
    for _ in islice(pace.paced([1], 1000.0, 0.0, "seed", clock.stop(after=1e9)), 101):
        clock.now += 0.03  # more than MAX_BUSY of a tick
    assert clock.now - began == pytest.approx(100 * 0.03 / pace.MAX_BUSY, rel=0.01)


def test_quick_slices_do_not_delay(clock: Clock) -> None:
    began = clock.now
    for _ in islice(pace.paced([1], 1000.0, 0.0, "seed", clock.stop(after=1e9)), 101):
        clock.now += 0.009  # less than MAX_BUSY of a tick
    assert clock.now - began == pytest.approx(100 * pace.TICK_SECONDS, rel=0.01)


def test_the_seed_decides(clock: Clock) -> None:
    def first(seed: str) -> list[list[int]]:
        return list(islice(pace.paced([5, 7], 900.0, 0.5, seed, clock.stop(after=1e9)), 20))

    with patch.object(clock, "monotonic", lambda: 0.0):
        assert first("1/0") == first("1/0")
        assert first("1/0") != first("1/1")


def test_stop_ends_it_at_once(clock: Clock) -> None:
    assert list(pace.paced([1], 1000.0, 0.0, "seed", clock.stop(after=0.0))) == []
