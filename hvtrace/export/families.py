"""Metric families as columns: what encoders take, and prometheus-client where somebody wants it.

A family of a thousand series is a handful of lists and arrays, not a thousand objects. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily

from hvtrace.stats.histogram import OCTAVE_UPPER_SECONDS, OCTAVES, Counts

Key = tuple[str, ...]
"""The label values of one series, in the order of the family's labels."""

_T = TypeVar("_T")


class Keys(list[Key]):
    """Keys that stay from one scrape to the next, and what encoders have made of them."""

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__(keys)
        self.made: dict[object, object] = {}


BOUNDS = (*(repr(bound) for bound in OCTAVE_UPPER_SECONDS[:-1]), "+Inf")
"""What `le` says for each octave of a histogram."""

_SUFFIX = {"counter": "_total", "info": "_info"}


def _no_buckets() -> Counts:
    return np.zeros((0, OCTAVES + 2), dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one metric."""

    name: str  # as OpenMetrics has it: without _total and _info
    type: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    keys: Sequence[Key] = ((),)  # one for each series; the same Keys where they have not changed
    values: Sequence[float] = ()  # as many: counts; sums of a histogram; 1 for each info
    buckets: Counts = field(default_factory=_no_buckets)  # of a histogram: (series, OCTAVES + 2)
    unit: str = ""  # the end of the name, where OpenMetrics shall know it as a unit

    @property
    def sample(self) -> str:
        """The name that series have; those of a histogram add _bucket, _count and _sum to it."""
        return self.name + _SUFFIX.get(self.type, "")


def made(family: Family, make: Callable[[Family], _T]) -> _T:
    """`make(family)`, which depends on names and keys alone; once for all while they stay."""
    if not isinstance(family.keys, Keys):
        return make(family)
    what = (make, family.name, family.labels)
    found = family.keys.made.get(what)
    if found is None:
        found = family.keys.made[what] = make(family)
    return cast(_T, found)


def single(name: str, help: str, value: float, unit: str = "") -> Family:
    """A gauge without labels."""
    return Family(name, "gauge", help, values=(value,), unit=unit)


def info(name: str, help: str, **about: str) -> Family:
    """A series that is 1, with what there is to say in its labels."""
    return Family(name, "info", help, tuple(about), [tuple(about.values())], (1,))


def to_metrics(families: Iterable[Family]) -> Iterator[Metric]:
    """The same for prometheus-client, whose writers give what text.py gives, byte for byte."""
    for family in families:
        metric = Metric(family.name, family.help, family.type, family.unit)
        if family.type == "histogram":
            metric = _histogram(family)
        else:
            for key, value in zip(family.keys, family.values, strict=True):
                metric.add_sample(family.sample, _labels(family, key), value)
        yield metric


def from_metrics(metrics: Iterable[Metric]) -> Iterator[Family]:
    """Counters and gauges of prometheus-client, such as its ProcessCollector's."""
    for metric in metrics:
        labels = tuple(metric.samples[0].labels) if metric.samples else ()
        yield Family(
            metric.name,
            "counter" if metric.type == "counter" else "gauge",
            metric.documentation,
            labels,
            [tuple(sample.labels.values()) for sample in metric.samples],
            [sample.value for sample in metric.samples],
            unit=metric.unit,
        )


def _histogram(family: Family) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels, unit=family.unit)
    cumulative = np.cumsum(family.buckets, axis=-1, dtype=np.uint64).tolist()
    for key, counts, total in zip(family.keys, cumulative, family.values, strict=True):
        metric.add_metric(key, list(zip(BOUNDS, counts, strict=True)), total)
    return metric


def _labels(family: Family, key: Key) -> dict[str, str]:
    return dict(zip(family.labels, key, strict=True))
