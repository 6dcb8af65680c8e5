"""The programs' maps, seen from user space: arrays by mmap, free lists, filters.

Reading is memory access, no system call. User space writes a slot or a thread
entry only after its thread has ended, so each has one writer at any time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hvtrace.hyperv.xmm import abi_table
from hvtrace.kernel import bpf, layout
from hvtrace.kernel.ring import Ring
from hvtrace.stats.snapshot import Array, Vm

# Arrays beside `slots`: each is there where it was asked for.
BY_SLOT = {"slots": layout.SLOT, "trips": layout.TRIP, "sizes": layout.SIZES}

WINDOW = 2048
"""So many elements of those are mapped at once, in whole pages, and let go of when the next
are: four megabytes of slots."""


class Maps:
    """The maps of one loaded set of programs."""

    def __init__(self, fds: dict[str, int], threads: int) -> None:
        """Map the arrays; `fds` by map name, sizes as compiled."""
        self._fds = fds
        state = _mapped(fds["state"], 1, layout.state(layout.CACHE, threads))
        self.control: Array = state["control"]
        self.threads: Array = state["threads"][0]
        self.process_ns: Array = state["process_ns"][0]
        self._failures = _mapped(fds["failures"], layout.FAILURES + 1, layout.FAILURE)
        self._identities = None
        if "identities" in fds:
            self._identities = _mapped(fds["identities"], threads, layout.IDENTITY)
        self._slow = None
        if "slow" in fds:
            self._slow = Ring(fds["slow"], layout.SLOW_PAGES * mmap.PAGESIZE, layout.SLOW)

    def prepare(self, slots: int) -> None:
        """Fill what is new: once, before the programs are attached. `slots`: as compiled."""
        fds = self._fds
        _mapped(fds["slots"], 1, layout.SLOT)["shape"] = (
            layout.CALL_NONE
        )  # the first is "none" in a thread's table
        # No process, until set_filter: so all programs begin at one instant, not one
        # after another as they are attached, which would make orphans.
        self.control["filter_tgid"] = layout.NO_PROCESS
        for code, abi in abi_table().items():
            value = np.array((*abi, 0), dtype=layout.ABI).tobytes()
            bpf.update(fds["abis"], np.uint32(code).tobytes(), value)
        # Stacks: pushed from the end, so that used indices stay together at the start.
        bpf.push_indices(fds["free_slots"], range(slots, 0, -1))
        bpf.push_indices(fds["free_threads"], range(len(self.threads) - 1, -1, -1))
        bpf.push_indices(fds["free_failures"], range(layout.FAILURES, 0, -1))

    def set_filter(self, tgid: int | None, code: int | None) -> None:
        """Count process `tgid` and `code` only (None: all), from now on."""
        self.control["filter_tgid"] = tgid or 0
        self.control["filter_code"] = 0 if code is None else code + 1
        epoch = int(self.control["epoch"][0]) >> layout.CALL_EPOCH_SHIFT & 0xFFFF
        epoch = (epoch + 1) & 0xFFFF
        self.control["epoch"] = layout.CALL_OPEN | epoch << layout.CALL_EPOCH_SHIFT

    def set_slow(self, limit_ns: int) -> None:
        """Tell calls that take so long one by one from now on; 0: none."""
        self.control["slow_ns"] = limit_ns

    def slow(self) -> tuple[Array, bool]:
        """Slow calls since the last time, and whether that is all that were over before."""
        return self._slow.read() if self._slow else (np.zeros(0, dtype=layout.SLOW), True)

    def note(self, entry: int, vm: Vm, vcpu: int) -> None:
        """Let the next hvtrace know who the thread of `entry` is, where maps outlive us."""
        if self._identities is None:
            return
        fd = -1 if vm.fd is None else vm.fd
        texts = (_fit("uuid", vm.uuid or ""), _fit("vmm", vm.vmm), _fit("name", vm.name))
        self._identities[entry] = (0, vm.pid, vm.start_time, fd, vcpu, *texts)
        self._identities["tid"][entry] = self.threads["tid"][entry]

    def noted(self, entry: int) -> tuple[Vm, int] | None:
        """What `note` was told of this thread."""
        if self._identities is None or not self._identities["tid"][entry]:
            return None
        _, pid, start_time, fd, vcpu, *texts = self._identities[entry].tolist()
        uuid, vmm, name = (text.decode(errors="replace") for text in texts)
        return Vm(pid, name, vmm, start_time, None if fd < 0 else fd, uuid or None), vcpu

    def used_slots(self, threads: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The slots in the tables of `threads`: owner (of `threads`) and index, sorted by that."""
        tables = self.threads["table"][threads].ravel()
        entries = np.flatnonzero(tables)
        used = tables[entries]
        order = np.argsort(used, kind="stable")  # of 16 bits: by their digits
        return threads[entries[order] // layout.TABLE], used[order].astype(np.intp)

    def copies(self, name: str, used: NDArray[np.intp]) -> Array:
        """Of an array beside slots (or slots), those of `used`; none where it is not there."""
        out = np.empty(len(used) if name in self._fds else 0, dtype=BY_SLOT[name])
        for mapped, at, part in self._windows(name, used):
            np.take(mapped, at, out=out[part], mode="clip")  # "raise" would copy twice
        return out

    def _windows(
        self, name: str, used: NDArray[np.intp]
    ) -> Iterator[tuple[Array, NDArray[np.intp], slice]]:
        """An array, window by window: what is mapped, which of it is in `used`, and where there.

        Mapped pages count as this process's own memory, so they are mapped while they are
        read, and as far as they are used. To map all of them takes about a millisecond.
        """
        if name not in self._fds:
            return
        dtype = BY_SLOT[name]
        for first in range(0, used.max(initial=-1) + 1, WINDOW):
            part = slice(*np.searchsorted(used, (first, first + WINDOW)).tolist())
            at = used[part] - first
            if len(at):
                yield _mapped(self._fds[name], at[-1] + 1, dtype, first), at, part

    def more_statuses(self, slots: Array) -> list[tuple[int, int, int]]:
        """Failures beyond a slot's own entries, as (position in `slots`, status, count)."""
        return [
            (position, int(self._failures["status"][index]), int(self._failures["count"][index]))
            for position, index in self._lists(slots["more"])
        ]

    def _lists(self, first: NDArray[np.uint32]) -> list[tuple[int, int]]:
        """Entries of `failures` in the lists that begin at `first`, as (position, index)."""
        found = []
        for position in np.flatnonzero(first).tolist():  # few: these slots are full
            index = int(first[position])
            while index:
                found.append((position, index))
                index = int(self._failures["next"][index])
        return found

    def exits(self) -> list[tuple[dict[str, int], dict[str, int]]]:
        """Keys and values of the forwarded calls by their exits; none without evidence."""
        fd = self._fds.get("exits")
        if fd is None:
            return []
        return [
            (_fields(key, layout.EXIT_KEY), _fields(value, layout.EXIT))
            for key, value in bpf.items(fd, layout.EXIT_KEY.itemsize, layout.EXIT.itemsize)
        ]

    def recycle(self, threads: NDArray[np.intp]) -> None:
        """Clear entries of ended threads and their slots, and give them to the programs again.

        Killed on the way, we leave some that nobody uses any more, and none in use twice:
        an entry is out of sight before its slots are cleared, and all before they are free.
        """
        tables = self.threads["table"][threads]
        slots = np.sort(tables[tables != 0]).astype(np.intp)
        self.threads["state"][threads] = layout.FREE
        self.threads[threads] = np.zeros((), dtype=layout.THREAD)
        if self._identities is not None:
            self._identities["tid"][threads] = 0
        failures: list[int] = []
        for mapped, at, _ in self._windows("slots", slots):
            failures += [index for _, index in self._lists(mapped["more"][at])]
        self._failures[failures] = np.zeros((), dtype=layout.FAILURE)
        for name, dtype in BY_SLOT.items():
            for mapped, at, _ in self._windows(name, slots):
                mapped[at] = np.zeros((), dtype=dtype)
        bpf.push_indices(self._fds["free_slots"], slots.tolist())
        bpf.push_indices(self._fds["free_threads"], threads.tolist())
        bpf.push_indices(self._fds["free_failures"], failures)


def _fit(field: str, text: str) -> bytes:
    """As much of `text` as there is room for."""
    room = layout.IDENTITY[field].itemsize
    return text.encode(errors="replace")[:room].decode(errors="ignore").encode()


def _fields(data: bytes, dtype: np.dtype[np.void]) -> dict[str, int]:
    return dict(zip(dtype.names or (), np.frombuffer(data, dtype)[0].tolist(), strict=True))


def _mapped(fd: int, count: int, dtype: np.dtype[np.void], first: int = 0) -> Array:
    # An element of a memory-mapped array map takes a multiple of 8 bytes, as ours do.
    memory = mmap.mmap(fd, int(count) * dtype.itemsize, offset=first * dtype.itemsize)
    return np.frombuffer(memory, dtype=dtype, count=count)
