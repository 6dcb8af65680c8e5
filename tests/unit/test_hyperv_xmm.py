"""XMM input and the verdicts on XMM output, case by case and as properties."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.xmm import (
    ABI_INPUT,
    ABI_OUTPUT,
    COUNTED,
    VERDICTS,
    Abi,
    abi_table,
    fixed_verdict,
    is_xmm_input,
    outlook,
    verdict,
    xmm_input_registers,
)
from hvtrace.stats import snapshot

HEADER = Path(__file__).parents[2] / "bpf" / "hvtrace.h"

SIGNAL_EVENT = 0x5D
FLUSH_SPACE = 0x02
FLUSH_LIST_EX = 0x14
SEND_IPI = 0x0B
SEND_IPI_EX = 0x15
PARTITION_ID = 0x46  # no input, 8 bytes of output
GET_VP_REGISTERS = 0x50
MAP_DEVICE_INTERRUPT = 0x7C  # 80 bytes and a header, 56 of output: never fits
POST_DEBUG_DATA = 0x69  # unknown input, 8 bytes of output
RETRIEVE_DEBUG_DATA = 0x6A  # 16 bytes of input, open-ended output
POST_MESSAGE_DIRECT = 0xC1  # unknown input, no output
INSTALL_INTERCEPT_EX = 0x110  # 48 bytes and elements of unknown size, no output
UNKNOWN = 0x1234

calls = st.tuples(
    st.sampled_from([*CODES, UNKNOWN]),
    st.booleans(),
    st.integers(0, 12) | st.integers(0, 0x3FF),
    st.integers(0, 12) | st.integers(0, 0xFFF),
)


@pytest.mark.parametrize(
    ("code", "var_cnt", "rep_cnt", "expected"),
    [
        (SIGNAL_EVENT, 0, 0, False),  # 8 bytes
        (SEND_IPI, 0, 0, False),  # exactly 16 bytes: fast is not XMM
        (FLUSH_SPACE, 0, 0, True),  # 24 bytes
        (SEND_IPI_EX, 0, 0, True),  # 24 bytes before any bank
        (GET_VP_REGISTERS, 0, 0, False),  # 16 bytes before any register name
        (GET_VP_REGISTERS, 0, 1, True),  # 20 bytes
        (SIGNAL_EVENT, 1, 0, False),  # 8 bytes and 8 of header: 16
        (SIGNAL_EVENT, 2, 0, True),
        (PARTITION_ID, 0, 0, False),
        (PARTITION_ID, 2, 0, False),
        (PARTITION_ID, 3, 0, True),
        (POST_DEBUG_DATA, 0, 0, None),
        (INSTALL_INTERCEPT_EX, 0, 1, None),
        (UNKNOWN, 0, 0, None),
        (UNKNOWN, 100, 100, None),
    ],
)
def test_xmm_input(code: int, var_cnt: int, rep_cnt: int, expected: bool | None) -> None:
    assert is_xmm_input(code, True, var_cnt, rep_cnt) is expected
    assert is_xmm_input(code, False, var_cnt, rep_cnt) is False


@pytest.mark.parametrize(
    ("input_bytes", "registers"),
    [(0, 0), (1, 0), (16, 0), (17, 1), (32, 1), (33, 2), (96, 5), (97, 6), (112, 6)],
)
def test_xmm_input_registers(input_bytes: int, registers: int) -> None:
    assert xmm_input_registers(input_bytes) == registers


def test_kvm_reads_xmm_exactly_for_calls_of_more_than_16_bytes() -> None:
    """The rule of the ABI, and KVM's own list of codes, agree for every call KVM completes."""
    in_kvm = {code for code, known in CODES.items() if known.kvm == "kernel"}
    for code in in_kvm:
        counts = (1, 1) if code == FLUSH_LIST_EX else (0, int(CODES[code].kind == "rep"))
        assert is_xmm_input(code, True, *counts) == (CODES[code].xmm_input_since is not None)


# Reference, rule set on XMM output: the condition of each verdict.
CASES = [
    # code, fast, var, rep, reps completed, status, verdict without the feature, and with it
    (GET_VP_REGISTERS, False, 0, 1, 1, 0, "memory", "memory"),
    (UNKNOWN, False, 0, 0, 0, 2, "memory", "memory"),
    (SIGNAL_EVENT, True, 0, 0, 0, 0, "none", "none"),
    (SIGNAL_EVENT, True, 0, 0, 0, None, "none", "none"),
    (POST_MESSAGE_DIRECT, True, 0, 0, 0, 2, "none", "none"),
    (INSTALL_INTERCEPT_EX, True, 0, 3, 0, 2, "none", "none"),
    (UNKNOWN, True, 0, 0, 0, 2, "unknown", "unknown"),
    (POST_DEBUG_DATA, True, 0, 0, 0, 5, "unknown", "unknown"),
    (RETRIEVE_DEBUG_DATA, True, 0, 0, 0, 5, "unknown", "unknown"),
    (MAP_DEVICE_INTERRUPT, True, 0, 0, 0, 2, "impossible", "impossible"),
    (MAP_DEVICE_INTERRUPT, True, 3, 0, 0, 0, "impossible", "impossible"),
    (GET_VP_REGISTERS, True, 0, 4, 4, 0, "claimed", "used-xmm"),
    (GET_VP_REGISTERS, True, 0, 5, 5, 0, "impossible", "impossible"),
    (GET_VP_REGISTERS, True, 0, 5, 0, None, "impossible", "impossible"),
    (GET_VP_REGISTERS, True, 0, 4, 0, 2, "refused", "refused"),
    (GET_VP_REGISTERS, True, 0, 4, 2, 0x78, "refused", "refused"),
    (GET_VP_REGISTERS, True, 0, 4, 0, None, "refused", "refused"),
    (GET_VP_REGISTERS, True, 0, 4, 1, 0, "claimed", "used-xmm"),
    # Success without one completed element has written nothing.
    (GET_VP_REGISTERS, True, 0, 4, 0, 0, "claimed", "used-gpr"),
    (GET_VP_REGISTERS, True, 0, 0, 0, 0, "claimed", "used-gpr"),
    # No input: the output is in RDX, and no XMM register is touched.
    (PARTITION_ID, True, 0, 0, 0, 0, "claimed", "used-gpr"),
    (PARTITION_ID, True, 0, 0, 0, 5, "refused", "refused"),
    # A variable header pushes it on to XMM0.
    (PARTITION_ID, True, 1, 0, 0, 0, "claimed", "used-xmm"),
    (PARTITION_ID, True, 12, 0, 0, 0, "claimed", "used-xmm"),
    (PARTITION_ID, True, 13, 0, 0, 0, "impossible", "impossible"),
    (0x52, True, 0, 0, 0, 0, "claimed", "used-xmm"),
    (0x8001, True, 0, 0, 0, 5, "refused", "refused"),
    (0x8002, True, 0, 0, 0, 5, "impossible", "impossible"),
]


@pytest.mark.parametrize(
    ("code", "fast", "var_cnt", "rep_cnt", "reps", "status", "without", "having"), CASES
)
def test_verdicts(
    code: int,
    fast: bool,
    var_cnt: int,
    rep_cnt: int,
    reps: int,
    status: int | None,
    without: str,
    having: str,
) -> None:
    for feature, expected in ((False, without), (True, having)):
        got = verdict(
            code, fast, var_cnt, rep_cnt, reps_completed=reps, status=status, xmm_out_kernel=feature
        )
        assert got == expected


def test_the_cases_reach_every_verdict() -> None:
    assert {case[-2] for case in CASES} | {case[-1] for case in CASES} == set(VERDICTS)


@given(calls, st.integers(0, 0xFFF), st.none() | st.integers(0, 9), st.booleans())
def test_verdict_follows_from_outlook(
    call: tuple[int, bool, int, int], reps: int, status: int | None, feature: bool
) -> None:
    got = verdict(*call, reps_completed=reps, status=status, xmm_out_kernel=feature)
    before = outlook(*call)
    assert got in VERDICTS
    if before != "eligible":
        assert got == before
    elif status != 0:
        assert got == "refused"
    elif feature:
        assert got in ("used-gpr", "used-xmm")
    else:
        assert got == "claimed"


@given(calls, st.integers(0, 0xFFF), st.none() | st.integers(0, 9))
def test_used_is_only_said_of_kernels_that_can(
    call: tuple[int, bool, int, int], reps: int, status: int | None
) -> None:
    got = verdict(*call, reps_completed=reps, status=status, xmm_out_kernel=False)
    assert not got.startswith("used")


def _from_abi(abi: Abi, var_cnt: int, rep_cnt: int, reps: int, status: int | None) -> str | None:
    """The verdict as the BPF programs find it: from the table, in whole pairs."""
    if abi.flags != ABI_INPUT | ABI_OUTPUT:
        return None
    first = (abi.in_fixed + 8 * var_cnt + abi.in_elem * rep_cnt + 15) // 16
    if first + (abi.out_fixed + abi.out_elem * rep_cnt + 15) // 16 > 7:
        return "impossible"
    if status != 0:
        return "refused"
    used = (abi.out_fixed + abi.out_elem * reps + 15) // 16
    return "used-xmm" if used and first + used > 1 else "used-gpr"


@given(calls, st.integers(0, 0xFFF), st.none() | st.integers(0, 9))
def test_the_abi_table_is_enough_for_the_programs(
    call: tuple[int, bool, int, int], reps: int, status: int | None
) -> None:
    code, fast, var_cnt, rep_cnt = call
    abi = abi_table().get(code, Abi(0, 0, 0, 0, 0))
    counted = _from_abi(abi, var_cnt, rep_cnt, reps, status) if fast else None
    fixed = fixed_verdict(code, fast)
    assert (counted is None) == (fixed is not None)
    expected = verdict(*call, reps_completed=reps, status=status, xmm_out_kernel=True)
    assert (counted or fixed) == expected
    xmm = abi.in_fixed + 8 * var_cnt + abi.in_elem * rep_cnt > 16
    if fast:
        assert is_xmm_input(*call) == (xmm if abi.flags & ABI_INPUT else None)


@pytest.mark.parametrize(
    ("code", "abi"),
    [
        (GET_VP_REGISTERS, Abi(16, 0, 4, 16, ABI_INPUT | ABI_OUTPUT)),
        (PARTITION_ID, Abi(0, 8, 0, 0, ABI_INPUT | ABI_OUTPUT)),
        (0x8002, Abi(0, 4088, 0, 0, ABI_INPUT | ABI_OUTPUT)),
        (FLUSH_LIST_EX, Abi(32, 0, 8, 0, ABI_INPUT)),
        (0x11, Abi(0, 0, 0, 0, ABI_INPUT)),  # VtlCall has no parameters at all
        (RETRIEVE_DEBUG_DATA, Abi(16, 0, 0, 0, ABI_INPUT)),
        (POST_DEBUG_DATA, Abi(0, 8, 0, 0, ABI_OUTPUT)),
        (INSTALL_INTERCEPT_EX, Abi(0, 0, 0, 0, 0)),
        (0x09, Abi(0, 0, 0, 0, 0)),
    ],
)
def test_abi(code: int, abi: Abi) -> None:
    assert abi_table()[code] == abi


def test_abi_covers_every_code_and_fits_the_struct() -> None:
    table = abi_table()
    assert set(table) == set(CODES)
    for abi in table.values():
        assert max(abi.in_fixed, abi.out_fixed) < 1 << 16
        assert max(abi.in_elem, abi.out_elem) < 1 << 8


def _enum(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} {{(.*?)}}", HEADER.read_text(), re.DOTALL)
    assert body, name
    return {key: int(value) for key, value in re.findall(r"HVT_(\w+) = (\d+)", body[1])}


def test_the_header_counts_in_the_same_order() -> None:
    numbers = _enum("hvt_xmm_output")
    assert numbers.pop("XMM_OUTPUTS") == len(COUNTED)
    assert {name.upper().replace("-", "_"): i for i, name in enumerate(COUNTED)} == numbers
    assert _enum("hvt_abi_flags") == {"ABI_INPUT": ABI_INPUT, "ABI_OUTPUT": ABI_OUTPUT}


def test_snapshots_count_the_same_verdicts() -> None:
    assert snapshot.VERDICTS is VERDICTS
    assert set(COUNTED) <= set(VERDICTS)
