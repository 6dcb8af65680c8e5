"""What scrapers ask for, and what they get."""

from __future__ import annotations

import time

import pytest
from client_model import decode
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.export.families import single
from hvtrace.export.formats import FORMATS, TEXT, negotiate, render

TEXT_1 = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"

# As they send it: Debian's 2.42.0, and 3.5.3.
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; "
    "escaping=underscores"
)
NATIVE_2_42 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;"
    "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
NATIVE_3 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT.content_type),
        ("*/*", TEXT.content_type),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT.content_type),  # a browser
        ("text/plain", TEXT.content_type),
        ("text/plain;version=0.0.4", TEXT.content_type),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT_1),
        ("text/plain;version=7", TEXT.content_type),
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (NATIVE_2_42, PROTOBUF),
        (NATIVE_3, PROTOBUF),
        ("application/vnd.google.protobuf", TEXT.content_type),
        (NATIVE_3.replace("delimited", "text"), OPENMETRICS),
        (NATIVE_3.replace("io.prometheus.client", "io.example"), OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ('APPLICATION/OpenMetrics-Text ; Version = "1.0.0" ; Q=0.1', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT.content_type),
        ("application/openmetrics-text;version=2.0.0", TEXT.content_type),
        ("application/openmetrics-text;q=0", TEXT.content_type),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.7", TEXT.content_type),
        ("application/openmetrics-text;q=0.7,text/plain;q=0.3", OPENMETRICS),
        ("text/plain;q=0.7,application/openmetrics-text;q=0.7", TEXT.content_type),
        ("application/openmetrics-text,text/plain", OPENMETRICS),
        ("application/*", TEXT.content_type),  # not asked for by name
    ],
)
def test_what_is_asked_for(accept, content_type):
    found, body = render([single("seven", "Seven.", 7)], accept)
    assert found == content_type
    assert body.endswith(b"# EOF\n") == ("openmetrics" in content_type)
    if content_type == PROTOBUF:
        assert [message.name for message in decode(body)] == ["seven"]
    else:
        assert b"\nseven 7.0\n" in body


@pytest.mark.parametrize("quality", ["", "x", "nan", "inf", "-1", "1.1", "1e999", "\u0660"])
def test_what_is_no_quality_asks_for_nothing(quality):
    assert negotiate(f"application/openmetrics-text;q={quality}") is TEXT


@pytest.mark.parametrize(
    "piece", [",", ";", "=", "a/b,", ";q=1,", "\0", "application/openmetrics-text,"]
)
def test_an_absurd_header_is_cheap(piece):
    started = time.perf_counter()
    assert negotiate(piece * (1 << 20)) is TEXT
    negotiate(piece * (4096 // len(piece)))
    assert time.perf_counter() - started < 0.5


@given(st.text())
def test_any_header_has_an_answer(accept):
    assert negotiate(accept) in FORMATS


@given(st.lists(st.sampled_from(["text/plain", ";", ",", "q=", "version=1.0.0", "0.3", "*/*"])))
def test_any_pieces_have_an_answer(pieces):
    assert negotiate("".join(pieces)) in FORMATS
