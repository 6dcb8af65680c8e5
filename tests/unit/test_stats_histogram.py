"""Buckets, octaves and percentiles against the definition, one value at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import bucket_of

from hvtrace.stats.histogram import (
    BUCKETS,
    LE_NS,
    LOWER_NS,
    MIN_EXP,
    OCTAVE_UPPER_SECONDS,
    OCTAVES,
    UPPER_NS,
    extremes_ns,
    octaves,
    quantiles_ns,
)
from hvtrace.stats.snapshot import NO_MIN

FEW = settings(max_examples=60, deadline=None)  # no deadline: the machine may be busy

# From 1 ns to 20 s: below the first bound, in every octave, and above the last.
LATENCIES_NS = st.integers(0, 10**4) | st.integers(0, 2 * 10**10)


def exact_bound_ns(bucket: int) -> Fraction:
    """Upper bound of a bucket by the words of hvtrace.h, without floating point."""
    octave, quarter = divmod(bucket - 1, 4)
    if bucket == 0:
        octave, quarter = 0, -1
    return Fraction(2) ** (MIN_EXP + octave) * Fraction(5 + quarter, 4) * 10**9


def test_bounds_are_the_header_s():
    exact = [float(exact_bound_ns(bucket)) for bucket in range(BUCKETS - 1)]
    assert UPPER_NS[:-1].tolist() == exact
    assert UPPER_NS[-1] == math.inf
    assert LOWER_NS.tolist() == [0.0, *exact]
    assert (UPPER_NS[0], UPPER_NS[-2]) == (2**-23 * 1e9, 4e9)


def test_no_whole_nanosecond_is_misplaced_by_rounding():
    """Bounds that are whole ns (2^-9 s and up) must be exact: the bucket ends with them."""
    assert LE_NS[BUCKETS - 1 :] == (None,)
    for bucket in range(BUCKETS - 1):
        last = math.floor(exact_bound_ns(bucket))
        assert bucket_of(last) == bucket
        assert LE_NS[bucket] == last
        assert bucket_of(last + 1) == bucket + 1


@FEW
@given(st.lists(LATENCIES_NS, max_size=50))
def test_octaves_count_each_call_once_under_its_bound(latencies):
    counts = np.zeros(BUCKETS, dtype=np.uint64)
    np.add.at(counts, [bucket_of(ns) for ns in latencies], 1)
    whole = octaves(counts)
    assert whole.dtype == np.uint64
    assert whole.shape == (OCTAVES + 2,) == (len(OCTAVE_UPPER_SECONDS),)
    for cumulative, bound in zip(np.cumsum(whole), OCTAVE_UPPER_SECONDS, strict=True):
        assert cumulative == sum(ns <= bound * 1e9 for ns in latencies)


def test_octaves_of_many_rows_at_once():
    counts = np.arange(2 * 3 * BUCKETS, dtype=np.uint64).reshape(2, 3, BUCKETS)
    whole = octaves(counts)
    assert whole.shape == (2, 3, OCTAVES + 2)
    assert whole[1, 2].tolist() == octaves(counts[1, 2]).tolist()
    assert whole.sum() == counts.sum()


def counted(*histograms):
    """Buckets, shortest and longest of each list of latencies; as a source has them."""
    buckets = np.zeros((len(histograms), BUCKETS), dtype=np.uint64)
    for row, latencies in zip(buckets, histograms, strict=True):
        np.add.at(row, [bucket_of(ns) for ns in latencies], 1)
    extremes = [(min(one, default=NO_MIN), max(one, default=0)) for one in histograms]
    return buckets, *np.array(extremes, dtype=np.uint64).reshape(-1, 2).T


def quantile_ns(buckets, q, min_ns, max_ns):
    """The definition, of one histogram and one quantile, in whole numbers."""
    rank = max(1, math.ceil(Fraction(q * int(buckets.sum()))))
    seen = 0
    for bucket, count in enumerate(buckets.tolist()):
        seen += count
        if seen >= rank:
            high, low = min(UPPER_NS[bucket], max_ns), max(LOWER_NS[bucket], min_ns)
            return min(max(round((low + high) / 2), min_ns), max_ns)
    return 0


QUANTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)


@FEW
@given(st.lists(st.lists(LATENCIES_NS, max_size=23), max_size=7), st.booleans())
def test_many_rows_are_each_by_the_definition(histograms, as_float):
    buckets, low, high = counted(*histograms)
    found = quantiles_ns(buckets.astype(float) if as_float else buckets, QUANTILES, low, high)
    assert found.tolist() == [
        [quantile_ns(row, q, int(a), int(b)) for q in QUANTILES]
        for row, a, b in zip(buckets, low, high, strict=True)
    ]


@FEW
@given(
    st.lists(LATENCIES_NS, min_size=1, max_size=97),
    st.sampled_from(QUANTILES),
)
def test_quantile_is_within_an_eighth_of_the_exact_one(latencies, q):
    rank = max(1, math.ceil(Fraction(str(q)) * len(latencies)))
    exact = sorted(latencies)[rank - 1]
    found = int(quantiles_ns(*one(latencies, q))[0, 0])
    assert min(latencies) <= found <= max(latencies)
    assert bucket_of(found) == bucket_of(exact)
    if UPPER_NS[0] < exact <= UPPER_NS[-2]:
        assert abs(found - exact) <= exact / 8 + 1  # and rounding to whole ns


def one(latencies, *quantiles):
    """The arguments of quantiles_ns for one histogram."""
    buckets, low, high = counted(latencies)
    return buckets, quantiles, low, high


@FEW
@given(st.lists(LATENCIES_NS, min_size=1, max_size=97))
def test_quantiles_ascend(latencies):
    (found,) = quantiles_ns(*one(latencies, *QUANTILES)).tolist()
    assert found == sorted(found)


@pytest.mark.parametrize("latency", [1, 119, 120, 733, 4_000_000_000, 4_000_000_001, 10**12])
def test_one_call_is_every_quantile(latency):
    assert quantiles_ns(*one([latency], 0.0, 0.999)).tolist() == [[latency, latency]]


def test_quantiles_of_more_calls_than_a_float_counts():
    counts = np.zeros((3, BUCKETS), dtype=np.uint64)
    counts[1:, 10], counts[1:, 20] = 2**61, 2**60
    low, high = np.array([[1] * 3, [10**9] * 3], dtype=np.uint64)
    found = quantiles_ns(counts, (0.5, 0.9), low, high)
    assert [[bucket_of(ns) for ns in row] for row in found[1:].tolist()] == [[10, 20]] * 2
    counts[0, 7] = 2**53 + 3  # as a float, more than it is
    assert bucket_of(int(quantiles_ns(counts[:1], (1.0,), low[:1], high[:1])[0, 0])) == 7


@FEW
@given(st.lists(st.lists(LATENCIES_NS, min_size=1, max_size=30), min_size=1, max_size=3))
def test_extremes_that_are_written_stay_as_they_are(histograms):
    buckets, low, high = counted(*histograms)
    found = extremes_ns(buckets, low, high)
    assert [part.tolist() for part in found] == [low.tolist(), high.tolist()]


def test_extremes_not_written_yet_are_bounds_of_the_outermost_buckets():
    buckets, low, high = counted([130, 10_000], [733, 733])
    low[:], high[:] = NO_MIN, 0
    shortest, longest = extremes_ns(buckets, low, high)
    assert shortest.tolist() == [149, 716]  # what has begun is no longer than the longest known
    assert [bucket_of(ns) for ns in longest.tolist()] == [bucket_of(ns) for ns in (10_000, 733)]
    assert (LOWER_NS[[bucket_of(10_000), bucket_of(733)]] <= longest).all()
