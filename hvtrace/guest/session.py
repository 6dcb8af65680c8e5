"""One run of guests: starts the VMs' processes, tells them what to do, reads their memory."""

from __future__ import annotations

import contextlib
import os
import platform
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import hvtrace
from hvtrace.errors import HvtraceError
from hvtrace.guest.cpuid import offers
from hvtrace.guest.image import Amount, write
from hvtrace.guest.kvm import Kvm
from hvtrace.guest.ledger import Ledger, LedgerVm, fill, results
from hvtrace.guest.memory import GuestMemory
from hvtrace.guest.mix import Mix, version

_STOP_SECONDS = 60.0  # an emulated machine can take some of them

# A VM's process needs the standard library and this package only, so it goes without `site`
# (-S): that is a good part of its start, which counts where the machine is emulated.
_COMMAND = (sys.executable, "-S", "-m", "hvtrace.guest.vm")
_PACKAGES = Path(hvtrace.__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Orders:
    """What to run."""

    mix: Mix
    vms: int = 1
    vcpus: int = 1
    vms_per_process: int = 1
    rounds: int = 1
    rate: float = 0.0  # calls a second of one vCPU; 0: whole rounds
    seed: int = 0
    name: str = ""  # of the VMs, a number behind it; the mix's where empty


class _Process:
    """A process of VMs, and the lines between it and this one."""

    def __init__(self, name: str, memories: list[GuestMemory]) -> None:
        fds = [memory.fd for memory in memories]
        self.name, self.memories, self.idle = name, memories, False
        self.child = subprocess.Popen(
            [*_COMMAND, "--name", name, *map(str, fds)],
            env={**os.environ, "PYTHONPATH": str(_PACKAGES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=fds,
            process_group=0,  # Ctrl-C is for this process, which stops the VMs in good order
        )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.input, self.output = self.child.stdin, self.child.stdout

    def say(self, order: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.input.write(f"{order}\n".encode())

    def hear(self, event: str) -> None:
        """Wait for `event`. Raises HvtraceError for anything else."""
        said = self.output.readline().decode().strip()
        if not said:
            raise HvtraceError(f"VM {self.name} has ended with status {self.child.wait()}")
        if said != event:
            raise HvtraceError(f"VM {self.name}: {said.removeprefix('error ')}")


class Session:
    """The VMs of one run, from start to end; a context manager that leaves no process behind."""

    def __init__(self, orders: Orders) -> None:
        """Ask KVM what it can; nothing is started before `with`. Raises HvtraceError."""
        self.kernel = platform.release()
        with Kvm() as kvm:
            xmm_output = offers(kvm.hyperv_cpuid(), "xmm-output")
        self.mix = orders.mix.on(version(self.kernel), xmm_output=xmm_output)
        self.orders = orders
        self.start = self.end = time.time()
        self.cut_short = bool(orders.rate)
        self.memories = [self._image(i * orders.vcpus) for i in range(orders.vms)]
        self.processes: list[_Process] = []

    def _image(self, first: int) -> GuestMemory:
        orders = self.orders
        amount = Amount(rounds=orders.rounds, rate=orders.rate, seed=orders.seed, first=first)
        return write(self.mix, orders.vcpus, amount)

    def __enter__(self) -> Self:
        """Start the processes."""
        size = self.orders.vms_per_process
        try:
            for i, first in enumerate(range(0, self.orders.vms, size)):
                name = f"{self.orders.name or self.mix.name}-{i}"
                self.processes.append(_Process(name, self.memories[first : first + size]))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            process.child.kill()
            process.child.wait()

    def wait_ready(self) -> list[LedgerVm]:
        """Wait until every guest stands before its first call, and say who they are."""
        for process in self.processes:
            process.hear("ready")
        return self.vms()

    def vms(self) -> list[LedgerVm]:
        """The VMs as their processes told of them."""
        return [
            LedgerVm(
                pid=process.child.pid,
                fd=memory.header.vm_fd,
                name=process.name,
                vcpus=tuple(memory.control(i).tid for i in range(memory.header.vcpus)),
                first=memory.header.first,
                kvm_hypercalls=memory.header.kvm_hypercalls if process.idle else None,
            )
            for process in self.processes
            for memory in process.memories
        ]

    def go(self) -> None:
        """Let the guests make their calls."""
        self.start = time.time()
        for process in self.processes:
            process.say("go")

    def wait_idle(self, duration_s: float | None) -> None:
        """Wait until all calls are made, or for `duration_s` seconds, or until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._hear_idle(duration_s)
        busy = [process for process in self.processes if not process.idle]
        for process in busy:
            self.cut_short = True
            process.say("stop")
        self._hear_idle(_STOP_SECONDS)
        self.end = time.time()

    def _hear_idle(self, seconds: float | None) -> None:
        """Take what arrives within `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while busy := [process for process in self.processes if not process.idle]:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, _, _ = select.select([process.output for process in busy], [], [], left)
            if not ready:
                return
            for process in busy:
                if process.output in ready:
                    process.hear("idle")
                    process.idle = True

    def ledger(self) -> Ledger:
        """What the guests made so far; after `wait_idle` it is whole."""
        ledger = Ledger(
            mix=self.mix,
            kernel=self.kernel,
            seed=self.orders.seed,
            start=self.start,
            duration_s=self.end - self.start,
            vms=self.vms(),
        )
        found = [
            [results(memory, i) for i in range(memory.header.vcpus)] for memory in self.memories
        ]
        fill(ledger, found, None if self.cut_short else self.orders.rounds)
        return ledger

    def close(self) -> None:
        """End the VMs in good order: calls still open stay without an answer."""
        for process in self.processes:
            process.say("end")
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.child.wait(_STOP_SECONDS)
