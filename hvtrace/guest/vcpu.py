"""A vCPU's thread: runs the guest, answers what is forwarded to it, the way each call asks for."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator

from hvtrace.errors import HvtraceError
from hvtrace.guest import abi
from hvtrace.guest.kvm import Vcpu
from hvtrace.guest.machine import Machine
from hvtrace.guest.memory import (
    DESCRIPTOR_BYTES,
    PANIC_PORT,
    PATHS,
    REGISTER_WORDS,
    STOP_PORT,
    Descriptor,
)

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
        self, machine: Machine, number: int, signals: Signals, fail: Callable[[str], None]
    ) -> None:
        """vCPU `number` of `machine`; `fail` is called with what went wrong."""
        super().__init__(name=f"vcpu{number}", daemon=True)
        self.number = number
        self.signals = signals
        self.fail = fail
        self.memory = machine.memory
        self.vcpu = machine.vcpus[number]
        self.control = machine.memory.control(number)
        self.calls = machine.memory.descriptors(number)
        self.answered = sum(PATHS[call.path] != "killed" for call in self.calls)
        self._other = Other(number, self.vcpu)

    def run(self) -> None:
        """Set up, wait for go, make all calls, and stay until the end of the VM."""
        set_name(self.name)
        self.control.tid = threading.get_native_id()
        try:
            self.until_stop()
            self.signals.ready.wait()
            self.signals.go.wait()
            for counts in self._work():
                self._slices(counts)
            self._last()
            self.signals.idle.wait()
        except (HvtraceError, OSError) as error:
            self.fail(f"{self.name}: {error}")
        self.signals.end.wait()

    def _work(self) -> Iterator[list[int]]:
        """How often each call is made, slice after slice."""
        header, stop = self.memory.header, self.signals.stop
        times = [call.times for call in self.calls[: self.answered]]
        if not header.rate:
            for _ in range(header.rounds):
                if stop.is_set():
                    return
                yield times
            return
        from hvtrace.guest.pace import paced  # `random` is slow to load on an emulated machine

        seed = f"{header.seed}/{header.first + self.number}"
        yield from paced(times, header.rate, header.swing, seed, stop)

    def _slices(self, counts: list[int]) -> None:
        """Make every call as often as `counts` says; those under enforcement come last."""
        for call, count in zip(self.calls, counts, strict=False):
            call.repeat = count
        for enforce in (False, True):
            chosen = [i for i in range(self.answered) if self.calls[i].enforce == enforce]
            if chosen:
                self.vcpu.enable(abi.KVM_CAP_HYPERV_ENFORCE_CPUID, enforce)
                self.run_slice(chosen[0], chosen[-1] + 1)

    def _last(self) -> None:
        """The call that is never answered, where there is one: the last of the table."""
        for i in range(self.answered, len(self.calls)):
            self.vcpu.enable(abi.KVM_CAP_HYPERV_ENFORCE_CPUID, 0)
            self.calls[i].repeat = 1
            with contextlib.suppress(Pending):
                self.run_slice(i, i + 1)

    def run_slice(self, first: int, end: int) -> None:
        """Let the guest make the calls from number `first` up to `end`, as often as each says."""
        self.control.first = self.memory.descriptor_address(self.number, first)
        self.control.end = self.memory.descriptor_address(self.number, end)
        self.until_stop()

    def until_stop(self) -> None:
        """Run the guest until it asks for its next slice."""
        run = self.vcpu.run
        while True:
            if not self.vcpu.enter():
                continue
            if run.exit_reason == abi.KVM_EXIT_IO and run.io.port == STOP_PORT:
                return
            if run.exit_reason != abi.KVM_EXIT_HYPERV:
                raise HvtraceError(self._defect())
            # Writing a SynIC register exits with the same reason, for the VMM's information.
            if run.hyperv.type in (abi.KVM_EXIT_HYPERV_HCALL, abi.KVM_EXIT_HYPERV_HCALL_XMM):
                self._forwarded()

    def _forwarded(self) -> None:
        """A hypercall is here: answer it, or not."""
        table = self.memory.descriptor_address(self.number, 0)
        call = self.calls[(self.control.current - table) // DESCRIPTOR_BYTES]
        path, hcall = PATHS[call.path], self.vcpu.run.hyperv
        hcall.result = call.answers[call.forwarded % call.answer_count]
        call.forwarded += 1
        if not self.memory.header.old_vmm:
            self._write_output(call)
        elif hcall.type == abi.KVM_EXIT_HYPERV_HCALL_XMM and path != "killed":
            raise HvtraceError(f"an exit of type {hcall.type}, at which an old VMM ends")
        if path == "immediate-exit":
            self.vcpu.complete()
        elif path == "other-thread":
            self._other.complete()
            call.moved += 1
        elif path == "killed":
            raise Pending

    def _write_output(self, call: Descriptor) -> None:
        """Into the exit, from where KVM takes it to the guest's registers after a success."""
        for word in range(REGISTER_WORDS):
            if call.written >> word & 1:
                self.vcpu.run.hyperv.registers[word] = call.wanted[word]

    def _defect(self) -> str:
        run = self.vcpu.run
        if run.exit_reason == abi.KVM_EXIT_IO and run.io.port == PANIC_PORT:
            words = self.memory.words(self.control.panic_frame, 6)
            return "the guest had an exception; its frame: " + " ".join(f"{w:#x}" for w in words)
        return f"the guest left with exit reason {run.exit_reason}, which nothing expects"


def set_name(name: str) -> None:
    """Name the calling thread for the kernel and /proc, at most 15 characters."""
    _libc.prctl(_PR_SET_NAME, name.encode())
