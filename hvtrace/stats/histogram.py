"""The latency buckets: their bounds, and percentiles from them.

Log-linear, four to the octave, octaves at powers of two of a second, each
bucket ``(low, high]``; `bpf/hvtrace.h` is the contract. An error of a
percentile is at most half a bucket, 12.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_EXP = -23
OCTAVES = 25
BUCKETS = OCTAVES * 4 + 2

Counts = NDArray[np.uint64]


def _bounds_ns() -> NDArray[np.float64]:
    octave = np.exp2(np.arange(MIN_EXP, MIN_EXP + OCTAVES))[:, None]
    highs = (octave * (1 + np.arange(1, 5) / 4)).ravel()
    return np.concatenate(([2.0**MIN_EXP], highs, [np.inf])) * 1e9


UPPER_NS: NDArray[np.float64] = _bounds_ns()
"""Upper bound of each bucket in ns, shape (BUCKETS,); the last is infinite."""

LOWER_NS: NDArray[np.float64] = np.concatenate(([0.0], UPPER_NS[:-1]))
"""Lower bound of each bucket in ns, shape (BUCKETS,)."""

_UPPER_NS: list[float] = UPPER_NS.tolist()  # plain floats: ten times faster one by one
_LOWER_NS: list[float] = LOWER_NS.tolist()


def octaves(buckets: Counts) -> Counts:
    """Sum buckets to whole octaves.

    `buckets` has shape (..., BUCKETS), the result (..., OCTAVES + 2): up to
    2^-23 s, one for each octave, above 2^2 s.
    """
    four = (buckets[..., first:-1:4] for first in range(1, 5))
    middle = sum(four, np.uint64(0))  # five times as fast as a sum over an axis of four
    return np.concatenate((buckets[..., :1], middle, buckets[..., -1:]), axis=-1)


OCTAVE_UPPER_SECONDS: tuple[float, ...] = (
    *(2.0**exp for exp in range(MIN_EXP, MIN_EXP + OCTAVES + 1)),
    float("inf"),
)
"""Upper bounds in seconds that belong to :func:`octaves`."""


def percentile_ns(buckets: Counts, q: float, min_ns: int, max_ns: int) -> int | None:
    """The `q` quantile (0..1) in ns of one histogram of shape (BUCKETS,).

    The middle of the bucket that holds the ceil(q n)-th smallest call, kept
    within the exact extremes. None where nothing was counted.
    """
    found = percentiles_ns(buckets, (q,), min_ns, max_ns)
    return found[0] if found else None


def percentiles_ns(
    buckets: Counts, quantiles: Sequence[float], min_ns: int, max_ns: int
) -> list[int]:
    """Several quantiles of one histogram as by :func:`percentile_ns`; [] where it is empty."""
    cumulative = np.cumsum(buckets)
    total = int(cumulative[-1])
    if total == 0:
        return []
    ranks = [max(1, math.ceil(q * total)) for q in quantiles]
    found = []
    for index in np.searchsorted(cumulative, np.array(ranks, dtype=np.uint64)).tolist():
        high = min(_UPPER_NS[index], max_ns)
        low = max(_LOWER_NS[index], min_ns)
        found.append(min(max(round((low + high) / 2), min_ns), max_ns))
    return found


def extremes_ns(buckets: Counts, min_ns: int, max_ns: int) -> tuple[int, int]:
    """`min_ns` and `max_ns`, moved into the outermost buckets that hold a call.

    A call that ends while its counters are read can be in the buckets and not
    yet in the extremes: they are then a bound of its bucket. Something must
    have been counted.
    """
    used = np.flatnonzero(buckets).tolist()
    high = max(max_ns, math.ceil(_LOWER_NS[used[-1]]))
    return int(min(min_ns, _UPPER_NS[used[0]], high)), high
