"""/dev/kvm: what is asked of it, and what a user reads where it cannot serve."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.guest import abi, kvm
from hvtrace.guest.kvm import Kvm, Vcpu, Vm


class Kernel:
    """Stands in for ioctl(): takes down every call, answers as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, Any]] = []
        self.answers: dict[int, Callable[[Any], int] | int] = {}

    def __call__(self, fd: int, request: int, argument: Any = 0) -> int:
        self.calls.append((fd, request, argument))
        answer = self.answers.get(request, 0)
        return answer if isinstance(answer, int) else answer(argument)

    def argument(self, request: int) -> Any:
        (found,) = [argument for _, asked, argument in self.calls if asked == request]
        return found


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    kernel = Kernel()
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    monkeypatch.setattr(kvm, "_ioctl", kernel)
    kernel.answers = {abi.KVM_CHECK_EXTENSION: 1, abi.KVM_CREATE_VM: 50, abi.KVM_CREATE_VCPU: 60}
    return kernel


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    with pytest.raises(HvtraceError, match=r"kvm does not exist: load kvm_intel or kvm_amd"):
        Kvm()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errno.EACCES, "no permission to open /dev/kvm: run as root or join the group kvm"),
        (errno.ENXIO, "cannot open /dev/kvm: No such device or address"),
    ],
)
def test_device_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, error: int, message: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(HvtraceError) as raised:
        Kvm()
    assert str(raised.value) == message


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("kernel")
def test_it_lets_go_of_the_device() -> None:
    """Or kvm.ko could not be unloaded."""
    before = open_descriptors()
    with Kvm() as opened:
        assert opened.has(abi.KVM_CAP_HYPERV)
    assert open_descriptors() == before


def test_it_lets_go_also_where_it_is_of_no_use(kernel: Kernel) -> None:
    before = open_descriptors()
    kernel.answers[abi.KVM_CHECK_EXTENSION] = 0
    with pytest.raises(HvtraceError):
        Kvm()
    assert open_descriptors() == before


def test_kvm_without_hyperv(kernel: Kernel) -> None:
    kernel.answers[abi.KVM_CHECK_EXTENSION] = lambda capability: capability != abi.KVM_CAP_HYPERV
    with pytest.raises(HvtraceError) as raised:
        Kvm()
    assert "KVM has no Hyper-V (CONFIG_KVM_HYPERV is off)" in str(raised.value)
    assert "hvtrace demo" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_kvm_that_is_too_old(kernel: Kernel) -> None:
    kernel.answers[abi.KVM_CHECK_EXTENSION] = lambda c: c != abi.KVM_CAP_SYS_HYPERV_CPUID
    with pytest.raises(HvtraceError, match=r"older than 5\.11"):
        Kvm().hyperv_cpuid()


def test_cpuid_is_what_kvm_wrote(kernel: Kernel) -> None:
    def answer(table: abi.Cpuid) -> int:
        assert table.nent == abi.MAX_CPUID_ENTRIES
        table.nent = 2
        table.entries[1].function, table.entries[1].edx = 0x40000003, 0x10
        return 0

    kernel.answers[abi.KVM_GET_SUPPORTED_HV_CPUID] = answer
    first, second = Kvm().hyperv_cpuid()
    assert (first.function, second.function, second.edx) == (0, 0x40000003, 0x10)


def test_a_vm_has_its_interrupt_controllers_before_vcpus(kernel: Kernel) -> None:
    vm = Kvm().create_vm()
    assert vm.fd == 50
    asked = [request for _, request, _ in kernel.calls]
    assert asked.index(abi.KVM_CREATE_VM) < asked.index(abi.KVM_CREATE_IRQCHIP)


def test_memory_of_a_vm(kernel: Kernel) -> None:
    Vm(50, Kvm()).set_memory(0x7F0000000000, 0x200000)
    region = kernel.argument(abi.KVM_SET_USER_MEMORY_REGION)
    assert (region.userspace_addr, region.memory_size) == (0x7F0000000000, 0x200000)
    assert (region.slot, region.flags, region.guest_phys_addr) == (0, 0, 0)


def test_connections_that_kvm_serves(kernel: Kernel) -> None:
    Vm(50, Kvm()).add_eventfd(0x10, 9)
    eventfd = kernel.argument(abi.KVM_HYPERV_EVENTFD)
    assert (eventfd.conn_id, eventfd.fd, eventfd.flags) == (0x10, 9, 0)


@pytest.fixture
def vcpu(kernel: Kernel) -> Vcpu:
    """A vCPU whose shared page is a file's."""
    kernel.answers[abi.KVM_GET_VCPU_MMAP_SIZE] = 0x3000
    fd = os.memfd_create("vcpu")
    os.ftruncate(fd, 0x3000)
    return Vcpu(fd, Kvm())


def test_enter_tells_an_exit_from_a_signal(kernel: Kernel, vcpu: Vcpu) -> None:
    assert vcpu.enter() is True

    def interrupted(_: object) -> int:
        raise InterruptedError

    kernel.answers[abi.KVM_RUN] = interrupted
    assert vcpu.enter() is False


def test_complete_asks_for_an_immediate_exit_and_takes_it_back(kernel: Kernel, vcpu: Vcpu) -> None:
    seen = []

    def run(_: object) -> int:
        seen.append(vcpu.run.immediate_exit)
        raise InterruptedError

    kernel.answers[abi.KVM_RUN] = run
    vcpu.complete()
    assert (seen, vcpu.run.immediate_exit) == ([1], 0)


def test_complete_that_entered_the_guest_is_an_error(kernel: Kernel, vcpu: Vcpu) -> None:
    with pytest.raises(OSError, match="immediate_exit"):
        vcpu.complete()


def test_cpuid_and_capabilities_of_a_vcpu(kernel: Kernel, vcpu: Vcpu) -> None:
    vcpu.set_cpuid([abi.CpuidEntry(function=1), abi.CpuidEntry(function=7, ebx=3)])
    table = kernel.argument(abi.KVM_SET_CPUID2)
    assert (table.nent, table.entries[1].function, table.entries[1].ebx) == (2, 7, 3)
    vcpu.enable(abi.KVM_CAP_HYPERV_ENFORCE_CPUID, 1)
    enable = kernel.argument(abi.KVM_ENABLE_CAP)
    assert (enable.cap, list(enable.args)) == (abi.KVM_CAP_HYPERV_ENFORCE_CPUID, [1, 0, 0, 0])
    vcpu.set_regs(rip=0x6000, rflags=2)
    regs = kernel.argument(abi.KVM_SET_REGS)
    assert (regs.rip, regs.rflags, regs.rax) == (0x6000, 2, 0)


def statistics(*counters: tuple[str, int]) -> int:
    """A file as KVM_GET_STATS_FD gives one (Documentation/virt/kvm/api.rst, 4.133)."""
    name_size, descriptors_at = 48, 64
    size = ctypes.sizeof(abi.StatsDescriptor) + name_size
    data_at = descriptors_at + size * len(counters)
    header = struct.pack("<6I", 0, name_size, len(counters), 24, descriptors_at, data_at)
    table = b"".join(
        struct.pack("<IhHII", 0, 0, 1, 8 * i, 0) + name.encode().ljust(name_size, b"\0")
        for i, (name, _) in enumerate(counters)
    )
    values = struct.pack(f"<{len(counters)}Q", *(value for _, value in counters))
    fd = os.memfd_create("stats")
    os.write(fd, header.ljust(descriptors_at, b"\0") + table + values)
    return fd


def test_counters_are_found_by_name(kernel: Kernel, vcpu: Vcpu) -> None:
    kernel.answers[abi.KVM_GET_STATS_FD] = lambda _: statistics(
        ("exits", 5), ("hypercalls_more", 6), ("hypercalls", 1 << 40), ("halt", 7)
    )
    assert vcpu.count("hypercalls") == 1 << 40
    with pytest.raises(HvtraceError, match="no counter named hypercall"):
        vcpu.count("hypercall")


def test_ioctl_raises_what_the_kernel_said() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(OSError, match="Inappropriate ioctl") as raised:
        kvm._ioctl(fd, abi.KVM_CREATE_VM)
    assert raised.value.errno == errno.ENOTTY
    os.close(fd)
