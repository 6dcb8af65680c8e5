"""How a KVM hands the output of fast calls to the guest: which exit, which structure.

No released kernel can (up to 7.2). Two ways were proposed: a grown
``struct kvm_hyperv_exit`` under KVM_EXIT_HYPERV_HCALL (series of June 2024), and an
exit type of its own (its review, July 2024: KVM_EXIT_HYPERV_HCALL_XMM), whose number
is not assigned and stands in no type information: it is known when it was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = {
    "none": "this KVM cannot return output in registers",
    "grown": "KVM_EXIT_HYPERV_HCALL with a grown structure",
    "new-type": "an exit type of its own",
    "unknown": "this KVM offers it, by an interface that its types do not show",
}

HCALL = 2  # KVM_EXIT_HYPERV_HCALL: include/uapi/linux/kvm.h
_STOCK_TYPES = {1: "synic", HCALL: "hcall", 3: "syndbg"}
_STOCK_HCALL_BYTES = 32  # input, result, two parameters


@dataclass(frozen=True, slots=True)
class Part:
    """One member of the union in ``struct kvm_hyperv_exit``."""

    size_bytes: int
    params_at: int | None = None  # offset of RDX and R8, where it has them
    xmm_at: int | None = None  # offset of XMM0 to XMM5


@dataclass(frozen=True, slots=True)
class Interface:
    """What the types, the symbols and the CPUID of a KVM say of it."""

    offered: bool = False  # CPUID 0x40000003 EDX bit 15 in KVM_GET_SUPPORTED_HV_CPUID
    symbol: str | None = None  # a function of the proposed patches, by BTF or kallsyms
    exit_bytes: int | None = None  # size of struct kvm_hyperv_exit; None: no BTF
    parts: Mapping[str, Part] = field(default_factory=dict)  # by the member's name

    @property
    def kind(self) -> str:
        """One of KINDS."""
        if self._new:
            return "new-type"
        hcall = self.parts.get("hcall")
        if hcall and hcall.size_bytes > _STOCK_HCALL_BYTES:
            return "grown"
        return "unknown" if self.offered or self.symbol else "none"

    @property
    def _new(self) -> Part | None:
        """The member of a new exit type that carries registers."""
        return next(
            (
                part
                for name, part in self.parts.items()
                if name not in _STOCK_TYPES.values() and part.xmm_at is not None
            ),
            None,
        )

    @property
    def in_kernel(self) -> bool:
        """Whether output in registers can be real: else a success is only claimed."""
        return self.kind != "none"

    def part(self, exit_type: int) -> Part | None:
        """The structure that an exit of this type fills; None where that is not known."""
        name = _STOCK_TYPES.get(exit_type)
        return self.parts.get(name) if name else self._new

    @property
    def words(self) -> str:
        """What was found, in a few words."""
        facts = [KINDS[self.kind]]
        if self.exit_bytes is None:
            facts.append("its types cannot be read")
        else:
            facts.append(f"struct kvm_hyperv_exit has {self.exit_bytes} bytes")
        facts.append(f"CPUID bit {'offered' if self.offered else 'not offered'}")
        return "; ".join(facts)
