"""Which format a scraper gets: what its Accept header asks for, of those that there are. Pure.

RFC 9110, 12.5.1, and prometheus.io/docs/instrumenting/content_negotiation. What asks for nothing
that we have gets the text that every scraper reads, as all exporters do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hvtrace.export import protobuf, text
from hvtrace.export.families import Family

_LONGEST = 4096  # characters of a header that are worth reading: Prometheus sends 350
_NAMES = "; escaping=underscores"  # all our names are of letters, digits and underscores anyway


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write families."""

    media_type: str  # as a scraper asks for it
    wanted: Mapping[str, tuple[str, ...]]  # what parameters of the request may be; "": not there
    content_type: str  # what the answer says
    encode: Callable[[Iterable[Family]], bytes]


def _parameters(**allowed: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(allowed)


TEXT = Format(
    "text/plain",
    _parameters(version=("0.0.4", "")),
    "text/plain; version=0.0.4; charset=utf-8",
    text.prometheus,
)
FORMATS = (
    TEXT,
    Format(
        "text/plain",
        _parameters(version=("1.0.0",)),
        f"text/plain; version=1.0.0; charset=utf-8{_NAMES}",
        text.prometheus,
    ),
    Format(
        "application/openmetrics-text",
        _parameters(version=("1.0.0", "")),
        f"application/openmetrics-text; version=1.0.0; charset=utf-8{_NAMES}",
        text.openmetrics,
    ),
    Format(
        "application/vnd.google.protobuf",
        _parameters(proto=("io.prometheus.client.metricfamily",), encoding=("delimited",)),
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; "
        f"encoding=delimited{_NAMES}",
        protobuf.delimited,
    ),
)


def negotiate(accept: str) -> Format:
    """The format that `accept` prefers; of equals the one that it names first; else TEXT."""
    best, preference = TEXT, 0.0
    if len(accept) > _LONGEST:
        return best
    for element in accept.lower().split(","):
        media_type, _, rest = element.partition(";")
        asked = dict(_parameter(part) for part in rest.split(";"))
        quality = _quality(asked.get("q", "1"))
        if quality > preference:
            for one in FORMATS:
                if one.media_type == media_type.strip() and _fits(one, asked):
                    best, preference = one, quality
    return best


def render(families: Iterable[Family], accept: str) -> tuple[str, bytes]:
    """(content type, body) for a scraper that sent `accept` ("" where it sent none)."""
    chosen = negotiate(accept)
    return chosen.content_type, chosen.encode(families)


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip().strip('"')


def _fits(one: Format, asked: Mapping[str, str]) -> bool:
    return all(asked.get(name, "") in allowed for name, allowed in one.wanted.items())


def _quality(text: str) -> float:
    """A q-value; 0, "not acceptable", where it is none."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
