"""Features of CPUID against what QEMU and Linux say of the same bits, written down once more."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from audit_samples import OFFERED, bits

from hvtrace.guest import cpuid as guest_cpuid
from hvtrace.hyperv import cpuid, kvm
from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.cpuid import BY_NAME, FEATURES, NOTHING, WORDS, XMM_INPUT_CODES, Cpuid

# (leaf, register, bits) by flag, from QEMU's kvm_hyperv_properties[] and hyperv-proto.h.
QEMU = {
    "hv-relaxed": [(0x40000004, "EAX", bits(5))],
    "hv-vapic": [(0x40000003, "EAX", bits(4))],
    "hv-time": [(0x40000003, "EAX", bits(1, 9))],
    "hv-crash": [(0x40000003, "EDX", bits(10))],
    "hv-reset": [(0x40000003, "EAX", bits(7))],
    "hv-vpindex": [(0x40000003, "EAX", bits(6))],
    "hv-runtime": [(0x40000003, "EAX", bits(0))],
    "hv-synic": [(0x40000003, "EAX", bits(2)), (0x40000003, "EBX", bits(4, 5))],
    "hv-stimer": [(0x40000003, "EAX", bits(3))],
    "hv-frequencies": [(0x40000003, "EAX", bits(11)), (0x40000003, "EDX", bits(8))],
    "hv-reenlightenment": [(0x40000003, "EAX", bits(13))],
    "hv-tlbflush": [(0x40000004, "EAX", bits(2, 11))],
    "hv-evmcs": [(0x40000004, "EAX", bits(14))],
    "hv-ipi": [(0x40000004, "EAX", bits(10))],  # and bit 11, which hv-tlbflush sets as well
    "hv-stimer-direct": [(0x40000003, "EDX", bits(19))],
    "hv-avic": [(0x40000004, "EAX", bits(9))],
    "hv-syndbg": [(0x40000003, "EDX", bits(11)), (0x40000082, "EAX", bits(1))],
    "hv-emsr-bitmap": [(0x4000000A, "EAX", bits(19))],
    "hv-xmm-input": [(0x40000003, "EDX", bits(4))],
    "hv-tlbflush-ext": [(0x40000003, "EDX", bits(14))],
    "hv-tlbflush-direct": [(0x4000000A, "EAX", bits(17))],
    "hv-no-nonarch-coresharing": [(0x40000004, "EAX", bits(18))],
    "hv-spinlocks": [(0x40000004, "EBX", 0xFFFFFFFF)],
}


def flag_of(feature):
    return None if feature.flag is None else feature.flag.partition("=")[0]


def test_words_are_those_of_the_kernel_s_cache_in_order():
    assert [field.name for field in fields(Cpuid)] == list(WORDS)
    assert Cpuid() == Cpuid(*[None] * 8)


@pytest.mark.parametrize("flag", QEMU)
def test_a_flag_stands_for_the_bits_that_qemu_sets(flag):
    found: dict[tuple[int, str], int] = {}
    for feature in FEATURES:
        if flag_of(feature) == flag:
            for word, mask in feature.bits:
                leaf, register = WORDS[word].split()
                key = int(leaf, 16), register
                found[key] = found.get(key, 0) | mask
    assert found == {(leaf, register): mask for leaf, register, mask in QEMU[flag]}


def test_every_flag_is_one_of_qemu_s():
    assert {flag_of(feature) for feature in FEATURES} == {*QEMU, None}


def test_what_no_flag_of_qemu_sets():
    assert [f.name for f in FEATURES if f.flag is None] == [
        "xmm-output",
        "debugging",
        "extended-hypercalls",
    ]


def test_names_differ_and_so_do_bits():
    assert len(BY_NAME) == len(FEATURES)
    assert len({feature.bits for feature in FEATURES}) == len(FEATURES)


def test_names_are_those_that_mixes_of_guests_use():
    for name, (leaf, register, mask) in guest_cpuid.FEATURES.items():
        ((word, ours),) = BY_NAME[name].bits
        assert (WORDS[word], ours) == (f"{leaf:#x} {register.upper()}", mask), name


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "spin-wait"])
def test_a_feature_needs_all_of_its_bits(name):
    feature, full = BY_NAME[name], NOTHING
    for word, mask in feature.bits:
        full = replace(full, **{word: getattr(full, word) | mask})
    assert feature.exposed(full) is True
    assert feature.exposed(NOTHING) is False
    for word, mask in feature.bits:
        lowest = mask & -mask
        less = replace(full, **{word: getattr(full, word) & ~lowest})
        assert feature.exposed(less) is False


def test_unknown_words():
    syndbg = BY_NAME["syndbg"]
    assert syndbg.exposed(None) is None
    assert syndbg.exposed(Cpuid()) is None
    assert syndbg.exposed(Cpuid(features_edx=bits(11))) is None
    assert syndbg.exposed(Cpuid(features_edx=0)) is False  # whatever the other word may be
    assert syndbg.exposed(Cpuid(features_edx=bits(11), syndbg_cap_eax=bits(1))) is True


@pytest.mark.parametrize(
    ("retries", "exposed"),
    [(0, False), (1, True), (0xFFF, True), (0xFFFF_FFFE, True), (0xFFFF_FFFF, False)],
)
def test_a_wait_is_a_number_of_retries(retries, exposed):
    assert BY_NAME["spin-wait"].exposed(Cpuid(enlightenments_ebx=retries)) is exposed


def test_where():
    assert BY_NAME["xmm-input"].where == "0x40000003 EDX bit 4"
    assert BY_NAME["time"].where == "0x40000003 EAX bits 1 and 9"
    assert BY_NAME["spin-wait"].where == "0x40000004 EBX"
    assert BY_NAME["frequencies"].where == "0x40000003 EAX bit 11, 0x40000003 EDX bit 8"


def test_kvm_offers_all_but_what_needs_intel_or_no_smt_and_xmm_output():
    assert [f.name for f in FEATURES if not f.exposed(OFFERED)] == [
        "xmm-output",
        "no-nonarch-coresharing",
        "evmcs",
    ]


# --- calls


def test_calls_for_which_kvm_reads_xmm_registers():
    assert XMM_INPUT_CODES == (0x02, 0x03, 0x13, 0x14, 0x15)


@pytest.mark.parametrize("code", sorted({*CODES, 0x8041, 0x8042, 0xFFF0}))
def test_gates_are_those_of_the_rules_of_kvm(code):
    """What hvtrace explain says on status 6 names the same bits."""
    said = " ".join(rule.when for rule in kvm.rules_of(code) if rule.status == 6)
    for feature in cpuid.gates(code):
        ((word, mask),) = feature.bits
        assert WORDS[word] in said
        if feature.name != "spin-wait":
            bit = mask.bit_length() - 1
            assert f"bit {bit}" in said or f"or {bit}" in said
    assert bool(cpuid.gates(code)) == bool(said)


def test_the_feature_that_a_call_is_about_comes_last():
    assert [f.name for f in cpuid.gates(0x14)] == ["ex-processor-masks", "remote-tlb-flush"]
    assert [f.name for f in cpuid.gates(0x15)] == ["ex-processor-masks", "cluster-ipi"]


# --- flags


def test_features_by_flag():
    assert cpuid.of_flag("hv-ipi") is BY_NAME["cluster-ipi"]
    assert cpuid.of_flag("hv-spinlocks=0x1fff") is BY_NAME["spin-wait"]
    assert cpuid.of_flag("hv-apicv") is BY_NAME["avic"]
    assert cpuid.of_flag("hv-synic") is BY_NAME["synic"]  # what it is about first
    assert cpuid.of_flag("hv-tlbflush") is BY_NAME["remote-tlb-flush"]
    assert cpuid.of_flag("hv-passthrough") is None
    assert cpuid.of_flag("hv-vendor-id=None") is None


def test_what_a_flag_needs_are_flags_for_features():
    needed = {name for feature in FEATURES for name in feature.needs}
    assert needed == {"hv-vpindex"}
