"""What is wrong with an input value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.hyperv import kvm
from hvtrace.hyperv.findings import findings
from hvtrace.hyperv.values import InputValue, decode_input


@pytest.mark.parametrize(
    "fields",
    [
        InputValue(0x02),
        InputValue(0x02, fast=True),
        InputValue(0x03, fast=True, rep_cnt=11),
        InputValue(0x03, rep_cnt=0xFFF),  # from memory a list may be long
        InputValue(0x13, fast=True, var_cnt=10),
        InputValue(0x14, fast=True, var_cnt=3, rep_cnt=7),
        InputValue(0x5C),
        InputValue(0x5D, fast=True),
        InputValue(0x69),
        InputValue(0x6B, fast=True),
        InputValue(0x8001),
    ],
)
def test_good_values_have_no_finding(fields: InputValue) -> None:
    assert findings(fields) == ()


@pytest.mark.parametrize(
    ("fields", "text", "status"),
    [
        (InputValue(0x02, reserved=1 << 27), "bits 30:27 must be zero", 3),
        (InputValue(0x02, reserved=1 << 45), "bits 47:44 must be zero", 3),
        (InputValue(0x02, reserved=1 << 63), "bits 63:60 must be zero", 3),
        (InputValue(0x02, nested=True), "bit 31 asks the hypervisor below", 3),
        (InputValue(0x1234), "the call code is not known", 2),
        (InputValue(0x8042), "the call code is not known", 2),
        (InputValue(0x8041), "the call code is not known", None),  # forwarded all the same
        (InputValue(0x44), "KVM does not implement this call code", 2),
        (InputValue(0x69, fast=True), "KVM refuses this call code when fast", 5),
        (InputValue(0x8001, fast=True), "KVM refuses this call code when fast", 5),
        (InputValue(0x02, rep_cnt=1), "a simple call has no reps, here: count 1, start 0", 3),
        (InputValue(0x5D, rep_idx=7), "a simple call has no reps, here: count 0, start 7", 3),
        # KVM forwards these without a look at the counts.
        (InputValue(0x69, rep_cnt=1), "a simple call has no reps, here: count 1, start 0", None),
        (InputValue(0x03), "a rep call needs a rep count, here: 0", 3),
        (InputValue(0x8003), "a rep call needs a rep count, here: 0", None),
        (InputValue(0x03, rep_cnt=5, rep_idx=2), "start index 2: KVM does not continue", 3),
        (InputValue(0x14, rep_cnt=5, rep_idx=5), "start index 5 is not below the count 5", 3),
        (InputValue(0x02, var_cnt=1), "this call has no variable header, here: 8 bytes", 3),
        (InputValue(0x69, var_cnt=3), "this call has no variable header, here: 24 bytes", None),
        (
            InputValue(0x03, fast=True, rep_cnt=12),
            "120 bytes of input and 0 of output do not fit the 112 bytes of a fast call",
            None,
        ),
        (InputValue(0x13, fast=True, var_cnt=11), "120 bytes of input and 0 of output", None),
        (InputValue(0x5C, fast=True), "256 bytes of input and 0 of output", None),
    ],
)
def test_one_finding(fields: InputValue, text: str, status: int | None) -> None:
    found = findings(fields)
    assert [text in finding.text for finding in found] == [True]
    assert found[0].kvm_status == status


def test_findings_come_in_the_order_in_which_kvm_looks() -> None:
    value = InputValue(0x50, fast=True, rep_cnt=5, nested=True, reserved=1 << 60)
    assert [finding.kvm_status for finding in findings(value)] == [3, 3, 2, None]


@given(st.integers(0, 2**64 - 1))
def test_statuses_are_those_that_kvm_gives_for_the_code(value: int) -> None:
    fields = decode_input(value)
    possible = {rule.status for rule in kvm.rules_of(fields.code)} | {None}
    assert {finding.kvm_status for finding in findings(fields)} <= possible


@given(st.sampled_from([0x02, 0x03, 0x0B, 0x13, 0x14, 0x15, 0x50, 0x8001]), st.booleans())
def test_untraced_bits_are_always_found(code: int, fast: bool) -> None:
    for bit in (27, 30, 31, 44, 47, 60, 63):
        value = code | fast << 16 | 1 << bit
        assert findings(decode_input(value))[0].kvm_status == 3


@pytest.mark.parametrize(
    ("code", "minds_reps", "minds_header"),
    # As the switch of kvm_hv_hypercall() has it, code by code.
    [
        (0x02, True, True),
        (0x03, False, True),
        (0x08, True, True),
        (0x0B, True, True),
        (0x13, True, False),
        (0x14, False, False),
        (0x15, True, False),
        (0x5C, True, True),
        (0x5D, True, True),
        (0x69, False, False),
        (0x6A, False, False),
        (0x6B, False, False),
        (0x8001, False, False),
        (0x8003, False, False),
    ],
)
def test_counts_that_kvm_minds(code: int, minds_reps: bool, minds_header: bool) -> None:
    def statuses(**counts: int) -> set[int | None]:
        return {finding.kvm_status for finding in findings(InputValue(code, **counts))} - {None}

    is_rep = code in (0x03, 0x14)
    assert statuses(rep_cnt=1) == ({3} if minds_reps else set())
    assert statuses(rep_cnt=2, rep_idx=1) == ({3} if minds_reps or is_rep else set())
    assert statuses(rep_cnt=int(is_rep), var_cnt=1) == ({3} if minds_header else set())
    assert statuses() == ({3} if is_rep else set())
