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
    LOWER_NS,
    MIN_EXP,
    OCTAVE_UPPER_SECONDS,
    OCTAVES,
    UPPER_NS,
    octaves,
    percentile_ns,
)

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
    for bucket in range(BUCKETS - 1):
        last = math.floor(exact_bound_ns(bucket))
        assert bucket_of(last) == bucket
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


def test_nothing_counted_has_no_percentile():
    assert percentile_ns(np.zeros(BUCKETS, dtype=np.uint64), 0.5, 0, 0) is None


@FEW
@given(
    st.lists(LATENCIES_NS, min_size=1, max_size=97),
    st.sampled_from((0.0, 0.5, 0.9, 0.99, 0.999, 1.0)),
)
def test_percentile_is_within_an_eighth_of_the_exact_one(latencies, q):
    counts = np.zeros(BUCKETS, dtype=np.uint64)
    np.add.at(counts, [bucket_of(ns) for ns in latencies], 1)
    rank = max(1, math.ceil(Fraction(str(q)) * len(latencies)))
    exact = sorted(latencies)[rank - 1]
    found = percentile_ns(counts, q, min(latencies), max(latencies))
    assert found is not None
    assert min(latencies) <= found <= max(latencies)
    assert bucket_of(found) == bucket_of(exact)
    if UPPER_NS[0] < exact <= UPPER_NS[-2]:
        assert abs(found - exact) <= exact / 8 + 1  # and rounding to whole ns


@FEW
@given(st.lists(LATENCIES_NS, min_size=1, max_size=97))
def test_percentiles_ascend(latencies):
    counts = np.zeros(BUCKETS, dtype=np.uint64)
    np.add.at(counts, [bucket_of(ns) for ns in latencies], 1)
    low, high = min(latencies), max(latencies)
    found = [percentile_ns(counts, q, low, high) for q in (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)]
    assert found == sorted(found)


@pytest.mark.parametrize("latency", [1, 119, 120, 733, 4_000_000_000, 4_000_000_001, 10**12])
def test_one_call_is_every_percentile(latency):
    counts = np.zeros(BUCKETS, dtype=np.uint64)
    counts[bucket_of(latency)] = 1
    assert percentile_ns(counts, 0.999, latency, latency) == latency
    assert percentile_ns(counts, 0.0, latency, latency) == latency


def test_percentile_of_more_calls_than_a_float_counts():
    counts = np.zeros(BUCKETS, dtype=np.uint64)
    counts[10], counts[20] = 2**61, 2**60
    assert bucket_of(percentile_ns(counts, 0.5, 1, 10**9) or 0) == 10
    assert bucket_of(percentile_ns(counts, 0.9, 1, 10**9) or 0) == 20
