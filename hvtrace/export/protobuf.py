"""Families as Prometheus' protobuf exposition: delimited io.prometheus.client.MetricFamily. Pure.

Field numbers are those of metrics.proto in prometheus/client_model; names in comments are its.

A histogram is there twice in the same message. As a native one, of schema 0: its bucket i is
(2^(i-1), 2^i], and octaves at powers of two of a second are what the kernel's buckets add up to,
exactly. The kernel's own four to the octave are linear, the four of schema 2 are logarithmic, so
no finer schema is exact (and -53, of buckets at will, has no place in this format). As a classic
one, for those who read protobuf and know nothing else, or want both: Prometheus drops it where it
sees the native one, unless it is told otherwise (always_scrape_classic_histograms).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hvtrace.export.families import Family, made
from hvtrace.stats.histogram import MIN_EXP, OCTAVE_UPPER_SECONDS, OCTAVES, Counts

_TYPES = {"counter": 0, "gauge": 1, "histogram": 4, "info": 1}  # MetricType; an info is a gauge
# Metric.counter (3) and Metric.gauge (2): a message of one double, the field `value` (1).
_VALUE = {"counter": b"\x1a\x09\x09", "gauge": b"\x12\x09\x09", "info": b"\x12\x09\x09"}
_BLOCK = 1024  # histograms at once: a megabyte of them, whatever the whole is

_T = TypeVar("_T", bound=np.generic)
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def delimited(families: Iterable[Family]) -> bytes:
    """Each family, with its length in front."""
    parts: list[bytes] = []
    for family in families:
        metrics = _histograms(family) if family.type == "histogram" else _values(family)
        name, about, unit = (t.encode() for t in (family.sample, family.help, family.unit))
        head = _text(b"\x0a", name) + _text(b"\x12", about) + bytes((0x18, _TYPES[family.type]))
        body = [head, *metrics, _text(b"\x2a", unit) if unit else b""]
        parts += (_varint(sum(map(len, body))), *body)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    """A base 128 varint, for lengths: some hundreds of them come again and again."""
    if number < 0x80:
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


def _text(tag: bytes, text: bytes) -> bytes:
    return tag + _varint(len(text)) + text


def _labels(family: Family) -> list[bytes]:
    """Metric.label (1) of each series: LabelPairs of name (1) and value (2)."""
    names = [_text(b"\x0a", name.encode()) for name in family.labels]
    return [
        b"".join(
            [
                _text(b"\x0a", name + _text(b"\x12", value.encode()))
                for name, value in zip(names, key, strict=True)
            ]
        )
        for key in family.keys
    ]


def _heads(family: Family) -> list[bytes]:
    """MetricFamily.metric (4) of each counter or gauge, up to its value."""
    tag = _VALUE[family.type]
    return [
        b"\x22" + _varint(len(labels) + len(tag) + 8) + labels + tag for labels in _labels(family)
    ]


def _values(family: Family) -> Iterator[bytes]:
    """MetricFamily.metric (4) of counters and gauges."""
    doubles = np.asarray(family.values, dtype="<f8").view("V8").tolist()
    return chain.from_iterable(zip(made(family, _heads), doubles, strict=True))


def _histograms(family: Family) -> Iterator[bytes]:
    """MetricFamily.metric (4) of histograms."""
    labels = made(family, _labels)
    for start in range(0, len(family.keys), _BLOCK):
        block = slice(start, start + _BLOCK)
        sums = np.asarray(family.values[block], dtype="<f8")
        histograms = _encoded(family.buckets[block], sums)
        for of_one, histogram in zip(labels[block], histograms, strict=True):
            head = b"\x3a" + _varint(len(histogram))  # Metric.histogram (7)
            length = len(of_one) + len(head) + len(histogram)
            yield from (b"\x22" + _varint(length), of_one, head, histogram)


def _encoded(buckets: Counts, sums: NDArray[np.float64]) -> Iterator[bytes]:
    """A Histogram message for each row of `buckets` (series, OCTAVES + 2), not cumulative.

    All of them are written at once, into a matrix in which each number has room for the
    longest; a mask says which bytes are there.
    """
    cumulative = np.cumsum(buckets, axis=1, dtype=np.uint64)
    # Each bucket as the difference to the one before: zigzag, (n << 1) ^ (n >> 63).
    deltas = buckets[:, 1:].astype(np.int64)
    deltas[:, 1:] -= deltas[:, :-1].copy()
    zigzag = ((deltas << 1) ^ (deltas >> 63)).astype(np.uint64)
    packed, packed_mask = _varints(zigzag)
    lengths = packed_mask.sum(axis=(1, 2), dtype=np.uint64)
    fields = (
        _constant(b"\x08"),  # sample_count (1)
        _varints(cumulative[:, -1:]),
        _constant(b"\x11"),  # sample_sum (2)
        _doubles(sums),
        _classic(cumulative[:, :-1]),
        _constant(_SCHEMA),
        _constant(b"\x38"),  # zero_count (7)
        _varints(buckets[:, :1]),
        _constant(_SPAN),
        _constant(b"\x6a"),  # positive_delta (13), packed
        _varints(lengths[:, None]),
        (packed, packed_mask),
    )
    rows = len(buckets)
    data, mask = (
        np.concatenate([_wide(part[which], rows) for part in fields], axis=1) for which in (0, 1)
    )
    flat = data[mask].tobytes()
    end = 0
    for length in mask.sum(axis=1).tolist():
        start, end = end, end + length
        yield flat[start:end]


# schema (5), a sint32: 0. zero_threshold (6): all up to it is in the zero bucket, which is
# the kernel's first. What is above the last octave, more than 4 s, is given to the next one.
_SCHEMA = b"\x28\x00" + b"\x31" + struct.pack("<d", OCTAVE_UPPER_SECONDS[0])
# positive_span (12): offset (1), a sint32, and length (2). Prometheus drops what is empty.
_SPAN = b"\x62\x04\x08" + bytes((-2 * (MIN_EXP + 1) - 1,)) + b"\x10" + bytes((OCTAVES + 1,))


def _classic(cumulative: Counts) -> tuple[Bytes, Mask]:
    """Histogram.bucket (3) but for the last, which goes without saying: (series, bounds, bytes).

    A Bucket has cumulative_count (1) and upper_bound (2).
    """
    counts, there = _varints(cumulative)
    rows, bounds, width = counts.shape
    one = np.zeros((bounds, width + 12), dtype=np.uint8)
    one[:, 0], one[:, 2], one[:, 3 + width] = 0x1A, 0x08, 0x11
    one[:, 4 + width :] = np.array(OCTAVE_UPPER_SECONDS[:-1]).view(np.uint8).reshape(bounds, 8)
    data = np.repeat(one[None], rows, axis=0)
    data[..., 1] = there.sum(axis=2) + 10
    data[..., 3 : 3 + width] = counts
    mask = np.ones(data.shape, dtype=bool)
    mask[..., 3 : 3 + width] = there
    return data, mask


def _varints(numbers: Counts) -> tuple[Bytes, Mask]:
    """Base 128 varints of `numbers` (rows, n): (rows, n, bytes), and which bytes are there.

    The axis of the bytes is the slow one in memory: an inner loop over three of them takes
    eight times as long.
    """
    most = int(numbers.max(initial=0))
    width = max(1, -(-most.bit_length() // 7))
    small = numbers.astype(np.uint32 if most < 1 << 32 else np.uint64)
    groups = small >> (np.arange(width) * 7).astype(small.dtype)[:, None, None]
    there = groups != 0
    there[0] = True
    data = groups.astype(np.uint8) & np.uint8(0x7F)
    data[:-1] |= there[1:].view(np.uint8) << 7  # another one follows
    return np.moveaxis(data, 0, -1), np.moveaxis(there, 0, -1)


def _doubles(values: NDArray[np.float64]) -> tuple[Bytes, Mask]:
    data = values.astype("<f8").view(np.uint8).reshape(-1, 8)
    return data, np.ones((1, 8), dtype=bool)


def _constant(text: bytes) -> tuple[Bytes, Mask]:
    data = np.frombuffer(text, dtype=np.uint8)[None]
    return data, np.ones(data.shape, dtype=bool)


def _wide(part: NDArray[_T], rows: int) -> NDArray[_T]:
    """One line of bytes for each row, where `part` has one for all, or a further axis."""
    width = math.prod(part.shape[1:])
    return np.broadcast_to(part.reshape(-1, width), (rows, width))
