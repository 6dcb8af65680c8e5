"""The CPUID a guest gets: KVM's, with Hyper-V's leaves, edited by feature."""

from __future__ import annotations

from collections.abc import Iterable

from hvtrace.guest.abi import CpuidEntry
from hvtrace.guest.memory import CpuidEdit

_FEATURES_LEAF, _RECOMMENDATIONS_LEAF = 0x40000003, 0x40000004
_HYPERVISOR_LEAVES = range(0x40000000, 0x40010000)
_SYNDBG_LEAVES = range(0x40000080, 0x40000083)

FEATURES: dict[str, tuple[int, str, int]] = {
    "post-messages": (_FEATURES_LEAF, "ebx", 1 << 4),
    "signal-events": (_FEATURES_LEAF, "ebx", 1 << 5),
    "debugging": (_FEATURES_LEAF, "ebx", 1 << 11),
    "extended-hypercalls": (_FEATURES_LEAF, "ebx", 1 << 20),
    "xmm-input": (_FEATURES_LEAF, "edx", 1 << 4),
    "xmm-output": (_FEATURES_LEAF, "edx", 1 << 15),
    "remote-tlb-flush": (_RECOMMENDATIONS_LEAF, "eax", 1 << 2),
    "cluster-ipi": (_RECOMMENDATIONS_LEAF, "eax", 1 << 10),
    "ex-processor-masks": (_RECOMMENDATIONS_LEAF, "eax", 1 << 11),
    "spin-wait": (_RECOMMENDATIONS_LEAF, "ebx", 0xFFFFFFFF),  # retries before the call: 0 is none
}
"""Enlightenments a mix can withhold or offer: leaf, register, bits (TLFS: feature discovery)."""


_REGISTERS = ("eax", "ebx", "ecx", "edx")


def offers(hyperv: Iterable[CpuidEntry], feature: str) -> bool:
    """Whether the leaves that KVM offers have all bits of one of FEATURES."""
    leaf, register, bits = FEATURES[feature]
    found = (getattr(entry, register) for entry in hyperv if entry.function == leaf)
    return any(value & bits == bits for value in found)


def guest_cpuid(
    host: Iterable[CpuidEntry],
    hyperv: Iterable[CpuidEntry],
    edits: Iterable[CpuidEdit] = (),
    *,
    syndbg: bool = False,
) -> list[CpuidEntry]:
    """`host` with the leaves of `hyperv`, edited, instead of its hypervisor leaves (KVM's own).

    Without `syndbg` the leaves of the synthetic debugger are left out, which
    switches it off. The entries given are not changed.
    """
    plain = [entry for entry in host if entry.function not in _HYPERVISOR_LEAVES]
    enlightened = {
        entry.function: CpuidEntry.from_buffer_copy(entry)
        for entry in hyperv
        if syndbg or entry.function not in _SYNDBG_LEAVES
    }
    for edit in edits:
        entry, register = enlightened[edit.leaf], _REGISTERS[edit.register]
        setattr(entry, register, getattr(entry, register) & ~edit.clear | edit.set)
    return [*plain, *enlightened.values()]
