"""What KVM does with each code: consistent with the tables, and in words that say when."""

from __future__ import annotations

from functools import cache

import pytest

from hvtrace.hyperv import kvm
from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.statuses import STATUSES


@cache
def _statuses(code: int) -> set[int | None]:
    return {rule.status for rule in kvm.rules_of(code)}


@pytest.mark.parametrize(
    ("code", "how", "since"),
    [
        (0x02, "kernel", "<=5.10"),
        (0x5C, "vmm", "<=5.10"),
        (0x5D, "kernel-or-vmm", "<=5.10"),
        (0x69, "vmm-if-syndbg", "<=5.10"),
        (0x50, "status-2", None),
        (0x8001, "vmm", "6.3"),
        # KVM forwards the whole range, and nothing beyond it.
        (0x8000, "status-2", None),
        (0x8010, "vmm", "6.3"),
        (0x8041, "vmm", "6.3"),
        (0x8042, "status-2", None),
        (0xC001, "status-2", None),
        (0x1234, "status-2", None),
    ],
)
def test_handling(code: int, how: str, since: str | None) -> None:
    assert kvm.handling_of(code) == kvm.Handling(how, since)


@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        (0x02, {3, 6}),
        (0x08, {3, 6}),
        (0x0B, {3, 6}),
        (0x15, {3, 6}),
        (0x50, {2, 3}),
        (0x5C, {3, 6}),
        (0x5D, {3, 4, 6}),
        (0x69, {2, 3, 5, 6, 8}),
        (0x6A, {2, 3, 5, 6, 8}),
        (0x6B, {2, 3, 6, 8}),  # the one debug call that may be fast
        (0x8001, {2, 3, 5, 6}),
        (0x8041, {2, 3, 5, 6}),
        (0x8042, {2, 3}),
        (0x1234, {2, 3}),
    ],
)
def test_statuses_of_a_code(code: int, statuses: set[int]) -> None:
    assert _statuses(code) == statuses | {None}  # #UD outside CPL 0 can end any call


def test_rules_give_the_statuses_that_the_table_marks_as_kvm_s_own() -> None:
    marked = {value for value, known in STATUSES.items() if known.from_kvm == "yes"}
    assert {rule.status for rule in kvm.RULES} - {None} == marked - {0}


def test_every_code_can_end_with_status_3_for_bits_that_are_not_traced() -> None:
    assert all(3 in _statuses(code) for code in range(0x10000))


def test_status_2_is_certain_exactly_for_what_is_not_implemented() -> None:
    certain = {
        code
        for code in range(0x10000)
        for rule in kvm.rules_of(code)
        if rule.status == 2 and not rule.kernels and "implement" in rule.when
    }
    forwarded = {code for code in range(0x10000) if kvm.handling_of(code).how != "status-2"}
    assert certain == set(range(0x10000)) - forwarded
    # 12 codes by name, and the extended range.
    assert len(forwarded - set(kvm.EXTENDED)) == 12
    assert set(kvm.EXTENDED) <= forwarded
    assert len(kvm.EXTENDED) == 65


def test_ud_is_possible_exactly_where_kvm_reads_xmm() -> None:
    reads_xmm = {code for code, known in CODES.items() if known.xmm_input_since}
    assert reads_xmm == {0x02, 0x03, 0x13, 0x14, 0x15}
    faults = {c for c in CODES for r in kvm.rules_of(c) if not r.status and "XMM" in r.when}
    assert faults == reads_xmm
    assert set(kvm.XMM_USE) == reads_xmm


@pytest.mark.parametrize("code", [0x02, 0x03, 0x13, 0x14, 0x15])
def test_fast_was_refused_before_kvm_read_xmm(code: int) -> None:
    since = CODES[code].xmm_input_since
    refusals = [r for r in kvm.rules_of(code) if r.status == 3 and r.when == "the call is fast"]
    assert len(refusals) == 1
    assert refusals[0].kernels.startswith(f"before {since}")


def test_every_code_kvm_implements_can_be_denied_by_enforcement() -> None:
    denied = {code for code in range(0x10000) if 6 in _statuses(code)}
    assert denied == {c for c in range(0x10000) if kvm.handling_of(c).how != "status-2"}
    for rule in kvm.RULES:
        assert (rule.status == 6 or "XMM input" in rule.when) == ("enforce-cpuid" in rule.when)


def test_rules_come_by_status_with_the_exception_first() -> None:
    order = [-1 if rule.status is None else rule.status for rule in kvm.rules_of(0x15)]
    assert order == sorted(order)
    assert order[0] == -1


def test_scopes_are_words() -> None:
    scopes = {rule.scope for rule in kvm.RULES}
    assert {
        "every code",
        "codes that KVM does not implement",
        "extended calls, 0x8001 to 0x8041",
        "PostDebugData, RetrieveDebugData",
    } <= scopes


def test_history() -> None:
    assert any("up to 6.1 the address list is not read" in t for t in kvm.history_of(0x03))
    assert any("L2" in text for text in kvm.history_of(0x02))
    assert kvm.history_of(0x0B) == ()
