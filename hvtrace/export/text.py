"""Families as Prometheus' text format 0.0.4 and as OpenMetrics 1.0. Pure.

prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics specification of
prometheus.io. prometheus-client's own writer makes the same bytes of the same families, in
twenty times the time: it builds every line from objects and dicts. Here the part of
the lines of one series that does not change from one to the next is made once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from prometheus_client.utils import floatToGoString as go_float

from hvtrace.export.families import BOUNDS, Family, Key

_TYPES = {"info": "gauge"}  # what 0.0.4 calls it


def prometheus(families: Iterable[Family]) -> bytes:
    """Text format 0.0.4 (and 1.0.0, which differs in what names may be made of)."""
    parts = []
    for family in families:
        about = family.help.replace("\\", r"\\").replace("\n", r"\n")
        kind = _TYPES.get(family.type, family.type)
        parts.append(f"# HELP {family.sample} {about}\n# TYPE {family.sample} {kind}\n".encode())
        parts.append(_series(family))
    return b"".join(parts)


def openmetrics(families: Iterable[Family]) -> bytes:
    """OpenMetrics 1.0: the same series, told otherwise."""
    parts = []
    for family in families:
        name = family.name
        unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
        about = f"# HELP {name} {_escape(family.help)}\n# TYPE {name} {family.type}\n{unit}"
        parts.append(about.encode())
        parts.append(_series(family))
    parts.append(b"# EOF\n")
    return b"".join(parts)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Numbers(dict[float, str]):
    """Numbers as text: most of those in buckets come again and again."""

    def __missing__(self, number: float) -> str:
        text: str = go_float(number)  # type: ignore[no-untyped-call]
        self[number] = text
        return text


class _Labels:
    """What stands in the braces of a series: all of it, or what is before and behind `le`.

    prometheus-client's writers sort labels by name, and `le` among them.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        order = sorted(range(len(names)), key=names.__getitem__)
        self._before = [at for at in order if names[at] < "le"]
        self._behind = [at for at in order if names[at] > "le"]
        self._names = names
        self._escaped: dict[str, str] = {}

    def parts(self, key: Key) -> tuple[str, str]:
        """Pairs that come before `le`, each with a comma behind it, and pairs that come behind."""
        before = "".join([f"{self._pair(at, key)}," for at in self._before])
        return before, ",".join([self._pair(at, key) for at in self._behind])

    def whole(self, key: Key) -> str:
        """All labels, in braces where there are any."""
        before, behind = self.parts(key)
        inside = before + behind if behind else before[:-1]
        return f"{{{inside}}}" if inside else ""

    def _pair(self, at: int, key: Key) -> str:
        value = key[at]
        escaped = self._escaped.get(value)
        if escaped is None:
            escaped = self._escaped[value] = _escape(value)
        return f'{self._names[at]}="{escaped}"'


def _series(family: Family) -> bytes:
    number, labels = _Numbers().__getitem__, _Labels(family.labels)
    if family.type == "histogram":
        return _histograms(family, number, labels)
    series = zip(family.keys, family.values, strict=True)
    name = family.sample
    return "".join(
        [f"{name}{labels.whole(key)} {number(value)}\n" for key, value in series]
    ).encode()


def _histograms(family: Family, number: Callable[[float], str], labels: _Labels) -> bytes:
    name = family.name
    cumulative = np.cumsum(family.buckets, axis=-1, dtype=np.uint64).tolist()
    parts = []
    for key, counts, total in zip(family.keys, cumulative, family.values, strict=True):
        before, behind = labels.parts(key)
        whole = labels.whole(key)
        head = f'{name}_bucket{{{before}le="'
        middle = f'",{behind}}} ' if behind else '"} '
        values = [number(count) for count in counts]
        buckets = [f"{bound}{middle}{value}\n" for bound, value in zip(BOUNDS, values, strict=True)]
        parts.append(
            f"{head}{head.join(buckets)}"
            f"{name}_count{whole} {values[-1]}\n{name}_sum{whole} {number(total)}\n"
        )
    return "".join(parts).encode()
