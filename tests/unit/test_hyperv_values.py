"""Input and result values: all fields, both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.hyperv.values import (
    InputValue,
    ResultValue,
    decode_input,
    decode_result,
    encode_input,
    encode_result,
)

words = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (0, InputValue(code=0)),
        (0x100010003, InputValue(code=3, fast=True, rep_cnt=1)),
        (0xFFFF, InputValue(code=0xFFFF)),
        (1 << 16, InputValue(code=0, fast=True)),
        (1 << 17, InputValue(code=0, var_cnt=1)),
        (0x3FF << 17, InputValue(code=0, var_cnt=0x3FF)),
        (1 << 27, InputValue(code=0, reserved=1 << 27)),
        (1 << 30, InputValue(code=0, reserved=1 << 30)),
        (1 << 31, InputValue(code=0, nested=True)),
        (0xFFF << 32, InputValue(code=0, rep_cnt=0xFFF)),
        (1 << 44, InputValue(code=0, reserved=1 << 44)),
        (1 << 47, InputValue(code=0, reserved=1 << 47)),
        (1 << 48, InputValue(code=0, rep_idx=1)),
        (0xFFF << 48, InputValue(code=0, rep_idx=0xFFF)),
        (1 << 60, InputValue(code=0, reserved=1 << 60)),
        (1 << 63, InputValue(code=0, reserved=1 << 63)),
    ],
)
def test_input_fields(value: int, fields: InputValue) -> None:
    assert decode_input(value) == fields
    assert encode_input(fields) == value


@pytest.mark.parametrize(
    ("bit", "bits"), [(27, "30:27"), (30, "30:27"), (44, "47:44"), (47, "47:44"), (63, "63:60")]
)
def test_reserved_fields_are_named(bit: int, bits: str) -> None:
    assert decode_input(1 << bit).reserved_fields == (bits,)


def test_reserved_fields_all_and_none() -> None:
    assert decode_input(2**64 - 1).reserved_fields == ("30:27", "47:44", "63:60")
    fields = InputValue(0xFFFF, True, 0x3FF, 0xFFF, 0xFFF, nested=True)
    assert decode_input(encode_input(fields)).reserved_fields == ()


@given(words)
def test_every_input_value_survives(value: int) -> None:
    assert encode_input(decode_input(value)) == value


@given(
    st.builds(
        InputValue,
        code=st.integers(0, 0xFFFF),
        fast=st.booleans(),
        var_cnt=st.integers(0, 0x3FF),
        rep_cnt=st.integers(0, 0xFFF),
        rep_idx=st.integers(0, 0xFFF),
        nested=st.booleans(),
    )
)
def test_all_input_fields_survive(fields: InputValue) -> None:
    assert decode_input(encode_input(fields)) == fields


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": 0x10000},
        {"code": -1},
        {"var_cnt": 0x400},
        {"rep_cnt": 0x1000},
        {"rep_idx": 0x1000},
        {"reserved": 1},
        {"reserved": 1 << 31},  # the nested bit has a field of its own
        {"reserved": 1 << 64},
    ],
)
def test_input_fields_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|not reserved"):
        encode_input(replace(InputValue(code=2), **wrong))


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (0, ResultValue(status=0)),
        (0x500000000, ResultValue(status=0, reps_completed=5)),
        (5, ResultValue(status=5)),
        (0xFFF << 32 | 3, ResultValue(status=3, reps_completed=0xFFF)),
        (1 << 16, ResultValue(status=0, ignored=1 << 16)),
        (1 << 31, ResultValue(status=0, ignored=1 << 31)),
        (1 << 44, ResultValue(status=0, ignored=1 << 44)),
        (1 << 63, ResultValue(status=0, ignored=1 << 63)),
    ],
)
def test_result_fields(value: int, fields: ResultValue) -> None:
    assert decode_result(value) == fields
    assert encode_result(fields) == value


@given(words)
def test_every_result_value_survives(value: int) -> None:
    assert encode_result(decode_result(value)) == value


@pytest.mark.parametrize(
    "fields",
    [
        ResultValue(0x10000),
        ResultValue(0, 0x1000),
        ResultValue(0, 0, 1),
        ResultValue(0, 0, 1 << 43),
    ],
)
def test_result_fields_out_of_range_are_refused(fields: ResultValue) -> None:
    with pytest.raises(ValueError, match=r"does not fit|not ignored"):
        encode_result(fields)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_only_64_bits_are_a_value(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit 64 bits"):
        decode_input(value)
    with pytest.raises(ValueError, match="does not fit 64 bits"):
        decode_result(value)
