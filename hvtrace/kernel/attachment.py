"""The programs' hold on the kernel: taken, let go of while KVM is away, taken again.

What is attached to an event of kvm.ko keeps that module loaded, by raw tracepoints as by
normal ones. The module of the vendor (kvm_amd, kvm_intel) is free to go; without it there is
no VM, so no call. Once it has gone, we let go, and kvm.ko can go, too. When KVM is back, it
may be another one: what the programs were compiled for is looked at again.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping

from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf, features, kvm
from hvtrace.kernel.features import Features
from hvtrace.kernel.loader import Program
from hvtrace.kernel.pins import Pins
from hvtrace.kernel.programs import BY_ENTRY, BY_KPROBE, EVENTS, TRIPS
from hvtrace.kernel.shape import choose

# A VMM opens KVM and makes a VM before a guest calls, which takes longer than this.
_LOOK_SECONDS = 0.01

_ENDS = EVENTS[0]  # of threads: no event of KVM, so it stays attached


class Attachment:
    """Not for use by two threads at once."""

    def __init__(
        self,
        programs: Mapping[str, int],
        host: Features,
        say: Callable[[str], None],
        pins: Pins | None = None,
    ) -> None:
        """`programs` by their names; `say` takes lines about KVM's coming and going.

        Links that `pins` has are held on to, and new ones are pinned there.
        """
        self._programs = programs
        self._host = host
        self._say = say
        self._pins = pins
        self._links = pins.links() if pins else {}  # by program
        self._return: _Return | None = None

    @property
    def attached(self) -> set[str]:
        """The programs that are attached."""
        return set(self._links)

    def attach(self) -> None:
        """Attach what counts. Raises HvtraceError; nothing stays attached then."""
        before = self.attached
        try:
            if _ENDS not in before:
                self._hold(_ENDS, self._to_event(_ENDS))
            self._attach_to_kvm()
        except BaseException:
            self.detach()
            raise
        if before and before != self.attached:
            self._say("KVM was unloaded meanwhile: attached again, calls made before are not known")

    def detach(self) -> None:
        """Detach everything, but for what is pinned."""
        if self._return:
            self._return.stop()
            self._return = None
        while self._links:
            os.close(self._links.popitem()[1])

    def follow(self) -> None:
        """Let go of a KVM that has gone; see whether it is back.

        To be called now and then. Raises HvtraceError where the KVM that is back is
        another one, so that the programs may not be right for it.
        """
        if self._return and self._return.is_over():
            before, self._return = self._return.calls_before, None
            if kvm.is_loaded():  # it may have gone once more
                self._check_it_is_the_same()
                missed = f"; {before} calls were made before" if before else ""
                self._say(f"KVM is loaded again{missed}")
        if self._of_kvm() and not self._return and not kvm.is_loaded():
            self._let_go_of_kvm()
            self._say("KVM was unloaded: waiting for it to be loaded again")
            self._return = _Return(self._attach_to_kvm)

    def _check_it_is_the_same(self) -> None:
        if _unlike(self._host):
            self._let_go_of_kvm()
            raise HvtraceError(
                "another KVM was loaded than the one that hvtrace was made for: start it again"
            )

    def _of_kvm(self) -> set[str]:
        return set(self._links) - {_ENDS}

    def _let_go_of_kvm(self) -> None:
        for name in self._of_kvm():
            if self._pins:
                self._pins.let_go(name)
            os.close(self._links.pop(name))

    def _hold(self, program: str, link: int) -> None:
        self._links[program] = link
        if self._pins:
            self._pins.hold(program, link)

    def _attach_to_kvm(self) -> None:
        """Attach what is not attached yet."""
        try:
            for event in EVENTS[1:]:
                if event not in self._links:
                    self._hold(event, self._to_event(event))
            if BY_ENTRY.name in self._programs:
                self._to_vcpu()
            for one in TRIPS:
                if one.name in self._programs and one.name not in self._links:
                    self._hold(one.name, self._raw(one))
        except BaseException:
            self._let_go_of_kvm()
            raise

    def _to_event(self, event: str) -> int:
        try:
            if self._host.shape.raw:
                return bpf.attach_raw_tracepoint(self._programs[event], event)
            # Of a module, it is another number each time.
            number = features.event_id(event)
            return bpf.attach_tracepoint(self._programs[event], number)
        except OSError as error:
            raise HvtraceError(f"cannot attach to {event}: {error.strerror}") from None

    def _to_vcpu(self) -> None:
        """Let the programs know which vCPU a thread runs, the cheapest way there is."""
        reason = "this kernel has none: CONFIG_KPROBES"
        if BY_KPROBE.name in self._programs:
            try:
                link = bpf.attach_kprobe(self._programs[BY_KPROBE.name], BY_KPROBE.target)
                return self._hold(BY_KPROBE.name, link)
            except OSError as error:
                reason = f"{BY_KPROBE.target}: {error.strerror}"
        self._say(f"evidence without kprobes ({reason}): each entry to a guest is looked at")
        return self._hold(BY_ENTRY.name, self._raw(BY_ENTRY))

    def _raw(self, program: Program) -> int:
        try:
            return bpf.attach_raw_tracepoint(self._programs[program.name], program.target)
        except OSError as error:
            raise HvtraceError(f"cannot attach to {program.target}: {error.strerror}") from None


class _Return:
    """A thread that attaches as soon as KVM is back: no call shall come before."""

    def __init__(self, attach: Callable[[], None]) -> None:
        self.calls_before = 0
        self._attach = attach
        self._stopped = threading.Event()
        self._error: HvtraceError | None = None
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while not kvm.is_loaded():
            if self._stopped.wait(_LOOK_SECONDS):
                return
        try:
            self._attach()
        except HvtraceError as error:
            self._error = error
        self.calls_before = kvm.completed_calls()

    def is_over(self) -> bool:
        """Whether it has attached. Raises HvtraceError where that failed."""
        if self._thread.is_alive():
            return False
        if self._error:
            raise self._error
        return True

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def _unlike(host: Features) -> bool:
    """Whether what KVM is like now is not `host`, which was looked at when it began."""
    shape = choose(platform.release(), features.read_formats(features.mounted_tracefs() / "events"))
    return features.look(shape, round_trip=host.round_trip is not None) != host
