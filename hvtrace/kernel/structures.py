"""Where KVM keeps what is read from its structures: offsets by BTF, never assumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Part
from hvtrace.kernel.btf import FOLDER, Btf

# Compiler flag: (structure, path of the member). What bpf/ reads by kvm.h.
_OFFSETS = {
    "VCPU_ID": ("kvm_vcpu", "vcpu_id"),
    "VCPU_RUN": ("kvm_vcpu", "run"),
    "VCPU_HYPERV": ("kvm_vcpu", "arch.hyperv"),
    "VCPU_ENABLED": ("kvm_vcpu", "arch.hyperv_enabled"),
    "HV_ENFORCE": ("kvm_vcpu_hv", "enforce_cpuid"),
    "HV_CPUID": ("kvm_vcpu_hv", "cpuid_cache"),
    "RUN_TYPE": ("kvm_run", "hyperv.type"),
    "RUN_UNION": ("kvm_run", "hyperv.u"),
    "TASK_LEADER": ("task_struct", "group_leader"),
    "TASK_STARTED": ("task_struct", "start_boottime"),
}

# What bpf/roundtrip.bpf.c needs of the vendor's module to read why a vCPU exited. Where more
# than one path is given: the first that there is.
_REASONS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "kvm_amd": {
        "SVM_VMCB": ("vcpu_svm", ("vmcb",)),
        "SVM_CODE": ("vmcb", ("control.exit_code",)),
    },
    # struct vcpu_vt came with 6.16
    "kvm_intel": {"VMX_REASON": ("vcpu_vmx", ("exit_reason", "vt.exit_reason"))},
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
        return _flags(self.offsets)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Where the programs of --round-trip find things; empty but for `problem` where unknown."""

    problem: str | None = None
    offsets: dict[str, int] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        """Compiler flags of those programs."""
        return _flags(self.offsets)


def _flags(offsets: dict[str, int]) -> list[str]:
    return [f"-DHVT_{name}={at}" for name, at in offsets.items()]


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


def read_round_trip(folder: Path = FOLDER) -> RoundTrip:
    """Read what --round-trip needs; what is wrong with it is in the result's `problem`."""
    try:
        offsets = _arguments(folder)
        if offsets["EXIT_VCPU"] == 0:  # before 5.16 the reason came first
            offsets |= _exit_reasons(folder)
        return RoundTrip(offsets=offsets)
    except HvtraceError as error:
        return RoundTrip(problem=str(error))


def _arguments(folder: Path) -> dict[str, int]:
    with Btf(folder) as btf:
        found = {
            "EXIT_VCPU": btf.argument("kvm_exit", "kvm_vcpu"),
            "ENTRY_VCPU": btf.argument("kvm_entry", "kvm_vcpu"),
            "VCPU_EXITS": _offset(btf, "kvm_vcpu", "stat.exits"),
        }
    if None in found.values():
        raise HvtraceError("this KVM's BTF has no vCPU in kvm_exit and kvm_entry")
    return {name: at for name, at in found.items() if at is not None}


def _exit_reasons(folder: Path) -> dict[str, int]:
    """Offsets from a struct kvm_vcpu, of each vendor's module that there is."""
    offsets: dict[str, int] = {}
    for module, wanted in _REASONS.items():
        with Btf(folder, module) as btf:
            for name, (structure, paths) in wanted.items():
                found = (_offset(btf, structure, path) for path in paths)
                at = next((at for at in found if at is not None), None)
                if at is not None:
                    offsets[name] = at - (_offset(btf, structure, "vcpu") or 0)
    if "VMX_REASON" not in offsets and not offsets.keys() >= _REASONS["kvm_amd"].keys():
        raise HvtraceError("this KVM's BTF does not tell where the reason of an exit is")
    return offsets


def _offset(btf: Btf, structure: str, path: str) -> int | None:
    at = btf.find(structure)
    member = None if at is None else btf.member(at, path)
    return None if member is None else member.offset_bytes


def _part(btf: Btf, type_id: int) -> Part:
    def at(word: str) -> int | None:
        found = (member for member in btf.members(type_id) if word in member.name)
        return next((member.offset_bytes for member in found), None)

    return Part(btf.size_bytes(type_id), at("params"), at("xmm"))
