"""Numbers and names for people: their width, their rounding, and what they must never hide."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.hyperv.codes import CODES, name_of
from hvtrace.stats.text import duration, percent, printable, quantity, short_names

SCALE = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
UNITS_NS = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}
MANY = settings(deadline=None)


def split(text: str) -> tuple[float, str]:
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", text).groups()
    return float(number), unit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00k"),
        (1234, "1.23k"),
        (9_994, "9.99k"),
        (9_996, "10.0k"),
        (99_949, "99.9k"),
        (99_951, "100k"),
        (999_499, "999k"),
        (999_501, "1.00M"),
        (2**64 - 1, "18.4E"),
        (0.0, "0.00"),
        (0.004, "<0.01"),
        (0.25, "0.25"),
        (12.34, "12.3"),
        (999.4, "999"),
        (999.6, "1.00k"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


@MANY
@given(st.integers(0, 2**64 - 1) | st.floats(0.01, 2.0**64))
def test_quantity_is_narrow_and_right_to_three_digits(value):
    text = quantity(value)
    number, suffix = split(text)
    assert len(text) <= 5
    assert number * SCALE[suffix] == pytest.approx(value, rel=0.0051, abs=0.0051)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0ns"),
        (733.4, "733ns"),
        (999.4, "999ns"),
        (999.6, "1.00µs"),
        (1_234, "1.23µs"),
        (45_678, "45.7µs"),
        (999_600, "1.00ms"),
        (7_890_000_000, "7.89s"),
        (86_399e9, "86399s"),
    ],
)
def test_duration(nanoseconds, text):
    assert duration(nanoseconds) == text


@MANY
@given(st.floats(1, 86_400e9))
def test_duration_is_narrow_and_right_to_three_digits(nanoseconds):
    text = duration(nanoseconds)
    number, unit = split(text)
    assert len(text) <= 6
    assert number * UNITS_NS[unit] == pytest.approx(nanoseconds, rel=0.0051, abs=0.51)


@MANY
@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_durations_keep_their_order(one, other):
    """A p99 must not look longer than the maximum."""
    shown = [
        number * UNITS_NS[unit] for number, unit in map(lambda x: split(duration(x)), (one, other))
    ]
    assert shown == sorted(shown) if one <= other else shown == sorted(shown, reverse=True)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 7, "-"),
        (0, 0, "-"),
        (7, 7, "100"),
        (1, 1_000_003, "<1"),
        (1_000_002, 1_000_003, ">99"),
        (37, 100, "37"),
        (1, 100, "1"),
        (99, 100, "99"),
    ],
)
def test_percent(part, whole, text):
    assert percent(part, whole) == text


@MANY
@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_percent_says_none_and_all_only_for_none_and_all(part, rest):
    assert percent(part, part + rest) not in ("100", "0")
    assert (percent(part, part + rest) == "-") == (part == 0)
    assert len(percent(part, part + rest)) <= 3


def test_printable_keeps_letters_and_drops_what_terminals_act_on():
    assert printable("Büro-1 ✓") == "Büro-1 ✓"
    assert printable("a\x1b[31mb\nc\udcff") == "a?[31mb?c?"


@pytest.mark.parametrize("width", [16, 17, 20, 26, 60])
def test_short_names_of_all_codes_fit_and_differ(width):
    names = short_names(CODES, width)
    assert set(names) == set(CODES)
    assert max(map(len, names.values())) <= width
    assert len(set(names.values())) == len(names)


def test_names_are_shortened_by_whole_words_from_the_middle():
    names = short_names([0x2, 0x3, 0x8, 0x13, 0x14, 0x15, 0x5C], 16)
    assert list(names.values()) == [
        "Flush…Space",
        "Flush…List",
        "Notify…SpinWait",
        "Flush…SpaceEx",
        "Flush…ListEx",
        "Send…IpiEx",
        "PostMessage",
    ]


def test_names_with_room_are_whole():
    assert short_names([0x13], 26) == {0x13: "FlushVirtualAddressSpaceEx"}
    assert short_names([0x1234], 16) == {0x1234: "0x1234"}
    assert short_names([0x8001], 26) == {0x8001: "ExtQueryCapabilities"}


def test_names_that_would_look_alike_are_numbers():
    alike = [code for code in CODES if name_of(code) == "HvCallConnectPort"]
    assert len(alike) == 2
    assert list(short_names(alike, 16).values()) == [f"0x{code:04x}" for code in alike]
    assert short_names(alike[:1], 16) == {alike[0]: "ConnectPort"}
