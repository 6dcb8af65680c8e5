"""Which VM and which vCPU an entry of the programs' threads belongs to."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hvtrace.kernel import layout
from hvtrace.kernel.maps import Maps
from hvtrace.kernel.registry import Registry, Thread
from hvtrace.stats.snapshot import Vm

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # of start times in /proc


class Entries:
    """Who is in `maps.threads`; VMs by their index in `registry`."""

    def __init__(self, maps: Maps, registry: Registry, *, remember: bool = False) -> None:
        """`remember`: fill `vm_by_thread`, which has no bound."""
        self._maps = maps
        self._registry = registry
        self.vm_of = np.full(len(maps.threads), -1, dtype=np.int32)  # -1: not known
        self.vcpu_of = np.full(len(maps.threads), -1, dtype=np.int32)  # KVM's number of it
        self._ended = np.zeros(len(maps.threads), dtype=bool)
        self._remember = remember
        self.vm_by_thread: dict[tuple[int, int], Vm] = {}  # by (tgid, tid)

    def running(self) -> NDArray[np.intp]:
        """Known entries of threads that were not collected yet."""
        return np.flatnonzero((self.vm_of >= 0) & ~self._ended)

    def vms(self) -> tuple[Vm, ...]:
        """All that are known, with the number of their vCPUs."""
        known = self._registry.vms
        counts = np.bincount(self.vm_of[self.running()], minlength=len(known))
        for i, count in enumerate(counts.tolist()):
            if known[i].vcpus != count:
                known[i] = replace(known[i], vcpus=count)
        return tuple(known)

    def who(self, entry: int) -> tuple[Vm, int | None]:
        """VM and KVM's number of the vCPU of a known entry."""
        number = int(self.vcpu_of[entry])
        return self._registry.vms[self.vm_of[entry]], None if number < 0 else number

    def look(self) -> NDArray[np.intp]:
        """Find out who is new; entries of threads that have ended since."""
        # State before tables before slots: a thread that is dead here has written all.
        state = self._maps.threads["state"].copy()
        new = np.flatnonzero((state != layout.FREE) & (self.vm_of < 0))
        if len(new):
            self._resolve(new, state[new] == layout.DEAD)
        return np.flatnonzero((state == layout.DEAD) & ~self._ended)

    def _resolve(self, new: NDArray[np.intp], dead: NDArray[np.bool_]) -> None:
        # While a thread lives, nothing else has the pid of its process.
        began = np.where(dead, self._maps.process_ns[new], 0) // _NS_PER_TICK
        threads = [
            Thread(tgid, tid, comm.decode(errors="replace"), ticks, self._maps.noted(entry))
            for entry, ticks, (tgid, tid, comm) in zip(
                new.tolist(),
                began.tolist(),
                self._maps.threads[["tgid", "tid", "comm"]][new].tolist(),
                strict=True,
            )
        ]
        found = self._registry.find(threads)
        self.vm_of[new], self.vcpu_of[new] = zip(*found, strict=True)
        for entry, thread, (index, vcpu) in zip(new.tolist(), threads, found, strict=True):
            vm = self._registry.vms[index]
            if not thread.known:
                self._maps.note(entry, vm, vcpu)
            if self._remember:
                self.vm_by_thread[thread.tgid, thread.tid] = vm

    def keep(self, ended: NDArray[np.intp]) -> None:
        """What these threads have counted was collected; it stays in the maps with their VM."""
        self._ended[ended] = True

    def recycle(self, ended: NDArray[np.intp]) -> None:
        """Give them back to the programs."""
        self._maps.recycle(ended)
        self.vm_of[ended] = -1
        self._ended[ended] = False

    def mark_ended(self) -> None:
        """See which VMs have ended."""
        self._registry.mark_ended(busy=set(self.vm_of[~self._ended].tolist()))

    def expire(self) -> NDArray[np.int32] | None:
        """Forget VMs as `Registry.expire` does, and give back what was kept of them."""
        moved = self._registry.expire()
        if moved is not None:
            self.recycle(np.flatnonzero(self._ended & (moved[self.vm_of] < 0)))
            self.vm_of = np.where(self.vm_of < 0, self.vm_of, moved[self.vm_of])
        return moved
