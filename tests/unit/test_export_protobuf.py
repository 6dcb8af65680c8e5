"""Protobuf, decoded by Google's library: the same as the text, and native histograms beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from client_model import MetricFamily, decode
from goldens import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString
from samples import FakeSource, row, snapshot

from hvtrace.export import protobuf, text
from hvtrace.export.collector import SourceCollector
from hvtrace.export.families import Family, info, single
from hvtrace.stats.histogram import OCTAVE_UPPER_SECONDS, OCTAVES

TYPES = {"COUNTER": "counter", "GAUGE": "gauge", "HISTOGRAM": "histogram"}


def families_of(snap) -> list[Family]:
    return SourceCollector(FakeSource(snap), print).families()


def from_protobuf(messages) -> dict:
    """{family: (type, help, {(series, labels): value})}, as a scraper makes it of protobuf."""
    found = {}
    for message in messages:
        series = {}
        for metric in message.metric:
            labels = tuple(sorted((pair.name, pair.value) for pair in metric.label))
            for name, more, value in samples(message.name, metric):
                key = (name, tuple(sorted(labels + more)))
                assert key not in series
                series[key] = value
        kind = TYPES[
            MetricFamily.DESCRIPTOR.fields_by_name["type"]
            .enum_type.values_by_number[message.type]
            .name
        ]
        found[message.name] = (kind, message.help, series)
    return found


def samples(name, metric):
    if metric.HasField("counter"):
        yield name, (), metric.counter.value
    elif metric.HasField("gauge"):
        yield name, (), metric.gauge.value
    else:
        of = metric.histogram
        for bucket in of.bucket:
            bound = floatToGoString(bucket.upper_bound)
            yield f"{name}_bucket", (("le", bound),), bucket.cumulative_count
        yield f"{name}_bucket", (("le", "+Inf"),), of.sample_count
        yield f"{name}_count", (), of.sample_count
        yield f"{name}_sum", (), of.sample_sum


def from_text(body: bytes) -> dict:
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        series = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in family.samples}
        found[name] = (family.type, family.documentation, series)
    return found


def buckets_of(histogram) -> dict[float, int]:
    """{upper bound: count} of a native histogram, by its specification; what is empty left out."""
    base = 2.0 ** (2.0**-histogram.schema)
    found, index, count, deltas = {}, 0, 0, iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[base**index] = count
            index += 1
    assert next(deltas, None) is None
    found[histogram.zero_threshold] = histogram.zero_count
    return {bound: count for bound, count in found.items() if count}


@pytest.mark.parametrize("trips", [False, True])
def test_it_says_what_the_text_says(trips):
    families = families_of(sample(trips=trips))
    decoded = from_protobuf(decode(protobuf.delimited(families)))
    assert decoded == from_text(text.prometheus(families))
    assert len(decoded) == len(families)


def test_units():
    messages = decode(protobuf.delimited(families_of(sample(trips=True))))
    assert {m.name for m in messages if m.unit == "seconds"} == {
        "hvtrace_hypercall_duration_seconds",
        "hvtrace_hypercall_round_trip_seconds",
        "hvtrace_scrape_duration_seconds",
    }


def test_native_buckets_are_the_octaves():
    latencies_ns = [1, 119, 120, 700, 711, 1_013, 999_983, 10**9, 3 * 10**9, 5 * 10**9, 10**11]
    families = families_of(snapshot([row(latencies_ns=latencies_ns)]))
    (family,) = (
        f
        for f in decode(protobuf.delimited(families))
        if "duration" in f.name and f.name.startswith("hvtrace_hypercall")
    )
    histogram = family.metric[0].histogram
    assert (histogram.schema, histogram.zero_threshold) == (0, 2.0**-23)
    expected: dict[float, int] = {}
    for latency_ns in latencies_ns:
        # All up to 2^-23 s in the zero bucket, all above 4 s in the one up to 8.
        seconds = latency_ns / 1e9
        bound = min(max(2.0 ** math.ceil(math.log2(seconds)), 2.0**-23), 8.0)
        expected[bound] = expected.get(bound, 0) + 1
    assert buckets_of(histogram) == expected
    assert histogram.sample_sum == sum(latencies_ns) / 1e9


def test_one_without_calls_is_native_too():
    """Or Prometheus would take it for a classic one, until the first call completes."""
    families = families_of(snapshot([row(unfinished=1)]))
    messages = {m.name: m for m in decode(protobuf.delimited(families))}
    histogram = messages["hvtrace_hypercall_duration_seconds"].metric[0].histogram
    assert histogram.zero_threshold > 0
    assert len(histogram.positive_span) == 1
    assert buckets_of(histogram) == {}


def test_nothing_is_no_message():
    assert protobuf.delimited([]) == b""


def test_many_series_are_written_in_blocks():
    """Labels and histograms of a block stay together, to the last one."""
    many = 2 * protobuf._BLOCK + 1
    rows = [row(code=code, latencies_ns=[700] * (code % 7)) for code in range(many)]
    families = families_of(snapshot(rows))
    assert from_protobuf(decode(protobuf.delimited(families))) == from_text(
        text.prometheus(families)
    )


# Everything up to where the sum of a histogram's buckets still fits 64 bits.
COUNTS = st.one_of(st.integers(0, 3), st.integers(0, 2**33), st.integers(0, 2**59 - 1))
HISTOGRAMS = st.lists(
    st.lists(COUNTS, min_size=OCTAVES + 2, max_size=OCTAVES + 2), min_size=1, max_size=4
)


@settings(deadline=None)
@given(HISTOGRAMS, st.floats(0, 1e12))
def test_any_counts(rows, total):
    buckets = np.array(rows, dtype=np.uint64)
    keys = [(f"vm-{i}",) for i in range(len(rows))]
    family = Family("x_seconds", "histogram", "X.", ("vm",), keys, [total] * len(rows), buckets)
    (message,) = decode(protobuf.delimited([family]))
    for counts, metric in zip(rows, message.metric, strict=True):
        histogram = metric.histogram
        bounds = (*OCTAVE_UPPER_SECONDS[:-1], 8.0)
        expected = {bound: n for bound, n in zip(bounds, counts, strict=True) if n}
        assert buckets_of(histogram) == expected
        assert histogram.sample_count == sum(counts)
        assert histogram.sample_sum == total
        cumulative = np.cumsum(counts).tolist()[:-1]
        assert [bucket.cumulative_count for bucket in histogram.bucket] == cumulative
        assert tuple(bucket.upper_bound for bucket in histogram.bucket) == bounds[:-1]


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.integers(0, 2**64 - 1) | st.floats(allow_nan=False),
)
def test_any_label_and_value(label, value):
    counter = Family("x", "counter", label, ("vm", "code"), [(label, "y")], [value])
    messages = decode(
        protobuf.delimited([counter, single("g", "G.", value), info("i", "", a=label)])
    )
    assert [m.name for m in messages] == ["x_total", "g", "i_info"]
    assert messages[0].help == label
    (metric,) = messages[0].metric
    assert [(pair.name, pair.value) for pair in metric.label] == [("vm", label), ("code", "y")]
    assert metric.counter.value == messages[1].metric[0].gauge.value == float(value)
    (about,) = messages[2].metric
    assert (about.gauge.value, about.label[0].value) == (1, label)
