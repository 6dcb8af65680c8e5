"""The CPUID of a guest: KVM's leaves, Hyper-V's, and the edits of a mix."""

from __future__ import annotations

import pytest

from hvtrace.guest.abi import CpuidEntry
from hvtrace.guest.cpuid import FEATURES, guest_cpuid, offers
from hvtrace.guest.memory import CpuidEdit

REGISTERS = ("eax", "ebx", "ecx", "edx")


def leaves(*functions: int, value: int = 0) -> list[CpuidEntry]:
    return [CpuidEntry(function=f, eax=value, ebx=value, ecx=value, edx=value) for f in functions]


HOST = leaves(0, 1, 7, 0x40000000, 0x40000001, 0x80000000)
HYPERV = leaves(
    *range(0x40000000, 0x4000000B), 0x40000080, 0x40000081, 0x40000082, value=0xF0F0F0F0
)


def functions(entries: list[CpuidEntry]) -> list[int]:
    return [entry.function for entry in entries]


def test_hyperv_takes_the_place_of_kvm() -> None:
    found = guest_cpuid(HOST, HYPERV)
    assert functions(found) == [0, 1, 7, 0x80000000, *range(0x40000000, 0x4000000B)]
    assert {e.eax for e in found if e.function == 0x40000001} == {0xF0F0F0F0}


def test_debugger_leaves_only_on_request() -> None:
    assert set(functions(guest_cpuid(HOST, HYPERV, syndbg=True))) >= {0x40000080, 0x40000082}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("present", [True, False])
def test_edits_touch_their_bits_only(name: str, present: bool) -> None:
    leaf, register, bits = FEATURES[name]
    edit = CpuidEdit(
        leaf=leaf,
        register=REGISTERS.index(register),
        clear=0 if present else bits,
        set=bits if present else 0,
    )
    before = {e.function: e for e in guest_cpuid(HOST, HYPERV)}
    for entry in guest_cpuid(HOST, HYPERV, [edit]):
        for name_ in REGISTERS:
            expected = getattr(before[entry.function], name_)
            if (entry.function, name_) == (leaf, register):
                expected = expected | bits if present else expected & ~bits
            assert getattr(entry, name_) == expected


def test_what_was_given_is_not_changed() -> None:
    edit = CpuidEdit(leaf=0x40000003, register=3, clear=0xFFFFFFFF)
    guest_cpuid(HOST, HYPERV, [edit])
    assert {e.edx for e in HYPERV} == {0xF0F0F0F0}


def test_what_kvm_offers() -> None:
    """XMM output: leaf 0x40000003, EDX bit 15 (TLFS)."""
    assert not offers([], "xmm-output")
    assert not offers(leaves(0x40000004, value=0xFFFFFFFF), "xmm-output")
    assert not offers(leaves(0x40000003, value=0xFFFFFFFF & ~(1 << 15)), "xmm-output")
    assert offers([*leaves(1), CpuidEntry(function=0x40000003, edx=1 << 15)], "xmm-output")
    assert not offers([CpuidEntry(function=0x40000003, eax=1 << 15)], "xmm-output")
    assert not offers([CpuidEntry(function=0x40000004, ebx=1)], "spin-wait")  # all its bits


def test_features_are_single_bits_of_the_feature_leaves() -> None:
    """But for the number of spins, which is a whole register."""
    for name, (leaf, register, bits) in FEATURES.items():
        assert leaf in (0x40000003, 0x40000004)
        assert register in REGISTERS
        assert bits.bit_count() == (32 if name == "spin-wait" else 1)
    assert len(set(FEATURES.values())) == len(FEATURES)
