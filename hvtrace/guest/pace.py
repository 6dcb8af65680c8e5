"""How many of each call a vCPU makes next, where a mix has a rate."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from threading import Event
from time import monotonic

TICK_SECONDS = 0.05  # longer where the rate is below a call a tick
SWING_SECONDS = 23.0
MAX_BUSY = 0.2  # share of a vCPU's time: an emulated machine has work besides its guests


def paced(
    shares: Sequence[int], rate: float, swing: float, seed: str, stop: Event
) -> Iterator[list[int]]:
    """Calls for one tick after another, about `rate` a second in all, until `stop`.

    Late ticks are not made up for, and a tick whose calls take long makes the
    next one late (MAX_BUSY): a slow machine makes fewer calls. The same `seed`
    gives the same draws for the same sequence of ticks.
    """
    rng = random.Random(seed)
    tick = max(TICK_SECONDS, 1 / rate)
    phase = rng.uniform(0, 2 * math.pi)
    start = due = monotonic()
    while not stop.wait(max(0.0, due - monotonic())):
        now = monotonic()
        load = 1 + swing * math.sin(2 * math.pi * (now - start) / SWING_SECONDS + phase)
        yield draw(shares, rate * load * tick, rng)
        due = max(due + tick, now + (monotonic() - now) / MAX_BUSY)


def draw(shares: Sequence[int], calls: float, rng: random.Random) -> list[int]:
    """About `calls` calls, split by `shares`; the mean of many draws is exact."""
    total = sum(shares)
    noisy = (calls * share / total * rng.uniform(0.5, 1.5) for share in shares)
    return [math.floor(mean) + (rng.random() < mean % 1) for mean in noisy]
