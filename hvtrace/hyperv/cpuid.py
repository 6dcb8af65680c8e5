"""What a VMM tells its guest about Hyper-V: CPUID leaves 0x40000003 to 0x4000000A.

Bits as in TLFS 2.4 "feature discovery" and Linux' hyperv-tlfs.h; flags as in QEMU's
kvm_hyperv_properties and hyperv_fill_cpuids() (target/i386/kvm/kvm.c) and its
documentation (docs/system/i386/hyperv.rst); what a call stands on as in KVM's
hv_check_hypercall_access() (arch/x86/kvm/hyperv.c, Linux 6.1 to 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.kvm import EXTENDED

WORDS = {
    "features_eax": "0x40000003 EAX",
    "features_ebx": "0x40000003 EBX",
    "features_edx": "0x40000003 EDX",
    "enlightenments_eax": "0x40000004 EAX",
    "enlightenments_ebx": "0x40000004 EBX",
    "syndbg_cap_eax": "0x40000082 EAX",
    "nested_eax": "0x4000000A EAX",
    "nested_ebx": "0x4000000A EBX",
}
"""The words that KVM keeps for each vCPU (kvm_vcpu_hv.cpuid_cache): leaf and register."""

_WHOLE = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Cpuid:
    """One vCPU's Hyper-V CPUID, named as in the kernel. None: this kernel keeps no such word."""

    features_eax: int | None = None
    features_ebx: int | None = None
    features_edx: int | None = None
    enlightenments_eax: int | None = None
    enlightenments_ebx: int | None = None
    syndbg_cap_eax: int | None = None
    nested_eax: int | None = None
    nested_ebx: int | None = None


NOTHING = Cpuid(*[0] * len(WORDS))
"""No feature at all."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a VMM can expose: bits that are all set, in one word or two."""

    name: str
    title: str  # the TLFS's words, more or less, as a sentence needs them
    bits: tuple[tuple[str, int], ...]  # (one of WORDS, mask)
    flag: str | None = None  # of QEMU's -cpu
    needs: tuple[str, ...] = ()  # flags without which QEMU refuses this one

    def exposed(self, cpuid: Cpuid | None) -> bool | None:
        """Whether `cpuid` has all of it; None where that is not known."""
        if cpuid is None:
            return None
        found = [_has(getattr(cpuid, word), mask) for word, mask in self.bits]
        return False if False in found else None if None in found else True

    @property
    def where(self) -> str:
        """Leaf, register and bits: "0x40000003 EAX bits 1 and 9"."""
        return ", ".join(f"{WORDS[word]}{_bits(mask)}" for word, mask in self.bits)


def _has(value: int | None, mask: int) -> bool | None:
    if value is None:
        return None
    if mask == _WHOLE:  # a number of retries, of which two values mean never
        return value not in (0, _WHOLE)
    return value & mask == mask


def _bits(mask: int) -> str:
    numbers = [str(bit) for bit in range(32) if mask >> bit & 1 and mask != _WHOLE]
    return f" bit{'s' * (len(numbers) > 1)} {' and '.join(numbers)}" if numbers else ""


def _feature(
    name: str,
    title: str,
    *bits: tuple[str, int],
    flag: str | None = None,
    needs: tuple[str, ...] = (),
) -> Feature:
    """A feature by its bit numbers, which is how the documents name them."""
    masks: dict[str, int] = {}
    for word, bit in bits:
        masks[word] = masks.get(word, 0) | 1 << bit
    return Feature(name, title, tuple(masks.items()), flag, needs)


_EAX, _EBX, _EDX, _HINTS = "features_eax", "features_ebx", "features_edx", "enlightenments_eax"
_VP = ("hv-vpindex",)

FEATURES: tuple[Feature, ...] = (
    _feature("xmm-input", "XMM input", (_EDX, 4), flag="hv-xmm-input"),
    _feature("xmm-output", "XMM output", (_EDX, 15)),
    _feature("remote-tlb-flush", "remote TLB flush", (_HINTS, 2), flag="hv-tlbflush", needs=_VP),
    _feature("tlb-flush-ranges", "TLB flush of large ranges", (_EDX, 14), flag="hv-tlbflush-ext"),
    _feature("cluster-ipi", "cluster IPIs", (_HINTS, 10), flag="hv-ipi", needs=_VP),
    _feature("ex-processor-masks", "processor sets", (_HINTS, 11), flag="hv-tlbflush", needs=_VP),
    Feature(
        "spin-wait",
        "spin wait notification",
        (("enlightenments_ebx", _WHOLE),),
        flag="hv-spinlocks=0xfff",
    ),
    _feature("vpindex", "VP index", (_EAX, 6), flag="hv-vpindex"),
    _feature("synic", "SynIC", (_EAX, 2), flag="hv-synic", needs=_VP),
    _feature("post-messages", "PostMessage", (_EBX, 4), flag="hv-synic", needs=_VP),
    _feature("signal-events", "SignalEvent", (_EBX, 5), flag="hv-synic", needs=_VP),
    _feature("stimer", "synthetic timers", (_EAX, 3), flag="hv-stimer"),
    _feature("stimer-direct", "direct synthetic timers", (_EDX, 19), flag="hv-stimer-direct"),
    _feature("time", "reference counter and TSC page", (_EAX, 1), (_EAX, 9), flag="hv-time"),
    _feature("frequencies", "frequency MSRs", (_EAX, 11), (_EDX, 8), flag="hv-frequencies"),
    _feature("reenlightenment", "reenlightenment", (_EAX, 13), flag="hv-reenlightenment"),
    _feature("reset", "reset MSR", (_EAX, 7), flag="hv-reset"),
    _feature("runtime", "VP run time", (_EAX, 0), flag="hv-runtime"),
    _feature("crash", "crash MSRs", (_EDX, 10), flag="hv-crash"),
    _feature("relaxed", "relaxed timing", (_HINTS, 5), flag="hv-relaxed"),
    _feature("vapic", "APIC MSRs and VP assist page", (_EAX, 4), flag="hv-vapic"),
    _feature("avic", "no AutoEOI", (_HINTS, 9), flag="hv-avic"),
    _feature(
        "no-nonarch-coresharing",
        "no core sharing but of SMT siblings",
        (_HINTS, 18),
        flag="hv-no-nonarch-coresharing",
    ),
    _feature("evmcs", "enlightened VMCS", (_HINTS, 14), flag="hv-evmcs"),
    _feature(
        "tlb-flush-direct", "direct TLB flush of L2", ("nested_eax", 17), flag="hv-tlbflush-direct"
    ),
    _feature("emsr-bitmap", "enlightened MSR bitmap", ("nested_eax", 19), flag="hv-emsr-bitmap"),
    _feature("syndbg", "SynDBG", (_EDX, 11), ("syndbg_cap_eax", 1), flag="hv-syndbg"),
    _feature("debugging", "debug calls", (_EBX, 11)),
    _feature("extended-hypercalls", "extended hypercalls", (_EBX, 20)),
)
"""What can be exposed, what calls stand on first. QEMU has no flag for some of it."""

BY_NAME = {feature.name: feature for feature in FEATURES}

_ALIASES = {"hv-apicv": "hv-avic"}

_FLUSH, _FLUSH_EX = ("remote-tlb-flush",), ("ex-processor-masks", "remote-tlb-flush")
_GATES = {
    0x0002: _FLUSH,
    0x0003: _FLUSH,
    0x0008: ("spin-wait",),
    0x000B: ("cluster-ipi",),
    0x0013: _FLUSH_EX,
    0x0014: _FLUSH_EX,
    0x0015: ("ex-processor-masks", "cluster-ipi"),
    0x005C: ("post-messages",),
    0x005D: ("signal-events",),
    0x0069: ("debugging",),  # where SynDBG is on: else KVM does not implement these three
    0x006A: ("debugging",),
    0x006B: ("debugging",),
    **dict.fromkeys(EXTENDED, ("extended-hypercalls",)),
}

XMM_INPUT_CODES = tuple(code for code, known in CODES.items() if known.xmm_input_since)
"""Codes for which KVM reads XMM registers: is_xmm_fast_hypercall()."""


def gates(code: int) -> tuple[Feature, ...]:
    """Features without which KVM denies `code` where CPUID is enforced; the one it is about last.

    A fast call of XMM_INPUT_CODES needs xmm-input besides: #UD without it.
    """
    return tuple(BY_NAME[name] for name in _GATES.get(code, ()))


def of_flag(flag: str) -> Feature | None:
    """What a flag of QEMU (its value does not matter) is about first; None: no feature."""
    name = flag.partition("=")[0]
    name = _ALIASES.get(name, name)
    return next((f for f in FEATURES if f.flag and f.flag.partition("=")[0] == name), None)
