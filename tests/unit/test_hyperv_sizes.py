"""Sizes of parameters: the written form, lengths, words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.sizes import NOTHING, Size, parse_size

FORMS = [
    # text, size, length for var 3 and rep 5, words
    ("", Size(None, None, None), None, "unknown"),
    ("?", Size(None, 0, False), None, "unknown"),
    ("0", NOTHING, 24, "none"),
    ("18", Size(18, 0, False), 42, "18 bytes"),
    ("1", Size(1, 0, False), 25, "1 byte"),
    ("24+8*rep", Size(24, 8, False), 88, "24 bytes, and 8 for each rep"),
    ("1*rep", Size(0, 1, False), 29, "1 byte for each rep"),
    ("16*rep", Size(0, 16, False), 104, "16 bytes for each rep"),
    ("32+8*var", Size(32, 0, True), 56, "32 bytes, and a variable header"),
    (
        "32+8*var+8*rep",
        Size(32, 8, True),
        96,
        "32 bytes, a variable header, and 8 for each rep",
    ),
    ("48+?*rep", Size(48, None, False), None, "48 bytes, and an unknown size for each rep"),
    (
        "8+data",
        Size(8, 0, False, open_ended=True),
        None,
        "8 bytes, and data of a length that only the call tells",
    ),
]


@pytest.mark.parametrize(("text", "size", "length_bytes", "words"), FORMS)
def test_forms(text: str, size: Size, length_bytes: int | None, words: str) -> None:
    assert parse_size(text) == size
    assert size.formula == text
    assert size.length_bytes(3, 5) == length_bytes
    assert size.known == (length_bytes is not None)
    assert size.in_words() == words


@pytest.mark.parametrize("text", ["8*reps", "4*var", "x", "8+", "8*rep*2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|invalid literal"):
        parse_size(text)


@given(
    st.none() | st.integers(0, 5000),
    st.none() | st.integers(0, 255),
    st.booleans(),
    st.booleans(),
)
def test_round_trip(fixed: int | None, element: int | None, var: bool, data: bool) -> None:
    size = Size(fixed, element, var, data)
    assert parse_size(size.formula) == size


def test_only_a_known_nothing_is_none() -> None:
    assert NOTHING.is_none
    for text in ("", "?", "8", "1*rep", "8+data", "8*var"):
        assert not parse_size(text).is_none


def test_every_size_of_the_table_has_words() -> None:
    for known in CODES.values():
        for size in (known.input, known.output):
            assert parse_size(size.formula) == size
            assert size.in_words()
