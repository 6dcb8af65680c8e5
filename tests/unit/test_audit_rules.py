"""Every rule: a guest for which it fires, and those so near that it must not. And nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from audit_samples import OFFERED, call, exit_, guest, having, host, refused, without

from hvtrace.audit.facts import Guest
from hvtrace.audit.rules import RULES, SEVERITIES, findings
from hvtrace.hyperv.cpuid import FEATURES, NOTHING

DOCS = Path(__file__).parents[2] / "docs" / "findings.md"

NO_XMM_INPUT = without(OFFERED, features_edx=4)
XMM_OUTPUT = having(OFFERED, features_edx=15)
NO_IPI = without(OFFERED, enlightenments_eax=10)
NO_FLUSH = without(OFFERED, enlightenments_eax=2)
NEVER_NOTIFY = replace(OFFERED, enlightenments_ebx=0xFFFF_FFFF)
GROWN = {"xmm_output_kind": "grown"}
NEW_TYPE = {"xmm_output_kind": "new-type"}

IPI = call(0x0B, 1)
FLUSH = call(0x02, 1, fast=True)
MESSAGES = call(0x5C, 211, handler="vmm")


def judge(it, **changes_to_host):
    return findings(host(**changes_to_host), it)


def test_a_guest_in_good_order_has_no_finding():
    assert judge(guest()) == ()


@pytest.mark.parametrize("kind", ["none", "grown", "new-type", "unknown"])
def test_nor_on_any_kernel_nor_without_qemu_nor_where_nothing_is_known(kind):
    assert judge(guest(), xmm_output_kind=kind, offered=None) == ()
    assert judge(guest(flags=None), xmm_output_kind=kind) == ()
    blind = guest(cpuid=None, enforced=None, hyperv=None, flags=None)
    assert judge(blind, xmm_output_kind=kind, offered=None) == ()


def test_nor_one_that_has_no_hyper_v_and_did_not_ask_for_it():
    linux = guest(calls=(), hyperv=False, cpuid=None, enforced=None, flags=())
    assert judge(linux) == ()


class Fires(NamedTuple):
    """A guest with exactly one finding."""

    id: str
    guest: Guest
    text: str
    codes: tuple[int, ...] = ()
    per_minute: float | None = None
    flag: str | None = None
    host: dict[str, object] = {}  # noqa: RUF012 (never changed)


FIRES = [
    Fires(
        "xmm-input-not-exposed",
        guest(calls=(call(0x02, 516_667), IPI), cpuid=NO_XMM_INPUT, flags=("hv-ipi",)),
        "makes 3.1 M memory-form FlushVirtualAddressSpace a minute; XMM input is not exposed:"
        " hv-xmm-input",
        (0x02,),
        3_100_002.0,
        "hv-xmm-input",
    ),
    Fires(
        "xmm-input-not-exposed",
        guest(calls=(call(0x13, 7), call(0x15, 11)), cpuid=NO_XMM_INPUT, flags=None),
        "makes 66 memory-form SendSyntheticClusterIpiEx and 42 memory-form"
        " FlushVirtualAddressSpaceEx a minute; XMM input is not exposed (0x40000003 EDX bit 4; in"
        " QEMU hv-xmm-input)",
        (0x15, 0x13),
        108.0,
        "hv-xmm-input",
    ),
    Fires(
        "xmm-input-not-exposed",
        guest(calls=(call(0x02, 7), IPI), cpuid=NO_XMM_INPUT, flags=("hv-passthrough",)),
        "makes 42 memory-form FlushVirtualAddressSpace a minute; XMM input is not exposed"
        " (0x40000003 EDX bit 4) though its flags ask for it: is this QEMU too old?",
        (0x02,),
        42.0,
    ),
    Fires(
        "ipi-unused",
        guest(calls=(call(0x02, 211, fast=True),)),
        "exposes hv-ipi and never sends one, among 1.3 k hypercalls a minute",
    ),
    Fires(
        "tlb-flush-unused",
        guest(calls=(call(0x0B, 211, fast=True),)),
        "exposes hv-tlbflush and never flushes by it, among 1.3 k hypercalls a minute",
    ),
    Fires(
        "ipi-not-exposed",
        guest(calls=(FLUSH,), cpuid=NO_IPI, flags=("hv-relaxed",)),
        "has 4 vCPUs and no cluster IPIs, which this KVM offers: hv-ipi, which needs hv-vpindex",
        flag="hv-ipi",
    ),
    Fires(
        "tlb-flush-not-exposed",
        guest(calls=(IPI,), cpuid=NO_FLUSH, flags=("hv-ipi", "hv-vpindex")),
        "has 4 vCPUs and no remote TLB flush, which this KVM offers: hv-tlbflush",
        flag="hv-tlbflush",
    ),
    Fires(
        "xmm-output-refused",
        guest(refused(0x52, 3), refused(0x50, 17)),
        "asks for XMM output and is refused 120 times a minute (GetVpRegisters and"
        " TranslateVirtualAddress): this KVM has no XMM output",
        (0x50, 0x52),
        120.0,
    ),
    Fires(
        "xmm-output-refused",
        guest(refused(0x50, 17)),
        "asks for XMM output and is refused 102 times a minute (GetVpRegisters): it is not exposed"
        " (0x40000003 EDX bit 15)",
        (0x50,),
        102.0,
        host=GROWN,
    ),
    Fires(
        "xmm-output-refused",
        guest(refused(0x50, 17, "vmm", "INVALID_PARAMETER"), cpuid=XMM_OUTPUT),
        "asks for XMM output and is refused 102 times a minute (GetVpRegisters): userspace answers"
        " INVALID_PARAMETER",
        (0x50,),
        102.0,
        host=GROWN,
    ),
    Fires(
        "xmm-output-refused",
        guest(refused(0x4A, 17), cpuid=XMM_OUTPUT),
        "asks for XMM output and is refused 102 times a minute (GetMemoryBalance): KVM answers"
        " INVALID_HYPERCALL_CODE",
        (0x4A,),
        102.0,
        host=NEW_TYPE,
    ),
    Fires(
        "xmm-output-refused",
        guest(
            call(0x50, 0, fast=True, statuses={}, unfinished=17, output={"refused": 17}),
            cpuid=XMM_OUTPUT,
        ),
        "asks for XMM output and is refused 102 times a minute (GetVpRegisters): they never"
        " completed",
        (0x50,),
        102.0,
        host=NEW_TYPE,
    ),
    Fires(
        "xmm-output-exposed",
        guest(cpuid=XMM_OUTPUT),
        "exposes XMM output (0x40000003 EDX bit 15), which this KVM does not have: fast calls with"
        " output cannot succeed",
    ),
    Fires(
        "xmm-output-claimed",
        guest(call(0x46, 7, fast=True, handler="vmm", output={"claimed": 7})),
        "userspace answers success to 42 fast GetPartitionId a minute, which have output, on a"
        " kernel without XMM output: the guest takes stale registers for the result",
        (0x46,),
        42.0,
    ),
    Fires(
        "xmm-output-untouched",
        guest(
            call(0x52, 11, fast=True, handler="vmm", output={"used-xmm": 11}),
            exits=(exit_(0x52, untouched=3), exit_(0x46)),
        ),
        "userspace answers success to 18 fast TranslateVirtualAddress a minute and leaves the"
        " registers of the exit as they were: the guest takes its own input for the result",
        (0x52,),
        18.0,
        host=GROWN,
    ),
    Fires(
        "xmm-output-impossible",
        guest(
            call(
                0x50,
                5,
                fast=True,
                statuses={"INVALID_HYPERCALL_CODE": 5},
                output={"impossible": 5},
            )
        ),
        "makes 30 fast GetVpRegisters a minute with more input and output than the registers hold:"
        " the guest should pass them in memory",
        (0x50,),
        30.0,
    ),
    Fires(
        "new-exit-type",
        guest(exits=(exit_(0x50, 5, calls=13), exit_(0x52, 4))),
        "78 GetVpRegisters a minute leave by exit type 5, which hvtrace does not know",
        (0x50,),
        78.0,
        host=NEW_TYPE,
    ),
    Fires(
        "exit-not-handled",
        guest(
            call(0x52, 2, fast=True, handler="vmm", unfinished=1, output={"used-xmm": 3}),
            exits=(exit_(0x52, 4),),
        ),
        "userspace never finishes 6 TranslateVirtualAddress a minute, which leave by exit type 4:"
        " it does not know that exit",
        (0x52,),
        6.0,
        host=NEW_TYPE,
    ),
    Fires(
        "unexposed-call",
        guest(call(0x8001, 3, handler="vmm"), cpuid=without(OFFERED, features_ebx=20)),
        "makes 18 ExtQueryCapabilities a minute, which KVM serves only because CPUID is not"
        " enforced: extended hypercalls are not exposed (0x40000003 EBX bit 20; QEMU has no flag"
        " for it)",
        (0x8001,),
        18.0,
    ),
    Fires(
        "unexposed-call",
        guest(cpuid=NO_XMM_INPUT, enforced=None, flags=("hv-tlbflush",)),
        "makes 6.1 k XMM-form FlushVirtualAddressSpace a minute, which KVM serves only because"
        " CPUID is not enforced: XMM input is not exposed: hv-xmm-input",
        (0x02,),
        6054.0,
        "hv-xmm-input",
    ),
    Fires(
        "unexposed-call",
        guest(cpuid=NO_IPI, flags=None),
        "makes 3 k SendSyntheticClusterIpi a minute, which KVM serves only because CPUID is not"
        " enforced: cluster IPIs are not exposed (0x40000004 EAX bit 10; in QEMU hv-ipi)",
        (0x0B,),
        3018.0,
        "hv-ipi",
    ),
    Fires(
        "denied-by-cpuid",
        guest(
            call(0x08, 19, fast=True, statuses={"ACCESS_DENIED": 19}),
            cpuid=NEVER_NOTIFY,
            enforced=True,
            flags=("hv-enforce-cpuid",),
        ),
        "114 NotifyLongSpinWait a minute fail with ACCESS_DENIED: CPUID is enforced, and spin wait"
        " notification is not exposed: hv-spinlocks=0xfff",
        (0x08,),
        114.0,
        "hv-spinlocks=0xfff",
    ),
    Fires(
        "denied-by-cpuid",
        guest(
            call(0x14, 5, statuses={"ACCESS_DENIED": 5}),
            cpuid=without(OFFERED, enlightenments_eax=11),
            enforced=True,
            flags=None,
        ),
        "30 FlushVirtualAddressListEx a minute fail with ACCESS_DENIED: CPUID is enforced, and"
        " processor sets are not exposed (0x40000004 EAX bit 11; in QEMU hv-tlbflush)",
        (0x14,),
        30.0,
        "hv-tlbflush",
    ),
    Fires(  # no BTF: the status alone says it
        "denied-by-cpuid",
        guest(
            call(0x13, 5, statuses={"ACCESS_DENIED": 3, "SUCCESS": 2}),
            cpuid=None,
            enforced=None,
            flags=(),
        ),
        "18 FlushVirtualAddressSpaceEx a minute fail with ACCESS_DENIED: CPUID is enforced, and"
        " remote TLB flush is not exposed: hv-tlbflush, which needs hv-vpindex",
        (0x13,),
        18.0,
        "hv-tlbflush",
    ),
    Fires(
        "denied-by-cpuid",
        guest(
            calls=(call(0x02, 0, fast=True, unfinished=23), IPI),
            cpuid=NO_XMM_INPUT,
            enforced=True,
            flags=("hv-vpindex",),
        ),
        "138 FlushVirtualAddressSpace a minute end in #UD: CPUID is enforced, and XMM input is not"
        " exposed: hv-xmm-input",
        (0x02,),
        138.0,
        "hv-xmm-input",
    ),
    Fires(
        "not-implemented",
        guest(call(0x4F, 3, statuses={"INVALID_HYPERCALL_CODE": 2, "SUCCESS": 1})),
        "makes 12 DeleteVp a minute, which this KVM does not implement",
        (0x4F,),
        12.0,
    ),
    Fires(
        "not-implemented",
        guest(call(0x8001, 3, handler="vmm", statuses={"INVALID_HYPERCALL_CODE": 3})),
        "makes 18 ExtQueryCapabilities a minute, which userspace does not implement",
        (0x8001,),
        18.0,
    ),
    Fires(
        "not-implemented",
        guest(call(0x69, 3, statuses={"INVALID_HYPERCALL_CODE": 3})),
        "makes 18 PostDebugData a minute, which KVM does not serve while SynDBG is off",
        (0x69,),
        18.0,
    ),
    Fires(
        "no-hypercalls",
        guest(calls=()),
        "is given Hyper-V and made no hypercall in 10 s: it does not use it, or is idle",
    ),
    Fires(
        "flag-without-effect",
        guest(
            flags=("hv-ipi", "hv-apicv", "hv-evmcs"), cpuid=without(OFFERED, enlightenments_eax=9)
        ),
        "has hv-apicv and hv-evmcs on its command line, without effect on its vCPUs",
    ),
    Fires(
        "flag-without-effect",
        guest(flags=("hv-spinlocks=0",), cpuid=replace(OFFERED, enlightenments_ebx=0)),
        "has hv-spinlocks=0 on its command line, without effect on its vCPUs",
    ),
    Fires(
        "flag-without-effect",
        guest(
            calls=(), hyperv=False, cpuid=None, enforced=False, flags=("hv-ipi", "hv-enforce-cpuid")
        ),
        "has hv-ipi and hv-enforce-cpuid on its command line, without effect on its vCPUs",
    ),
    Fires(
        "cpuid-differs",
        guest(same_cpuid=False),
        "its vCPUs differ in their Hyper-V CPUID: what is said here is of the first",
    ),
]


@pytest.mark.parametrize("case", FIRES, ids=[case.id for case in FIRES])
def test_what_is_found_and_nothing_else(case):
    (found,) = judge(case.guest, **case.host)
    assert (found.id, found.text) == (case.id, case.text)
    assert (found.codes, found.per_minute) == (case.codes, case.per_minute)
    assert found.flag == case.flag
    assert found.severity == RULES[case.id][0]


def test_every_rule_fires_above():
    assert {case.id for case in FIRES} == RULES.keys()


SINGLE = {"vcpus": 1}

NEAR = {
    "XMM input: all in registers": (guest(calls=(FLUSH, IPI)), {}),
    "XMM input: the kernel does not offer it": (
        guest(calls=(call(0x02), IPI), cpuid=NO_XMM_INPUT, flags=()),
        {"offered": NO_XMM_INPUT},
    ),
    "XMM input: exposed, and the guest prefers memory": (guest(calls=(call(0x02), IPI)), {}),
    "XMM input: no call for which KVM reads the registers": (
        guest(calls=(call(0x5D, 7), call(0x0B, 7)), cpuid=NO_XMM_INPUT, flags=(), **SINGLE),
        {},
    ),
    "unused: one vCPU": (guest(calls=(MESSAGES,), **SINGLE), {}),
    "unused: an idle guest": (guest(calls=(call(0x5C, 9, handler="vmm"),)), {}),
    "unused: not exposed, not offered": (
        guest(calls=(MESSAGES,), cpuid=without(NO_IPI, enlightenments_eax=2), flags=()),
        {"offered": None},
    ),
    "unused: the other code": (guest(calls=(MESSAGES, call(0x15, 1), call(0x14, 1))), {}),
    "not exposed: one vCPU": (guest(calls=(FLUSH,), cpuid=NO_IPI, flags=(), **SINGLE), {}),
    "not exposed: nor does the kernel offer it": (
        guest(calls=(FLUSH,), cpuid=NO_IPI, flags=()),
        {"offered": NO_IPI},
    ),
    "output: used": (
        guest(call(0x50, 7, fast=True, handler="vmm", output={"used-xmm": 7}), cpuid=XMM_OUTPUT),
        GROWN,
    ),
    "output: exposed where there is some": (
        guest(cpuid=XMM_OUTPUT),
        {"xmm_output_kind": "unknown"},
    ),
    "output: in memory": (guest(call(0x50, 7, handler="vmm")), {}),
    "exits: as ever, and the one proposed": (guest(exits=(exit_(0x50), exit_(0x52, 4))), NEW_TYPE),
    "exits: unfinished, of a type that all know": (
        guest(
            call(0x52, 2, fast=True, handler="vmm", unfinished=1, output={"used-xmm": 3}),
            exits=(exit_(0x52, 3),),
        ),
        GROWN,
    ),
    "exits: another call is unfinished": (
        guest(call(0x5C, 2, handler="vmm", unfinished=1), exits=(exit_(0x52, 4),)),
        NEW_TYPE,
    ),
    "unexposed: it failed": (
        guest(
            call(0x8001, 3, handler="vmm", statuses={"INVALID_PARAMETER": 3}),
            cpuid=without(OFFERED, features_ebx=20),
        ),
        {},
    ),
    "unexposed: the kernel keeps no such word": (
        guest(call(0x8001, 3, handler="vmm"), cpuid=replace(OFFERED, features_ebx=None)),
        {},
    ),
    "denied: by userspace": (
        guest(call(0x5C, 3, handler="vmm", statuses={"ACCESS_DENIED": 3}), enforced=True),
        {},
    ),
    "denied: unfinished in general registers": (
        guest(
            calls=(call(0x0B, 3, fast=True, unfinished=2),),
            cpuid=without(NO_XMM_INPUT, enlightenments_eax=2),
            enforced=True,
            flags=(),
            **SINGLE,
        ),
        {},
    ),
    "denied: unfinished, with XMM input exposed": (
        guest(call(0x03, 3, fast=True, unfinished=2), enforced=True),
        {},
    ),
    "no hypercalls: not Hyper-V": (guest(calls=(), hyperv=False, cpuid=None, flags=None), {}),
    "no hypercalls: no vCPU has run": (guest(calls=(), cpuid=None), {}),
    "flags: no feature, and a wait without end": (
        guest(
            flags=("hv-vendor-id=KVM", "hv-spinlocks=0xffffffff", "hv-no-nonarch-coresharing=auto"),
            cpuid=NEVER_NOTIFY,
        ),
        {},
    ),
    "flags: enforced, as they say": (guest(flags=("hv-enforce-cpuid",), enforced=True), {}),
    "flags: nothing is known": (guest(flags=("hv-evmcs",), cpuid=None, enforced=None), {}),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_not_found(name):
    it, changes = NEAR[name]
    assert judge(it, **changes) == ()


# --- several at once


def ids(found):
    return [one.id for one in found]


def test_a_busy_guest_is_said_to_be_so_from_one_call_a_second_on():
    ten, nine = (guest(calls=(call(0x5C, n, handler="vmm"),)) for n in (10, 9))
    assert ids(judge(ten)) == ["ipi-unused", "tlb-flush-unused"]
    assert judge(nine) == ()


def test_calls_in_both_forms_without_the_bit_name_the_flag_once():
    it = guest(call(0x02, 503), cpuid=NO_XMM_INPUT, flags=())
    assert ids(judge(it)) == ["unexposed-call"]


def test_calls_without_the_feature_name_the_flag_once():
    assert ids(judge(guest(cpuid=NO_FLUSH, flags=()))) == ["unexposed-call"]
    denied = guest(
        calls=(call(0x0B, 7, statuses={"ACCESS_DENIED": 7}),), cpuid=NO_IPI, enforced=True, flags=()
    )
    assert "ipi-not-exposed" not in ids(judge(denied))


def test_a_call_may_need_two_features():
    it = guest(calls=(FLUSH, IPI), cpuid=without(NO_FLUSH, features_edx=4), flags=())
    assert [one.flag for one in judge(it)] == ["hv-tlbflush", "hv-xmm-input"]


def test_of_two_features_of_one_call_the_one_it_is_about_is_named():
    neither = without(NO_FLUSH, enlightenments_eax=11)
    it = guest(calls=(call(0x14, 7, fast=True), IPI), cpuid=neither, flags=None)
    (found,) = judge(it)
    assert "remote TLB flush is not exposed (0x40000004 EAX bit 2;" in found.text


def test_several_statuses_of_one_refusal():
    both = replace(refused(0x50, 5, "vmm"), statuses={"INVALID_PARAMETER": 3, "ACCESS_DENIED": 2})
    (found,) = judge(guest(both, cpuid=XMM_OUTPUT), xmm_output_kind="grown")
    assert found.text.endswith(": userspace answers INVALID_PARAMETER or ACCESS_DENIED")


def test_attempts_are_told_apart_from_calls_that_nobody_implements():
    both = call(
        0x50,
        13,
        fast=True,
        statuses={"INVALID_HYPERCALL_CODE": 13},
        output={"refused": 7, "impossible": 4},
    )
    rates = {one.id: one.per_minute for one in judge(guest(both))}
    assert rates == {
        "xmm-output-refused": 42.0,
        "xmm-output-impossible": 24.0,
        "not-implemented": 12.0,
    }


def test_refusals_are_told_apart_by_their_reason():
    it = guest(refused(0x4A, 2), refused(0x50, 3, "vmm", "INVALID_PARAMETER"), cpuid=XMM_OUTPUT)
    found = judge(it, xmm_output_kind="grown")
    assert [(one.codes, one.per_minute) for one in found] == [((0x4A,), 12.0), ((0x50,), 18.0)]


def test_a_vmm_that_promises_what_its_kernel_has_not():
    found = judge(guest(refused(0x50), cpuid=XMM_OUTPUT))
    assert ids(found) == ["xmm-output-refused", "xmm-output-exposed"]


def test_a_guest_that_is_shown_nothing_but_hyper_v_itself():
    it = guest(calls=(MESSAGES,), cpuid=NOTHING, flags=("hv-time",))
    assert ids(judge(it)) == [
        "unexposed-call",
        "flag-without-effect",
        "ipi-not-exposed",
        "tlb-flush-not-exposed",
    ]


def test_the_worst_comes_first():
    severities = [severity for severity, _ in RULES.values()]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(severities) == set(SEVERITIES)


def test_an_interval_without_length_is_no_error():
    assert judge(guest(refused(0x50)), duration_s=0.0)[0].id == "xmm-output-refused"


# --- the documents


def test_the_document_has_a_section_for_every_id_and_no_other():
    sections = re.findall(r"^### `(.+)`$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections == list(RULES)


def test_every_section_says_all_that_it_should():
    text = DOCS.read_text(encoding="utf-8")
    for section in text.split("\n### ")[1:]:
        name = section.partition("`\n")[0].strip("`")
        severity, *words = (RULES[name][0], "Why it matters", "What to do", "When it is wrong")
        assert f"*{severity}*" in section, name
        assert [word for word in words if f"**{word}.**" not in section] == [], name


def test_flags_in_the_document_are_flags_that_there_are():
    named = set(re.findall(r"hv-[a-z-]+[a-z]", DOCS.read_text(encoding="utf-8")))
    known = {str(feature.flag).partition("=")[0] for feature in FEATURES}
    assert named <= known | {"hv-passthrough", "hv-enforce-cpuid"}
