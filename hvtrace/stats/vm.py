"""Who makes hypercalls, and the programs that count them."""

from __future__ import annotations

from dataclasses import dataclass, field

Identity = tuple[int, int, int | None]
"""Pid, start time, and KVM's descriptor."""


@dataclass(frozen=True, slots=True)
class Vm:
    """A VMM process, or one KVM VM of it where they can be told apart."""

    pid: int
    name: str
    vmm: str  # "qemu", "cloud-hypervisor", ... or the process name
    start_time: int = 0  # of the process, clock ticks since boot: with pid, its identity
    fd: int | None = None  # the KVM VM's descriptor in the process (debugfs), where known
    uuid: str | None = None
    ended: bool = False
    vcpus: int = field(default=0, compare=False)  # live threads of it that have made calls

    @property
    def identity(self) -> Identity:
        """Equal for the same VM in two snapshots, whatever happened to its pid."""
        return (self.pid, self.start_time, self.fd)


EVERY_VM = Vm(pid=0, name="*", vmm="")
"""Stands for all VMs in a roll-up that does not keep them apart."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One of our BPF programs."""

    name: str
    attached: bool
    runs: int = 0  # while the kernel measured (kernel.bpf_stats_enabled)
    run_ns: int = 0
