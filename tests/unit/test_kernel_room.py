"""Room for threads follows from that for slots."""

from __future__ import annotations

import pytest

from hvtrace.kernel import layout
from hvtrace.kernel.room import MOST_SLOTS, SLOTS, threads_for


@pytest.mark.parametrize(
    ("slots", "threads"),
    [
        *((1, 1024), (SLOTS, 1024), (SLOTS + 1, 2048)),
        *((2 * SLOTS, 2048), (2 * SLOTS + 1, 4096), (MOST_SLOTS, 4096)),
    ],
)
def test_threads_for(slots: int, threads: int) -> None:
    assert threads_for(slots) == threads


def test_a_table_can_name_every_slot() -> None:
    assert layout.THREAD["table"].base.itemsize * 8 == MOST_SLOTS.bit_length() == 16
