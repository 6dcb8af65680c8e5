"""The text of families is what prometheus-client's own writers make of them, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from goldens import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from samples import FakeSource

from hvtrace.export import text
from hvtrace.export.collector import SourceCollector
from hvtrace.export.families import Family, Keys, from_metrics, single, to_metrics
from hvtrace.stats.histogram import OCTAVES


class Fixed(Collector):
    """For prometheus-client: these families, whenever they are asked for."""

    def __init__(self, families):
        self.families = families

    def collect(self):
        return to_metrics(self.families)


def assert_same_bytes(families) -> None:
    registry = CollectorRegistry()
    registry.register(Fixed(families))
    assert text.prometheus(families) == generate_latest(registry)
    assert text.openmetrics(families) == generate_openmetrics(registry)


@pytest.mark.parametrize("trips", [False, True])
def test_what_the_exporter_serves(trips):
    collector = SourceCollector(FakeSource(sample(trips=trips)), print)
    assert_same_bytes(collector.families())


def test_the_collector_is_one_for_prometheus_client():
    clock = iter((1.0, 1.25) * 2).__next__
    collector = SourceCollector(FakeSource(sample()), print, clock=clock)
    registry = CollectorRegistry()
    registry.register(collector)
    assert generate_latest(registry) == text.prometheus(collector.families())


def test_nothing_is_a_whole_text():
    assert text.prometheus([]) == b""
    assert text.openmetrics([]) == b"# EOF\n"


LABEL_NAMES = st.lists(
    st.sampled_from(["vm", "code", "a", "z", "l", "lf", "lea"]), unique=True, max_size=4
)
VALUES = st.one_of(
    st.integers(0, 2**64 - 1),
    st.floats().map(lambda value: value + 0.0),  # -0.0 is 0 here, and so never counted
    st.booleans(),
)
COUNTS = st.lists(st.integers(0, 2**58), min_size=OCTAVES + 2, max_size=OCTAVES + 2)


@st.composite
def families(draw) -> Family:
    labels = tuple(draw(LABEL_NAMES))
    kind = draw(st.sampled_from(["counter", "gauge", "histogram", "info"]))
    # Half of a surrogate pair has no UTF-8: no writer can write it.
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=7)
    key = st.tuples(*[words] * len(labels))
    keys = draw(st.lists(key, max_size=3))
    values = [1 if kind == "info" else draw(VALUES) for _ in keys]
    buckets = np.zeros((0, OCTAVES + 2), dtype=np.uint64)
    if kind == "histogram" and keys:
        buckets = np.array([draw(COUNTS) for _ in keys], dtype=np.uint64)
    unit = draw(st.sampled_from(["", "seconds"]))
    name = "x_seconds"
    return Family(name, kind, draw(words), labels, keys, values, buckets, unit)


@settings(deadline=None)
@given(families())
def test_any_family(family):
    assert_same_bytes([family])


@settings(deadline=None)
@given(families(), st.data())
def test_any_family_whose_keys_stay(family, data):
    """Templates are kept with the keys: the second time they are used, not made."""
    family = replace(family, keys=Keys(family.keys))
    for _ in range(2):
        assert_same_bytes([family])
        family = replace(family, values=[data.draw(VALUES) for _ in family.keys])


def test_what_the_process_says_of_itself():
    """As prometheus-client's own collector says it, and the same after the way through ours."""
    own = list(from_metrics(ProcessCollector(registry=None).collect()))
    assert_same_bytes(own)
    assert b"# TYPE process_cpu_seconds_total counter\n" in text.prometheus(own)
    assert b"\nprocess_open_fds " in text.prometheus(own)
    assert list(to_metrics(own)) == list(to_metrics(from_metrics(to_metrics(own))))


def test_families_of_the_process_are_asked_for_at_each_scrape():
    asked = iter((3, 7))
    collector = SourceCollector(
        FakeSource(sample()), print, own=lambda: [single("mine", "Mine.", next(asked))]
    )
    for expected in (b"mine 3.0\n", b"mine 7.0\n"):
        assert text.prometheus(collector.families()).endswith(expected)
