"""A guest without KVM: does to a guest's memory what the machine code and KVM do.

Unit tests of the VMM's side stand on it. As a program it is `hvtrace.guest.vm`
with KVM replaced: ``python guest_model.py --name NAME FD...``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

from hvtrace.guest import abi, vm
from hvtrace.guest.kvm import Vcpu
from hvtrace.guest.memory import (
    DESCRIPTOR_BYTES,
    PATHS,
    REGISTER_WORDS,
    STOP_PORT,
    Descriptor,
    GuestMemory,
)

KERNEL_STATUS = 0x0002  # what the model's kernel says to a call with an odd code; else success
DROPPED = 0xDEAD  # what it hands to the VMM in words that never reach the guest


class ModelVcpu:
    """A vCPU: stands in for hvtrace.guest.kvm.Vcpu."""

    def __init__(self, memory: GuestMemory, number: int) -> None:
        self.memory = memory
        self.number = number
        self.run = abi.Run()
        self.enforced: list[int] = []  # every switch of enforcement
        self.made: list[tuple[int, int]] = []  # (index of the call, enforcement then)
        self.completed_by: list[tuple[str, bool]] = []  # thread's name; the guest not entered
        self.hypercalls = 0
        self.exit_type = abi.KVM_EXIT_HYPERV_HCALL  # of fast calls
        self.dropped: list[int] = []  # words of registers that never reach the guest
        self._forwarded: Descriptor | None = None
        self._guest = self._code()

    def enable(self, capability: int, *args: int) -> None:
        assert capability == abi.KVM_CAP_HYPERV_ENFORCE_CPUID
        self.enforced.append(args[0])

    def enter(self) -> bool:
        if self._forwarded is not None:
            self._complete(self._forwarded, self.run.hyperv.result)
            self._forwarded = None
        if self.run.immediate_exit:
            return False
        next(self._guest)
        return True

    def complete(self) -> None:
        Vcpu.complete(self)  # type: ignore[arg-type]

    def count(self, name: str) -> int:
        assert name == "hypercalls"
        return self.hypercalls

    def _code(self) -> Iterator[None]:
        self._exit_hyperv(kind=1)  # a SynIC register was written
        yield
        control = self.memory.control(self.number)
        table = self.memory.descriptor_address(self.number, 0)
        calls = self.memory.descriptors(self.number)
        while True:
            self.run.exit_reason = abi.KVM_EXIT_IO
            self.run.io.port = STOP_PORT
            yield
            for address in range(control.first, control.end, DESCRIPTOR_BYTES):
                control.current = address
                index = (address - table) // DESCRIPTOR_BYTES
                for _ in range(calls[index].repeat):
                    self.made.append((index, self.enforced[-1]))
                    if self._call(calls[index]):
                        yield

    def _call(self, call: Descriptor) -> bool:
        """One call; whether the VMM has to answer it."""
        call.started += 1
        path = PATHS[call.path]
        if path in ("fault", "unseen"):
            call.faulted += 1
        elif path == "kernel":
            self._complete(call, KERNEL_STATUS if call.input & 1 else 0)
        else:
            self._forwarded = call
            fast = call.input >> 16 & 1
            self._exit_hyperv(kind=self.exit_type if fast else abi.KVM_EXIT_HYPERV_HCALL)
            self.run.hyperv.registers = call.registers_in
            for word in self.dropped:
                self.run.hyperv.registers[word] = DROPPED
            return True
        return False

    def _exit_hyperv(self, kind: int) -> None:
        self.run.exit_reason = abi.KVM_EXIT_HYPERV
        self.run.hyperv.type = kind

    def _complete(self, call: Descriptor, result: int) -> None:
        self.hypercalls += 1
        thread = threading.current_thread().name
        self.completed_by.append((thread, bool(self.run.immediate_exit)))
        self._check(call, result)
        call.completed += 1
        call.reps += result >> 32 & 0xFFF
        for entry in call.statuses:
            if entry.count == 0 or entry.status == result & 0xFFFF:
                entry.status = result & 0xFFFF
                entry.count += 1
                return

    def _check(self, call: Descriptor, result: int) -> None:
        """What the guest makes of its registers after a call."""
        found, wanted = list(call.registers_in), list(call.registers_in)
        if result & 0xFFFF == 0:
            wanted = list(call.wanted)
            if self._forwarded is call:
                for word in set(range(REGISTER_WORDS)) - set(self.dropped):
                    found[word] = self.run.hyperv.registers[word]
        if call.completed == call.confirmed:
            call.rax_out = result
            call.registers_out[:] = found
            call.confirmed += found == wanted


class ModelKvm:
    """The system: stands in for hvtrace.guest.kvm.Kvm where a session asks it."""

    xmm_output = False

    def __enter__(self) -> ModelKvm:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def hyperv_cpuid(self) -> list[abi.CpuidEntry]:
        return [abi.CpuidEntry(function=0x40000003, edx=self.xmm_output << 15)]


class ModelMachine:
    """A VM: stands in for hvtrace.guest.machine.Machine."""

    def __init__(self, kvm: object, memory: GuestMemory) -> None:
        self.memory = memory
        memory.header.vm_fd = 100 + memory.fd
        self.vcpus = [ModelVcpu(memory, i) for i in range(memory.header.vcpus)]


if __name__ == "__main__":
    vm.Kvm = object  # type: ignore[assignment, misc]
    vm.Machine = ModelMachine  # type: ignore[assignment, misc]
    vm.main(sys.argv[1:])
