"""What KVM does with each call code: who answers, and with which status.

Read in `kvm_hv_hypercall()`, `hv_check_hypercall_access()` and the handlers
they lead to (arch/x86/kvm/hyperv.c) of Linux 6.1, 6.12 and 7.2, and seen in
real calls on these, but for what needs an inactive SynIC or no local APIC in
the kernel. KVM decides in this order: CPUID enforcement, must-be-zero bits,
XMM input allowed, then the call code.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from hvtrace.hyperv.codes import CODES, name_of

SOURCE = "Linux 6.1, 6.12, 7.2: arch/x86/kvm/hyperv.c"

EXTENDED = range(0x8001, 0x8042)
"""Extended hypercalls: KVM forwards the whole range, known or not."""

EXTENDED_SINCE = "6.3"

HANDLING = {
    "kernel": "answered by KVM, in the kernel",
    "vmm": "forwarded to the VMM: KVM_EXIT_HYPERV, type KVM_EXIT_HYPERV_HCALL",
    "kernel-or-vmm": "answered by KVM where the connection id was registered with "
    "KVM_HYPERV_EVENTFD, else forwarded to the VMM",
    "vmm-if-syndbg": "forwarded to the VMM where SynDBG is on and the guest has chosen hypercalls "
    "as its transport",
    "status-2": "not implemented: status 2, and the VMM is not asked",
}
"""What can happen to a call; the keys are those of codes.csv."""

VMMS = (
    "QEMU answers 0x5c, 0x5d, 0x69, 0x6a and 0x6b, and gives status 2 to everything else; "
    "OpenVMM answers 0x5c and 0x5d"
)


@dataclass(frozen=True, slots=True)
class Handling:
    """How KVM treats a call code."""

    how: str  # key of HANDLING
    since: str | None  # kernel version; "<=5.10": 5.10 has it already; None: not implemented


def handling_of(code: int) -> Handling:
    """How KVM treats `code`, known or not."""
    known = CODES.get(code)
    if known is not None:
        return Handling(known.kvm, known.kvm_since)
    if code in EXTENDED:
        return Handling("vmm", EXTENDED_SINCE)
    return Handling("status-2", None)


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which KVM itself ends calls of these codes other than with success."""

    codes: Container[int]
    status: int | None  # None: #UD in the guest; the call never completes
    when: str
    kernels: str = ""  # empty: 6.1 and later, which were read

    @property
    def scope(self) -> str:
        """The codes in words."""
        if self.codes is ALL:
            return "every code"
        if self.codes is EXTENDED:
            return "extended calls, 0x8001 to 0x8041"
        if isinstance(self.codes, tuple):
            return ", ".join(name_of(code).removeprefix("HvCall") for code in self.codes)
        return "codes that KVM does not implement"


class _NotImplemented(Container[int]):
    """The codes that KVM does not implement."""

    def __contains__(self, code: object) -> bool:
        return isinstance(code, int) and handling_of(code).how == "status-2"


ALL = range(0x10000)
NOT_IMPLEMENTED = _NotImplemented()

FLUSH_LIST = (0x0003, 0x0014)
NO_REP = (0x0002, 0x0008, 0x000B, 0x0013, 0x0015, 0x005C, 0x005D)
"""Codes for which KVM insists on rep count and rep start index being 0."""

NO_VAR = (0x0002, 0x0003, 0x0008, 0x000B, 0x005C, 0x005D)
"""Codes for which KVM insists on a variable header of no size."""

NOT_FAST = (0x0069, 0x006A)
"""Codes, apart from EXTENDED, that KVM refuses when fast."""

_FLUSH = (0x0002, 0x0003, 0x0013, 0x0014)
_VP_SET = (0x0013, 0x0014, 0x0015)
_IPI = (0x000B, 0x0015)
_DEBUG = (0x0069, 0x006A, 0x006B)

_ENFORCED = "CPUID is enforced (hv-enforce-cpuid) and leaf "

RULES: tuple[Rule, ...] = (
    Rule(
        ALL,
        None,
        "the caller is not at CPL 0, or is in real mode; there is no trace event either",
    ),
    Rule(
        ALL,
        3,
        "a must-be-zero bit (30:27, 47:44, 63:60) or the nested bit (31) of the input value is "
        "set; the tracepoint shows none of them",
    ),
    Rule(NOT_IMPLEMENTED, 2, "KVM does not implement the code"),
    Rule(EXTENDED, 2, "KVM does not implement the code", "before 6.3"),
    Rule(EXTENDED, 5, "the call is fast", "6.3 and later"),
    Rule(EXTENDED, 6, _ENFORCED + "0x40000003 EBX lacks bit 20", "6.3 and later"),
    Rule((0x0002, 0x0003), 6, _ENFORCED + "0x40000004 EAX lacks bit 2", "5.14 and later"),
    Rule((0x0013, 0x0014), 6, _ENFORCED + "0x40000004 EAX lacks bit 2 or 11", "5.14 and later"),
    Rule((0x000B,), 6, _ENFORCED + "0x40000004 EAX lacks bit 10", "5.14 and later"),
    Rule((0x0015,), 6, _ENFORCED + "0x40000004 EAX lacks bit 10 or 11", "5.14 and later"),
    Rule((0x0008,), 6, _ENFORCED + "0x40000004 EBX is 0 or 0xffffffff", "5.14 and later"),
    Rule((0x005C,), 6, _ENFORCED + "0x40000003 EBX lacks bit 4", "5.14 and later"),
    Rule((0x005D,), 6, _ENFORCED + "0x40000003 EBX lacks bit 5", "5.14 and later"),
    Rule(_DEBUG, 6, f"SynDBG is on, {_ENFORCED}0x40000003 EBX lacks bit 11", "5.14 and later"),
    Rule(
        _FLUSH,
        None,
        f"the call is fast, {_ENFORCED}0x40000003 EDX lacks bit 4 (XMM input)",
        "5.14 and later",
    ),
    Rule(
        (0x0015,),
        None,
        f"the call is fast, {_ENFORCED}0x40000003 EDX lacks bit 4 (XMM input)",
        "5.18 and later, and stable kernels with the change (5.15)",
    ),
    Rule(_FLUSH, 3, "the call is fast", "before 5.14"),
    Rule((0x0015,), 3, "the call is fast", "before 5.18, but for stable kernels (5.15)"),
    Rule(NO_REP, 3, "a rep count or rep start index is given"),
    Rule(FLUSH_LIST, 3, "the rep count is 0, or the rep start index is not"),
    Rule(NO_VAR, 3, "a variable header is given"),
    Rule(_VP_SET, 3, "the variable header is not one bank for each bit of the VP set's mask"),
    Rule(_VP_SET, 3, "a sparse VP set has more banks than XMM registers can hold (fast)"),
    Rule(
        FLUSH_LIST,
        3,
        "more list entries, up to 15, than the XMM registers left can hold (fast); a longer list "
        "is not read, everything is flushed",
        "6.2 and later",
    ),
    Rule((*_FLUSH, *_IPI), 3, "the parameters cannot be read (memory call)"),
    Rule(_IPI, 3, "the local APIC is not in the kernel"),
    Rule((0x000B,), 3, "the vector is not within 0x10 to 0xff"),
    Rule((0x0015,), 3, "the vector is not within 0x10 to 0xff, and the VP set is not empty"),
    Rule((0x000B,), 3, "the upper half of RDX, which is reserved, is not 0 (fast)"),
    Rule((0x005C,), 3, "SynIC is not active on the vCPU"),
    Rule((0x005D,), 3, "a reserved bit of the connection id is set"),
    Rule((0x005D,), 3, "the connection id is not registered, and SynIC not active on the vCPU"),
    Rule(
        (0x005D,),
        4,
        "the parameter's address is not 8-byte aligned, crosses a page, or cannot be read (memory "
        "call)",
    ),
    Rule(NOT_FAST, 5, "the call is fast"),
    Rule(_DEBUG, 2, "SynDBG is off"),
    Rule(_DEBUG, 8, "the guest did not choose hypercalls as SynDBG's transport"),
)
"""All statuses that KVM itself gives, apart from success, and its #UD."""

HISTORY: tuple[tuple[Container[int], str], ...] = (
    (
        FLUSH_LIST,
        "up to 6.1 the address list is not read and everything is flushed; from 6.2 the entries "
        "are flushed one by one",
    ),
    (_FLUSH, "from 6.2 a call of a nested guest (L2) can be answered here too"),
)
"""What differs between kernels beyond the statuses."""

XMM_USE = {
    0x0002: "the low half of XMM0 is the processor mask",
    0x0003: "the low half of XMM0 is the processor mask, list entries follow from its high half on",
    0x0013: "XMM0 is the VP set's format and mask, banks follow from XMM1 on",
    0x0014: "XMM0 is the VP set's format and mask, banks, then list entries follow from XMM1 on",
    0x0015: "the low half of XMM0 is the VP set's mask, banks follow from its high half on",
}
"""What KVM finds in the XMM registers. It copies all six, whatever the length."""


def rules_of(code: int) -> tuple[Rule, ...]:
    """How KVM itself ends calls of `code`, #UD first, then by status."""
    found = [rule for rule in RULES if code in rule.codes]
    return tuple(sorted(found, key=lambda rule: -1 if rule.status is None else rule.status))


def history_of(code: int) -> tuple[str, ...]:
    """What differs between kernels for `code`, beyond the statuses."""
    return tuple(text for codes, text in HISTORY if code in codes)
