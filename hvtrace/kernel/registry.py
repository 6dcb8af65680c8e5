"""The VMs seen so far, by a small index, and which of them have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvtrace.kernel.vms import Identities, Process
from hvtrace.stats.snapshot import Vm


class Thread(NamedTuple):
    """One that made calls, as the kernel's entry of it says."""

    tgid: int
    tid: int
    comm: str
    process_began: int = 0  # of one that ended, in clock ticks since boot; 0: not known
    known: tuple[Vm, int] | None = None  # its VM and vCPU, where they were noted before


class Registry:
    """VMs in the order of their first call; indices change only in `expire`."""

    def __init__(self, identities: Identities, keep_ended_seconds: float) -> None:
        self._identities = identities
        self._keep_ended_seconds = keep_ended_seconds
        self._ended_at: dict[int, float] = {}  # index -> monotonic seconds
        self.vms: list[Vm] = []

    def find(self, threads: Iterable[Thread]) -> list[tuple[int, int]]:
        """(index of the VM, KVM's number of the vCPU) of each thread."""
        process = cache(self._identities.process)  # looked at once for all its threads
        index = {vm.identity: i for i, vm in enumerate(self.vms)}
        found = []
        for thread in threads:
            vm, number = thread.known or self._resolve(thread, process(thread.tgid))
            if vm.identity not in index:
                index[vm.identity] = len(self.vms)
                self.vms.append(vm)
            found.append((index[vm.identity], number))
        return found

    def _resolve(self, thread: Thread, process: Process) -> tuple[Vm, int]:
        began = thread.process_began
        if began and process.start_time != began:
            # Its process has gone; it is no other of that pid, but may be known by another thread.
            same = [vm for vm in self.vms if (vm.pid, vm.start_time) == (thread.tgid, began)]
            if len(same) == 1:
                return same[0], -1
            process = Process(thread.tgid, [], began, {}, [])
        return process.vm_of(thread.tid, thread.comm), process.number_of(thread.tid)

    def mark_ended(self, busy: set[int]) -> None:
        """Look at the VMs without a thread in `busy` (indices): are they still there?"""
        for i, vm in enumerate(self.vms):
            if i in busy or vm.ended or self._identities.alive(vm):
                continue
            self.vms[i] = replace(vm, ended=True)
            self._ended_at[i] = time.monotonic()

    def expire(self) -> NDArray[np.int32] | None:
        """Forget VMs that ended long enough ago.

        None where there are none, else the new index of each old one, -1 where forgotten.
        """
        limit = time.monotonic() - self._keep_ended_seconds
        old = {i for i, at in self._ended_at.items() if at < limit}
        if not old:
            return None
        keep = [i for i in range(len(self.vms)) if i not in old]
        moved = np.full(len(self.vms), -1, dtype=np.int32)
        moved[keep] = np.arange(len(keep), dtype=np.int32)
        self.vms = [self.vms[i] for i in keep]
        self._ended_at = {int(moved[i]): at for i, at in self._ended_at.items() if i not in old}
        return moved
