"""A vCPU's thread: runs the guest, answers what is forwarded to it, the way each call asks for."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator

from hvtrace.errors import HvtraceError
from hvtrace.guest import abi
from hvtrace.guest.code import PANIC_PORT, STOP_PORT
from hvtrace.guest.kvm import Vcpu
from hvtrace.guest.machine import Machine
from hvtrace.guest.memory import DESCRIPTOR_BYTES
from hvtrace.guest.mix import Call

_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)


class Signals:
    """What the vCPU threads of a process wait for, and what they tell its main thread's parent."""

    def __init__(self, vcpus: int, tell: Callable[[str], None]) -> None:
        """For `vcpus` threads; the last of them calls `tell` with "ready" and with "idle"."""
        self.ready = threading.Barrier(vcpus, lambda: tell("ready"))
        self.idle = threading.Barrier(vcpus, lambda: tell("idle"))
        self.go = threading.Event()
        self.stop = threading.Event()
        self.end = threading.Event()


class Pending(Exception):
    """The call in flight is never to be answered."""


class Other:
    """A second thread for a vCPU, which completes its calls where the mix wants that."""

    def __init__(self, number: int, vcpu: Vcpu) -> None:
        self._asked = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._thread = threading.Thread(
            name=f"other{number}", target=self._run, args=(vcpu,), daemon=True
        )

    def complete(self) -> None:
        """Have the call in flight completed by the other thread, and wait for that."""
        if self._thread.ident is None:
            self._thread.start()
        self._asked.release()
        self._done.acquire()

    def _run(self, vcpu: Vcpu) -> None:
        set_name(self._thread.name)
        while self._asked.acquire():
            vcpu.complete()
            self._done.release()


class VcpuThread(threading.Thread):
    """One vCPU from its first instruction to the end of its calls."""

    def __init__(
        self,
        machine: Machine,
        number: int,
        work: Iterator[list[int]],
        signals: Signals,
        fail: Callable[[str], None],
    ) -> None:
        """`work` gives the number of each call, slice after slice; the killed one excepted."""
        super().__init__(name=f"vcpu{number}", daemon=True)
        self.number = number
        self.work = work
        self.fail = fail
        self.signals = signals
        self.memory = machine.memory
        self.calls = machine.mix.calls
        self.vcpu = machine.vcpus[number]
        self.control = machine.memory.control(number)
        self.descriptors = [machine.memory.descriptor(number, i) for i in range(len(self.calls))]
        self._other = Other(number, self.vcpu)

    def run(self) -> None:
        """Set up, wait for go, make all calls, and stay until the end of the VM."""
        set_name(self.name)
        try:
            self._until_stop()
            self.signals.ready.wait()
            self.signals.go.wait()
            for counts in self.work:
                self._slices(counts)
            self._last()
            self.signals.idle.wait()
        except (HvtraceError, OSError) as error:
            self.fail(f"{self.name}: {error}")
        self.signals.end.wait()

    def _slices(self, counts: list[int]) -> None:
        """Make every call as often as `counts` says, enforced ones after the others."""
        for descriptor, count in zip(self.descriptors, counts, strict=False):
            descriptor.repeat = count
        for enforce in (False, True):
            chosen = [i for i in range(len(counts)) if self.calls[i].enforce == enforce]
            if chosen:
                self.vcpu.enable(abi.KVM_CAP_HYPERV_ENFORCE_CPUID, enforce)
                self._slice(chosen[0], chosen[-1] + 1)

    def _last(self) -> None:
        """The call that is never answered, where the mix has one."""
        if self.calls[-1].path == "killed":
            self.descriptors[-1].repeat = 1
            self.vcpu.enable(abi.KVM_CAP_HYPERV_ENFORCE_CPUID, 0)
            try:
                self._slice(len(self.calls) - 1, len(self.calls))
            except Pending:
                return

    def _slice(self, first: int, end: int) -> None:
        self.control.first = self.memory.descriptor_address(self.number, first)
        self.control.end = self.memory.descriptor_address(self.number, end)
        self._until_stop()

    def _until_stop(self) -> None:
        """Run the guest until it asks for its next slice."""
        run = self.vcpu.run
        while True:
            if not self.vcpu.enter():
                continue
            if run.exit_reason == abi.KVM_EXIT_IO and run.io.port == STOP_PORT:
                return
            if run.exit_reason == abi.KVM_EXIT_HYPERV:
                # Writing a SynIC register exits with the same reason, for the VMM's information.
                if run.hyperv.type == abi.KVM_EXIT_HYPERV_HCALL:
                    self._forwarded()
                continue
            raise HvtraceError(self._defect())

    def _forwarded(self) -> None:
        """A hypercall is here: answer it, or not."""
        table = self.memory.descriptor_address(self.number, 0)
        index = (self.control.current - table) // DESCRIPTOR_BYTES
        call: Call = self.calls[index]
        descriptor = self.descriptors[index]
        self.vcpu.run.hyperv.result = call.answers[descriptor.forwarded % len(call.answers)]
        descriptor.forwarded += 1
        if call.path == "immediate-exit":
            self.vcpu.complete()
        elif call.path == "other-thread":
            self._other.complete()
            descriptor.moved += 1
        elif call.path == "killed":
            raise Pending

    def _defect(self) -> str:
        run = self.vcpu.run
        if run.exit_reason == abi.KVM_EXIT_IO and run.io.port == PANIC_PORT:
            at = self.control.panic_frame
            words = struct.unpack("<6Q", self.memory.map[at : at + 48])
            return "the guest had an exception; its frame: " + " ".join(f"{w:#x}" for w in words)
        return f"the guest left with exit reason {run.exit_reason}, which nothing expects"


def set_name(name: str) -> None:
    """Name the calling thread for the kernel and /proc, at most 15 characters."""
    _libc.prctl(_PR_SET_NAME, name.encode())
