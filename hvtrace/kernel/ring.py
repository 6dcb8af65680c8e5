"""A BPF ring buffer, read by mmap: no system call (Documentation/bpf/ringbuf.rst).

page 0   where the reader is; the only one that may be written
page 1   where the writers are
page 2   data, mapped twice in a row: what goes beyond the end is in one piece, too
"""

from __future__ import annotations

import mmap

import numpy as np

from hvtrace.stats.snapshot import Array

# include/uapi/linux/bpf.h, of a record's first word; behind it stands another one.
_BUSY = np.uint32(1 << 31)
_DISCARDED = np.uint32(1 << 30)


class Ring:
    """For one reader. All records are of one type, whose size is a multiple of 8 bytes."""

    def __init__(self, fd: int, data_bytes: int, record: np.dtype[np.void]) -> None:
        """`data_bytes` as the map was made with. Raises OSError."""
        self._entry = np.dtype([("head", "<u4"), ("page", "<u4"), ("record", record)])
        self._data_bytes = data_bytes
        readable = mmap.PROT_READ | mmap.PROT_WRITE
        own = mmap.mmap(fd, mmap.PAGESIZE, prot=readable)
        length = mmap.PAGESIZE + 2 * data_bytes
        self._theirs = mmap.mmap(fd, length, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)
        # Words that are read and written whole.
        self._reader = np.frombuffer(own, "<u8", 1)
        self._writers = np.frombuffer(self._theirs, "<u8", 1)

    def read(self) -> tuple[Array, bool]:
        """The records since the last time, and whether that is all that was begun before."""
        at, end = int(self._reader[0]), int(self._writers[0])
        start = mmap.PAGESIZE + at % self._data_bytes
        count = (end - at) // self._entry.itemsize
        entries = np.frombuffer(self._theirs, self._entry, count, start)
        # Heads before records: one that is complete now was written before.
        heads = entries["head"].copy()
        busy = np.flatnonzero(heads & _BUSY)
        complete = int(busy[0]) if len(busy) else count
        records = entries["record"][:complete][heads[:complete] & _DISCARDED == 0]
        self._reader[0] = at + complete * self._entry.itemsize  # from here on it is overwritten
        return records, complete == count
