"""The latency buckets: their bounds, and percentiles from them.

Log-linear, four to the octave, octaves at powers of two of a second, each
bucket ``(low, high]``; `bpf/hvtrace.h` is the contract. An error of a
percentile is at most half a bucket, 12.5 %.
"""

from __future__ import annotations

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

# The shortest and the longest whole ns that a bucket holds.
_FIRST_NS: Counts = np.ceil(LOWER_NS).astype(np.uint64)
_LAST_NS: Counts = np.append(np.floor(UPPER_NS[:-1]).astype(np.uint64), ~np.uint64(0))

LE_NS: tuple[int | None, ...] = (*_LAST_NS[:-1].tolist(), None)
"""The longest whole ns that each bucket holds, as JSON has it; None for the last."""


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


def quantiles_ns(
    buckets: NDArray[np.uint64] | NDArray[np.float64],
    quantiles: Sequence[float],
    min_ns: Counts,
    max_ns: Counts,
) -> Counts:
    """The `quantiles` (0..1) in ns of n histograms at once, shape (n, len(quantiles)).

    `buckets` has shape (n, BUCKETS), and 2^64 calls at most; `min_ns` and `max_ns` have shape
    (n,). The middle of the bucket that holds the ceil(q n)-th smallest call, kept within the
    exact extremes; 0 where nothing was counted.
    """
    n = len(buckets)
    # All rows as one long histogram: one sum and one search, a call's rank counted from its row's.
    cumulative = np.cumsum(buckets.astype(np.uint64, copy=False).ravel())
    ends = cumulative[BUCKETS - 1 :: BUCKETS]
    starts = np.concatenate((ends[:1] * 0, ends[:-1]))
    totals = (ends - starts)[:, None]
    ranks = np.ceil(np.array(quantiles) * totals.astype(np.float64)).astype(np.uint64)
    ranks = np.minimum(np.maximum(ranks, np.uint64(1)), totals)
    found = np.searchsorted(cumulative, (ranks + starts[:, None]).ravel()).reshape(ranks.shape)
    # A row of nothing finds an earlier row's bucket, and none in the first: its result is dropped.
    index = np.maximum(found - np.arange(n)[:, None] * BUCKETS, 0)
    least, most = min_ns[:, None], max_ns[:, None]
    high = np.minimum(UPPER_NS[index], most)
    low = np.minimum(np.maximum(LOWER_NS[index], least), high)
    middle = np.rint((low + high) / 2).astype(np.uint64)
    return np.where(totals > 0, np.minimum(np.maximum(middle, least), most), np.uint64(0))


def extremes_ns(
    buckets: Counts | NDArray[np.float64], min_ns: Counts, max_ns: Counts
) -> tuple[Counts, Counts]:
    """`min_ns` and `max_ns` of n histograms, moved into the outermost buckets that hold a call.

    A call that ends while its counters are read can be in the buckets and not yet in the
    extremes: they are then a bound of its bucket. They mean nothing where nothing was counted.
    """
    used = buckets > 0
    high = np.maximum(max_ns, _FIRST_NS[BUCKETS - 1 - used[:, ::-1].argmax(axis=1)])
    return np.minimum(np.minimum(min_ns, _LAST_NS[used.argmax(axis=1)]), high), high
