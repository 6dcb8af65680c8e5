"""The VMs seen so far, by a small index, and which of them have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hvtrace.kernel.vms import Identities
from hvtrace.stats.snapshot import Vm


class Registry:
    """VMs in the order of their first call; indices change only in `expire`."""

    def __init__(self, identities: Identities, keep_ended_seconds: float) -> None:
        self._identities = identities
        self._keep_ended_seconds = keep_ended_seconds
        self._ended_at: dict[int, float] = {}  # index -> monotonic seconds
        self.vms: list[Vm] = []

    def find(self, threads: Iterable[tuple[int, int, str]]) -> list[tuple[int, int]]:
        """(index of the VM, number of the vCPU) of each thread, given as (tgid, tid, comm)."""
        process = cache(self._identities.process)  # looked at once for all its threads
        known = {vm.identity: i for i, vm in enumerate(self.vms)}
        found = []
        for tgid, tid, comm in threads:
            vm, number = process(tgid).vm_of(tid, comm), process(tgid).number_of(tid)
            if vm.identity not in known:
                known[vm.identity] = len(self.vms)
                self.vms.append(vm)
            found.append((known[vm.identity], number))
        return found

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
