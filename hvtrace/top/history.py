"""The last minutes, in a bounded number of bytes: what a view steps back through. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hvtrace.stats.arithmetic import add, since
from hvtrace.stats.slow import SlowCall
from hvtrace.stats.tally import EMPTY, Tally, outline, settled
from hvtrace.top.model import Frame

MOST_BYTES = 16 << 20
MOST_SECONDS = 15 * 60.0
MOST_SLOW_CALLS = 1000
FRAME_BYTES = 2048
"""What a frame takes beside its counters, about."""


class History:
    """Frames, the newest last, each with what was counted in it.

    Where there is no more room, two neighbours become one of twice the time, old ones first:
    far back is coarse, and nothing is lost in between. `slow` are the latest slow calls.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS) -> None:
        self.frames: list[Frame] = []
        self.slow: list[SlowCall] = []
        self._most_bytes, self._most_seconds = most_bytes, most_seconds
        self._newest: Frame | None = None

    def append(self, frame: Frame) -> None:
        """Keep a new frame. One without an interval begins all anew (a start, a reset)."""
        self._newest = frame
        self.slow = [*self.slow, *frame.slow][-MOST_SLOW_CALLS:]
        if frame.counted is None:
            self.frames = []
            return
        # Its total goes on growing in the newest, from which the others' are worked out.
        self.frames.append(replace(frame, counts=EMPTY, total=None, slow=()))
        while frame.time - self.frames[0].time > self._most_seconds:
            del self.frames[0]
        while len(self.frames) > 2 and self.nbytes > self._most_bytes:
            self._join()

    @property
    def nbytes(self) -> int:
        """Memory of it all, about."""
        return sum(FRAME_BYTES + _counted(frame).nbytes for frame in self.frames)

    def _join(self) -> None:
        """Make one of two neighbours: where both together are short for their age."""
        now = self.frames[-1].time
        least, at = float("inf"), 0
        for i in range(len(self.frames) - 2):
            older, newer = self.frames[i], self.frames[i + 1]
            share = (older.seconds + newer.seconds) / (now - older.time + older.seconds)
            if share < least:
                least, at = share, i
        older, newer = self.frames[at : at + 2]
        joined = replace(
            newer,
            seconds=older.seconds + newer.seconds,
            counted=settled(add(_counted(older), _counted(newer))),
            new=older.new | newer.new,
        )
        self.frames[at : at + 2] = [joined]

    def before(self, frame: Frame, steps: int = 1, *, whole: bool = False) -> Frame:
        """The one `steps` before `frame`, which is of this history; the oldest where that ends.

        Only where `whole`, and where `frame` has it, its total is worked out: that takes longer
        than all else.
        """
        for earlier in reversed(self.frames):
            if steps and earlier.number < frame.number:
                counted, total = _counted(frame), frame.total if whole else None
                frame = replace(
                    earlier,
                    counts=since(outline(counted), frame.counts),
                    total=total and since(counted, total),
                    total_seconds=frame.total_seconds - frame.seconds,
                )
                steps -= 1
        return frame

    def after(self, frame: Frame, steps: int = 1, *, whole: bool = False) -> Frame:
        """The one `steps` after `frame`; the newest where that ends."""
        later = [one for one in self.frames if one.number > frame.number]
        if len(later) <= steps or self._newest is None:
            return self._newest or frame
        wanted, total = later[steps - 1], frame.total if whole else None
        if steps == 1 and self._is_kept(frame) and (total or not whole):
            counted = _counted(wanted)
            return replace(
                wanted,
                counts=add(frame.counts, outline(counted)),
                total=total and add(total, counted),
                total_seconds=frame.total_seconds + wanted.seconds,
            )
        # From the newest back: the frame in hand has been joined with others meanwhile.
        back = sum(one.number > wanted.number for one in later)
        return self.before(self._newest, back, whole=whole)

    def whole(self, frame: Frame) -> Frame:
        """`frame` with its total; the one before where it has been joined with others meanwhile."""
        if frame.total or self._newest is None:
            return frame
        back = sum(one.number > frame.number for one in self.frames)
        return self.before(self._newest, back, whole=True)

    def _is_kept(self, frame: Frame) -> bool:
        return any(
            one.number == frame.number and one.counted is frame.counted for one in self.frames
        )

    def until(self, frame: Frame, seconds: float) -> Iterator[Frame]:
        """Frames (their totals empty) of the last `seconds` up to `frame`, the oldest first."""
        for one in self.frames:
            if frame.time - seconds < one.time and one.number <= frame.number:
                yield one


def _counted(frame: Frame) -> Tally:
    return EMPTY if frame.counted is None else frame.counted
