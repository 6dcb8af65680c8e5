"""The last minutes: stepping back through them, and how much room they take."""

from __future__ import annotations

from itertools import pairwise

import pytest
from samples import START, row, snapshot, vm

from hvtrace.stats.histogram import BUCKETS
from hvtrace.stats.slow import SlowCall
from hvtrace.stats.tally import EMPTY, outline
from hvtrace.top.history import FRAME_BYTES, MOST_SLOW_CALLS, History
from hvtrace.top.model import Model

ROOM_FOR_TEN = 10 * (FRAME_BYTES + 100)


class Past:
    """A history that second after second of calls is added to."""

    def __init__(self, **limits) -> None:
        self.history, self.model = History(**limits), Model()
        self.calls = 0
        self.second = 0
        self.frames = []
        self.more(0)

    def more(self, *calls: int) -> None:
        for count in calls:
            self.calls += count
            rows = [row(latencies_ns=[700] * self.calls)] if self.calls else []
            frame = self.model.feed(snapshot(rows, time=START + self.second))
            self.second += 1
            self.history.append(frame)
            self.frames.append(frame)


def counts(frame) -> tuple[int, int]:
    """Calls of its interval, and since the start."""
    if frame.total:
        assert_same(outline(frame.total), frame.counts)
    return int((frame.counted or EMPTY).calls.sum()), int(frame.counts.calls.sum())


def assert_same(one, other) -> None:
    """Of outlines: all that means something."""
    for name in ("keys", "start", "ids", "values", "calls", "failures", "failed"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name


def test_back_and_forth():
    past = Past()
    past.more(3, 5, 7, 11)
    newest = past.frames[-1]
    assert counts(newest) == (11, 26)
    seen = [newest]
    for _ in range(4):
        seen.append(past.history.before(seen[-1]))
    assert [counts(frame) for frame in seen] == [(11, 26), (7, 15), (5, 8), (3, 3), (3, 3)]
    assert [frame.time - START for frame in seen] == [4, 3, 2, 1, 1]
    assert [frame.total_seconds for frame in seen] == [4, 3, 2, 1, 1]
    back = [seen[-1]]
    for _ in range(4):
        back.append(past.history.after(back[-1]))
    assert [counts(frame) for frame in back] == [(3, 3), (5, 8), (7, 15), (11, 26), (11, 26)]
    assert back[-1] is newest
    assert [frame.total_seconds for frame in back] == [1, 2, 3, 4, 4]


def test_the_whole_of_a_moment():
    """Its total is worked out where it is asked for, from whichever moment is at hand."""
    past = Past()
    past.more(3, 5, 7, 11)
    history, newest = past.history, past.frames[-1]
    for steps, expected in ((1, 15), (2, 8), (3, 3)):
        bare = history.before(newest, steps)
        assert bare.total is None
        assert counts(bare)[1] == expected
        for frame in (history.whole(bare), history.before(newest, steps, whole=True)):
            assert (frame.number, frame.total_seconds) == (bare.number, bare.total_seconds)
            assert counts(frame) == counts(bare)
            assert int(frame.total.values[frame.total.ids < BUCKETS].sum()) == expected
            assert history.whole(frame) is frame
            later = history.after(frame, whole=True)
            assert int(later.total.values[later.total.ids < BUCKETS].sum()) == counts(later)[1]
        assert history.before(bare, whole=True).total is None  # there is nothing to begin with
        assert history.after(bare, whole=True).total is not None
    assert history.whole(newest) is newest


def test_the_whole_of_a_moment_that_was_joined_is_of_one_before():
    past = Past(most_bytes=ROOM_FOR_TEN)
    past.more(*[7] * 9)
    held = past.history.before(past.frames[-1], 4)
    past.more(*[7] * 60)
    whole = past.history.whole(held)
    assert whole.number in {frame.number for frame in past.history.frames}
    assert counts(whole)[1] == whole.total_seconds * 7


def test_several_steps_at_once():
    past = Past()
    past.more(*range(1, 20))
    frame = past.history.before(past.frames[-1], 10)
    assert counts(frame) == (9, 45)
    assert counts(past.history.after(frame, 3)) == (12, 78)
    assert past.history.after(frame, 10) is past.frames[-1]
    assert counts(past.history.before(frame, 100)) == (1, 1)


def test_a_frame_in_hand_stays_good_while_others_come():
    past = Past()
    past.more(3, 5, 7)
    held = past.history.before(past.frames[-1])
    past.more(11, 13)
    assert counts(past.history.before(held)) == (3, 3)
    assert counts(past.history.after(held)) == (7, 15)
    assert counts(past.history.after(held, 2)) == (11, 26)


def test_the_first_frame_of_all_has_no_past():
    past = Past()
    assert past.history.before(past.frames[0]) is past.frames[0]
    assert past.history.after(past.frames[0]) is past.frames[0]
    assert list(past.history.until(past.frames[0], 60)) == []


def test_a_reset_forgets():
    past = Past()
    past.more(3, 5)
    past.model.reset()
    past.more(7)
    assert past.history.frames == []
    past.more(11)
    assert [counts(frame) for frame in [past.history.before(past.frames[-1])]] == [(11, 11)]


def test_what_is_too_old_goes():
    past = Past(most_seconds=3)
    past.more(*[1] * 9)
    assert [frame.time - START for frame in past.history.frames] == [6, 7, 8, 9]


def test_without_room_neighbours_become_one_and_nothing_is_lost():
    past = Past(most_bytes=ROOM_FOR_TEN)
    primes = [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73]
    past.more(*primes)
    frames = past.history.frames
    assert len(frames) == 10
    assert past.history.nbytes <= ROOM_FOR_TEN
    assert sum(counts(frame)[0] for frame in frames) == sum(primes)
    assert sum(frame.seconds for frame in frames) == len(primes)
    # The present is fine, the past is coarse, and each begins where the one before it ended.
    spans = [frame.seconds for frame in frames]
    assert spans[-2:] == [1, 1]
    assert spans[0] >= 4
    for older, newer in pairwise(frames):
        assert newer.time - newer.seconds == older.time


def test_stepping_through_joined_frames():
    past = Past(most_bytes=ROOM_FOR_TEN)
    past.more(*[7] * 20)
    frame, total = past.frames[-1], 140
    for _ in range(len(past.history.frames) - 1):
        total -= counts(frame)[0]
        frame = past.history.before(frame)
        assert counts(frame)[1] == total == frame.total_seconds * 7
    assert past.history.before(frame).number == frame.number


def test_forth_from_a_frame_that_was_joined_meanwhile():
    past = Past(most_bytes=ROOM_FOR_TEN)
    past.more(*[7] * 9)
    held = past.history.before(past.frames[-1], 4)
    past.more(*[7] * 60)
    later = past.history.after(held)
    assert later.number > held.number
    assert counts(later)[1] == later.total_seconds * 7
    assert past.history.before(held) is held  # there is nothing before it any more


@pytest.mark.parametrize(("seconds", "expected"), [(2, [3, 4]), (60, [1, 2, 3, 4]), (0.5, [4])])
def test_until_a_frame(seconds, expected):
    past = Past()
    past.more(3, 5, 7, 11, 13)
    found = past.history.until(past.frames[4], seconds)
    assert [frame.time - START for frame in found] == expected


def test_slow_calls_are_kept_up_to_a_limit():
    history, model = History(), Model()
    many = tuple(
        SlowCall(START + i, vm(), 0, 31, 2, False, "kernel", 0, 0, 0, 0, 10**6 + i)
        for i in range(MOST_SLOW_CALLS + 7)
    )
    for shot in (snapshot(), snapshot(time=START + 1)):
        frame = model.feed(shot)
        object.__setattr__(frame, "slow", many[:7] if not history.slow else many[7:])
        history.append(frame)
    assert history.slow == list(many[7:])
