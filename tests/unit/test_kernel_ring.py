"""A ring buffer that the test writes as the kernel does: pages of a file in memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from hvtrace.kernel.ring import Ring

RECORD = np.dtype([("number", "<u8"), ("same", "<u8", (2,))])
ENTRY_BYTES = RECORD.itemsize + 8
DATA_BYTES = mmap.PAGESIZE  # 128 entries
BUSY, DISCARDED = 1 << 31, 1 << 30


class Kernel:
    """Writes records; one that goes beyond the end goes on at the beginning."""

    def __init__(self, begin: int = 0) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + 2 * DATA_BYTES)
        self.end = begin
        self.made = 0
        self._store(0, begin.to_bytes(8, "little"))
        self._move(0)

    def _store(self, at: int, data: bytes) -> None:
        os.pwrite(self.fd, data, at)

    def _move(self, by: int) -> None:
        self.end += by
        self._store(mmap.PAGESIZE, self.end.to_bytes(8, "little"))

    @property
    def reader(self) -> int:
        return int.from_bytes(os.pread(self.fd, 8, 0), "little")

    def write(self, flags: int = 0) -> int:
        """One record; where it stands, for `finish`."""
        self.made += 1
        head = (RECORD.itemsize | flags).to_bytes(4, "little") + b"\2\0\0\0"
        record = np.array((self.made, (self.made, self.made)), dtype=RECORD).tobytes()
        at = self.end % DATA_BYTES
        for i, byte in enumerate(head + record):
            for copy in (0, DATA_BYTES):  # mapped twice
                place = (at + i) % DATA_BYTES + copy
                self._store(2 * mmap.PAGESIZE + place, bytes([byte]))
        self._move(ENTRY_BYTES)
        return at

    def finish(self, at: int, flags: int = 0) -> None:
        for copy in (0, DATA_BYTES):
            head = (RECORD.itemsize | flags).to_bytes(4, "little")
            self._store(2 * mmap.PAGESIZE + copy + at, head)


def ring_of(kernel: Kernel) -> Ring:
    return Ring(kernel.fd, DATA_BYTES, RECORD)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    os.close(made.fd)


def numbers(ring: Ring) -> tuple[list[int], bool]:
    records, is_all = ring.read()
    assert (records["same"] == records["number"][:, None]).all()
    return records["number"].tolist(), is_all


def test_nothing(kernel: Kernel) -> None:
    ring = ring_of(kernel)
    assert numbers(ring) == numbers(ring) == ([], True)
    assert kernel.reader == 0


def test_each_is_read_once_and_its_room_is_given_back(kernel: Kernel) -> None:
    ring = ring_of(kernel)
    for _ in range(7):
        kernel.write()
    assert numbers(ring) == ([1, 2, 3, 4, 5, 6, 7], True)
    assert kernel.reader == kernel.end == 7 * ENTRY_BYTES
    kernel.write()
    assert numbers(ring) == ([8], True)
    assert numbers(ring) == ([], True)


@pytest.mark.parametrize("begin", [0, 8, 24, DATA_BYTES - 8, DATA_BYTES - 24, (1 << 33) - 16])
def test_over_the_end_again_and_again(begin: int) -> None:
    """Positions only grow; a record may stand across the end."""
    kernel = Kernel(begin)
    ring, found = ring_of(kernel), []
    for count in (127, 1, 61, 128, 0, 101, 97):
        for _ in range(count):
            kernel.write()
        more, is_all = numbers(ring)
        assert is_all
        assert len(more) == count
        found += more
    assert found == list(range(1, kernel.made + 1))
    assert kernel.reader == kernel.end
    os.close(kernel.fd)


def test_what_is_being_written_holds_up_what_stands_behind(kernel: Kernel) -> None:
    ring = ring_of(kernel)
    kernel.write()
    at = kernel.write(BUSY)
    kernel.write()
    assert numbers(ring) == ([1], False)
    assert numbers(ring) == ([], False)
    assert kernel.reader == ENTRY_BYTES
    kernel.finish(at)
    assert numbers(ring) == ([2, 3], True)


def test_what_was_discarded_is_left_out(kernel: Kernel) -> None:
    ring = ring_of(kernel)
    kernel.write(DISCARDED)
    kernel.write()
    at = kernel.write(BUSY)
    assert numbers(ring) == ([2], False)
    kernel.finish(at, DISCARDED)
    kernel.write()
    assert numbers(ring) == ([4], True)
    assert kernel.reader == kernel.end


def test_records_stay_when_their_room_is_written_again(kernel: Kernel) -> None:
    ring = ring_of(kernel)
    for _ in range(128):
        kernel.write()
    first, _ = ring.read()
    for _ in range(128):
        kernel.write()
    assert first["number"].tolist() == list(range(1, 129))


def test_another_reader_goes_on_where_the_first_was(kernel: Kernel) -> None:
    kernel.write()
    assert numbers(ring_of(kernel)) == ([1], True)
    kernel.write()
    assert numbers(ring_of(kernel)) == ([2], True)
