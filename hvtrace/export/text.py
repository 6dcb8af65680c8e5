"""Families as Prometheus' text format 0.0.4 and as OpenMetrics 1.0. Pure.

prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics specification of
prometheus.io. prometheus-client's own writer makes the same bytes of the same families, in
twenty times the time: it builds every line from objects and dicts. Here all that does not change
from scrape to scrape is a template for each series, which is kept with its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from prometheus_client.utils import floatToGoString as go_float

from hvtrace.export.families import BOUNDS, Family, made

_TYPES = {"info": "gauge"}  # what 0.0.4 calls it


def prometheus(families: Iterable[Family]) -> bytes:
    """Text format 0.0.4 (and 1.0.0, which differs in what names may be made of)."""
    parts: list[bytes] = []
    numbers = _Numbers().__getitem__
    for family in families:
        about = family.help.replace("\\", r"\\").replace("\n", r"\n")
        kind = _TYPES.get(family.type, family.type)
        parts.append(f"# HELP {family.sample} {about}\n# TYPE {family.sample} {kind}\n".encode())
        parts += _series(family, numbers)
    return b"".join(parts)


def openmetrics(families: Iterable[Family]) -> bytes:
    """OpenMetrics 1.0: the same series, told otherwise."""
    parts: list[bytes] = []
    numbers = _Numbers().__getitem__
    for family in families:
        name = family.name
        unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
        about = f"# HELP {name} {_escape(family.help)}\n# TYPE {name} {family.type}\n{unit}"
        parts.append(about.encode())
        parts += _series(family, numbers)
    parts.append(b"# EOF\n")
    return b"".join(parts)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Numbers(dict[float, bytes]):
    """Numbers as text, each made once: most of those in buckets come again and again."""

    def __missing__(self, number: float) -> bytes:
        text = self[number] = _number(number).encode()
        return text


def _number(number: float) -> str:
    """As go_float writes it, in a third of the time for the counts that nearly all are."""
    if type(number) is not int or not 0 <= number < _EXACT:
        text: str = go_float(number)  # type: ignore[no-untyped-call]
        return text
    if number < 10**6:
        return f"{number}.0"
    digits = str(number)  # from a million on, with an exponent
    return f"{digits[0]}.{digits[1:]}".rstrip("0.") + f"e+{len(digits) - 1:02d}"


def _series(family: Family, numbers: Callable[[float], bytes]) -> list[bytes]:
    """The lines of each series."""
    if family.type == "histogram":
        return _histograms(family, numbers)
    lines = zip(made(family, _templates), family.values, strict=True)
    return [template % numbers(value) for template, value in lines]


def _histograms(family: Family, numbers: Callable[[float], bytes]) -> list[bytes]:
    cumulative = np.cumsum(family.buckets, axis=1, dtype=np.uint64).tolist()
    series = zip(made(family, _histogram_templates), cumulative, family.values, strict=True)
    return [
        template % (*map(numbers, counts), numbers(counts[-1]), numbers(total))
        for template, counts, total in series
    ]


def _templates(family: Family) -> list[bytes]:
    """The line of each series, with %b for its value."""
    name = family.sample.encode()
    return [name + _braces(pairs) + b" %b\n" for pairs in _label_sets(family)]


def _histogram_templates(family: Family) -> list[bytes]:
    """The lines of each series: a %b for each bucket, then for count and sum."""
    name = family.name.encode()
    # Labels are sorted by name, and `le` is one of them.
    before = sum(label < "le" for label in family.labels)
    templates = []
    for pairs in _label_sets(family):
        buckets = (_braces([*pairs[:before], le, *pairs[before:]]) for le in _LE)
        names = [name + b"_bucket" + labels for labels in buckets]
        names += (name + suffix + _braces(pairs) for suffix in (b"_count", b"_sum"))
        templates.append(b" %b\n".join([*names, b""]))
    return templates


_EXACT = 1 << 53  # a greater count is not told apart from its neighbours by a double
_LE = [f'le="{bound}"'.encode() for bound in BOUNDS]


def _label_sets(family: Family) -> Iterator[list[bytes]]:
    """The labels of each series as `name="value"`, sorted by name; ready for a template."""
    order = sorted(range(len(family.labels)), key=family.labels.__getitem__)
    names = [(at, family.labels[at].encode() + b'="') for at in order]
    for key in family.keys:
        values = [_escape(value).replace("%", "%%").encode() for value in key]
        yield [name + values[at] + b'"' for at, name in names]


def _braces(pairs: Sequence[bytes]) -> bytes:
    return b"{" + b",".join(pairs) + b"}" if pairs else b""
