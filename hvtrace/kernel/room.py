"""How much room the programs get. Pure."""

from __future__ import annotations

SLOTS = 16384
"""Unless asked otherwise: 16 calls of each of 1,024 vCPU threads, and 15 MiB."""

MOST_SLOTS = 0xFFFF
"""A thread's table has 16 bits for the index of a slot, and 0 is "none"."""

_LEAST_THREADS, _SLOTS_PER_THREAD = 1024, 16


def threads_for(slots: int) -> int:
    """Entries of threads beside so many slots: for each 16 one, a power of two, at least 1,024."""
    wanted = max(_LEAST_THREADS, -(-slots // _SLOTS_PER_THREAD))
    return 1 << (wanted - 1).bit_length()
