"""What the rules judge: one host, and each guest on it in one interval."""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.hyperv.cpuid import NOTHING, Cpuid
from hvtrace.stats.calls import Call
from hvtrace.stats.exits import Exit
from hvtrace.stats.snapshot import Vm


@dataclass(frozen=True, slots=True)
class Guest:
    """One VM: how it is set up, and what it did. None stands for not known."""

    vm: Vm
    vcpus: int
    cpuid: Cpuid | None  # of the first vCPU; None: no BTF, or none has run
    enforced: bool | None  # KVM_CAP_HYPERV_ENFORCE_CPUID
    hyperv: bool | None  # CPUID says that this is Hyper-V
    same_cpuid: bool  # all vCPUs have this CPUID
    flags: tuple[str, ...] | None  # hv-* options of QEMU's -cpu; None: not QEMU
    calls: tuple[Call, ...]  # of the interval
    exits: tuple[Exit, ...]  # of the interval; () where no evidence was asked for

    @property
    def given(self) -> Cpuid | None:
        """What CPUID shows of Hyper-V: nothing where it says that this is none."""
        return NOTHING if self.hyperv is False else self.cpuid


@dataclass(frozen=True, slots=True)
class Host:
    """What is the same for all guests."""

    kernel: str  # release
    xmm_output_kind: str  # key of hvtrace.hyperv.interface.KINDS
    offered: Cpuid | None  # KVM_GET_SUPPORTED_HV_CPUID; None: it cannot be asked
    notes: tuple[str, ...]  # what could not be seen here, and why
    duration_s: float  # of the interval
