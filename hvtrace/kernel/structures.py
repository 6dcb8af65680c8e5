"""Where KVM keeps what is read from its structures: offsets by BTF, never assumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Part
from hvtrace.kernel.btf import FOLDER, Btf

# Compiler flag: (structure, path of the member). What bpf/vcpu.h needs.
_OFFSETS = {
    "VCPU_ID": ("kvm_vcpu", "vcpu_id"),
    "VCPU_RUN": ("kvm_vcpu", "run"),
    "VCPU_HYPERV": ("kvm_vcpu", "arch.hyperv"),
    "VCPU_ENABLED": ("kvm_vcpu", "arch.hyperv_enabled"),
    "HV_ENFORCE": ("kvm_vcpu_hv", "enforce_cpuid"),
    "HV_CPUID": ("kvm_vcpu_hv", "cpuid_cache"),
    "RUN_TYPE": ("kvm_run", "hyperv.type"),
    "RUN_UNION": ("kvm_run", "hyperv.u"),
}

# Functions of the proposed patches. Either may be inlined: absence proves nothing.
XMM_FUNCTIONS = ("kvm_hv_write_xmm", "kvm_hv_is_xmm_output_hcall")


@dataclass(frozen=True, slots=True)
class Structures:
    """What BTF says of KVM's structures; empty but for `problem` where there is none."""

    problem: str | None = None
    offsets: dict[str, int] = field(default_factory=dict)  # by the names of _OFFSETS
    cpuid_words: tuple[str, ...] = ()  # of kvm_vcpu_hv.cpuid_cache, in its order
    exit_bytes: int | None = None  # of struct kvm_hyperv_exit
    parts: dict[str, Part] = field(default_factory=dict)  # of its union
    xmm_function: str | None = None  # the first of XMM_FUNCTIONS that there is

    @property
    def flags(self) -> list[str]:
        """Compiler flags of the programs that read KVM's structures."""
        return [f"-DHVT_{name}={at}" for name, at in self.offsets.items()]


def read(folder: Path = FOLDER) -> Structures:
    """Read the BTF of KVM in `folder`; what is wrong with it is in the result's `problem`."""
    try:
        with Btf(folder) as btf:
            return _read(btf)
    except HvtraceError as error:
        return Structures(problem=str(error))


def _read(btf: Btf) -> Structures:
    offsets = {}
    for name, (structure, path) in _OFFSETS.items():
        at = btf.find(structure)
        member = None if at is None else btf.member(at, path)
        if member is None:
            return Structures(problem=f"this KVM's BTF has no {structure}.{path}")
        offsets[name] = member.offset_bytes
        if name == "HV_CPUID":
            cpuid_words = tuple(word.name for word in btf.members(member.type))
    # From here on both are known to exist.
    hyperv_exit = btf.find("kvm_hyperv_exit") or 0
    union = btf.member(hyperv_exit, "u")
    assert union is not None
    return Structures(
        offsets=offsets,
        cpuid_words=cpuid_words,
        exit_bytes=btf.size_bytes(hyperv_exit),
        parts={member.name: _part(btf, member.type) for member in btf.members(union.type)},
        xmm_function=next(filter(btf.has_function, XMM_FUNCTIONS), None),
    )


def _part(btf: Btf, type_id: int) -> Part:
    def at(word: str) -> int | None:
        found = (member for member in btf.members(type_id) if word in member.name)
        return next((member.offset_bytes for member in found), None)

    return Part(btf.size_bytes(type_id), at("params"), at("xmm"))
