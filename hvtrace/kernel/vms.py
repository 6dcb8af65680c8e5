"""Who is it: from a thread to its VM, once per thread.

KVM's debugfs (``kvm/<pid>-<fd>/vcpu<n>/pid``) says exactly which KVM VM a thread
runs; the VMM's command line says what its user calls it. Names are cached by
(pid, start time), because pids come again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvtrace.stats.snapshot import Vm

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class _Vmm:
    """How to know a VMM, and where its command line names the VM."""

    name: str
    program: re.Pattern[str]  # of the base name of its program, or of its Python module
    name_options: tuple[str, ...]
    uuid_options: tuple[str, ...] = ()


_VMMS = (
    _Vmm("qemu", re.compile(r"qemu-(system-.*|kvm)|kvm"), ("-name",), ("-uuid",)),
    _Vmm("cloud-hypervisor", re.compile(r"cloud-hypervisor"), (), ("--platform",)),
    _Vmm("crosvm", re.compile(r"crosvm"), ("--name",)),
    _Vmm("firecracker", re.compile(r"firecracker"), ("--id",)),
    _Vmm("openvmm", re.compile(r"openvmm|openvmm_hcl"), ()),
    _Vmm("hvtrace-guest", re.compile(r"hvtrace\.guest\.vm"), ("--name",)),
)


def start_time(pid: int) -> int:
    """Start of process `pid` in clock ticks since boot; 0 where it is gone."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # Behind the name, which may hold spaces and brackets itself; field 22 of proc(5).
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def command_line(pid: int) -> list[str]:
    """Arguments of process `pid`; [] where it is gone."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in raw.split(b"\0") if word]


def describe(arguments: Sequence[str], pid: int, comm: str) -> tuple[str, str, str | None]:
    """(name, vmm, uuid) of a process from its command line. Pure.

    `comm` is the thread's own name: all that is left where the process has gone.
    """
    program = _program(arguments) or comm
    for vmm in _VMMS:
        if vmm.program.fullmatch(program):
            name = _option(arguments, vmm.name_options, "guest") or f"{vmm.name}-{pid}"
            return name, vmm.name, _option(arguments, vmm.uuid_options, "uuid")
    return f"{program}-{pid}", program, None


def _program(arguments: Sequence[str]) -> str:
    """Base name of the program, or MODULE of "python -m MODULE"."""
    if not arguments:
        return ""
    name = Path(arguments[0]).name
    if name.startswith("python") and "-m" in arguments[1:-1]:
        return arguments[arguments.index("-m") + 1]
    return name


def _option(arguments: Sequence[str], options: Sequence[str], key: str) -> str | None:
    """Value of the first of `options`, written "--o V" or "--o=V".

    Of a list "a=1,key=V,..." (QEMU's -name, cloud-hypervisor's --platform) the
    value of `key`; a plain first element stands for itself, as with -name V,debug-threads=on.
    """
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in options:
            continue
        if not equals:
            value = arguments[i + 1] if i + 1 < len(arguments) else ""
        # In a QEMU list, a comma is written twice.
        parts = value.replace(",,", "\0").split(",")
        for part in parts:
            if part.startswith(f"{key}="):
                return part[len(key) + 1 :].replace("\0", ",")
        if parts[0] and "=" not in parts[0]:
            return parts[0].replace("\0", ",")
    return None


@dataclass(frozen=True, slots=True)
class Process:
    """A VMM at one instant: what its threads have in common."""

    pid: int
    arguments: list[str]
    start_time: int
    vcpu_of: dict[int, tuple[int, int]]  # thread -> (descriptor of its KVM VM, KVM's number
    # of the vCPU), of those that debugfs lists
    fds: list[int]

    def number_of(self, tid: int) -> int:
        """KVM's number of the vCPU that thread `tid` runs; -1 where unknown."""
        return self.vcpu_of[tid][1] if tid in self.vcpu_of else -1

    def vm_of(self, tid: int, comm: str) -> Vm:
        """The VM that thread `tid`, of this name, runs."""
        name, vmm, uuid = describe(self.arguments, self.pid, comm)
        fd = self.fds[0] if len(self.fds) == 1 else None
        if tid in self.vcpu_of:
            fd = self.vcpu_of[tid][0]
        if len(self.fds) > 1 and fd is not None:
            name = f"{name}#{fd}"
        return Vm(self.pid, name, vmm, self.start_time, fd, uuid)


class Identities:
    """Resolves threads to VMs, and knows which VMs are gone."""

    def __init__(self, debugfs: Path | None, proc: Callable[[int], int] = start_time) -> None:
        """`debugfs` is KVM's folder there, None where it is not mounted."""
        self._debugfs = debugfs
        self._start_time = proc

    def process(self, pid: int) -> Process:
        """A look at process `pid` now, for all its threads."""
        fds = self._vm_fds(pid)
        vcpu_of = {
            tid: (fd, number)
            for fd in reversed(fds)
            for tid, number in self._vcpu_threads(pid, fd).items()
        }
        return Process(pid, command_line(pid), self._start_time(pid), vcpu_of, fds)

    def alive(self, vm: Vm) -> bool:
        """Whether the VM is still there: its process, and where known itself."""
        if not vm.start_time or self._start_time(vm.pid) != vm.start_time:
            return False
        return vm.fd is None or vm.fd in self._vm_fds(vm.pid)

    def threads(self) -> Iterator[tuple[int, int]]:
        """(pid, tid) of every vCPU that has run, by debugfs; none where it is not mounted."""
        for folder in self._debugfs.glob("*-*") if self._debugfs else ():
            pid, _, fd = folder.name.partition("-")
            if pid.isdigit() and fd.isdigit():
                yield from ((int(pid), tid) for tid in self._vcpu_threads(int(pid), int(fd)) if tid)

    def _vm_fds(self, pid: int) -> list[int]:
        if self._debugfs is None:
            return []
        return sorted(int(path.name.split("-")[1]) for path in self._debugfs.glob(f"{pid}-*"))

    def _vcpu_threads(self, pid: int, fd: int) -> dict[int, int]:
        """Threads of a VM, and the number of the vCPU that each runs."""
        assert self._debugfs is not None
        threads = {}
        for path in (self._debugfs / f"{pid}-{fd}").glob("vcpu*/pid"):
            try:
                thread = int(path.read_text(encoding="ascii"))
                threads[thread] = int(path.parent.name.removeprefix("vcpu"))
            except (OSError, ValueError):  # the vCPU has just gone
                continue
        return threads
