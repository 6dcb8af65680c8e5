"""Slow calls, from the programs' ring to the next snapshot."""

from __future__ import annotations

import time

import numpy as np

from hvtrace.kernel import layout
from hvtrace.kernel.entries import Entries
from hvtrace.kernel.maps import Maps
from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import HANDLERS, Array

MOST = 4096
"""So many are kept between two snapshots; a ring has room for hardly more."""


class SlowCalls:
    """Those of one set of programs."""

    def __init__(self, maps: Maps, entries: Entries) -> None:
        self.dropped = 0  # for want of room here, not in the ring
        self._maps = maps
        self._entries = entries
        self._kept: list[SlowCall] = []
        self._early = np.zeros(0, dtype=layout.SLOW)

    def look(self) -> bool:
        """See what is new. To be called between `Entries.look` and `recycle`.

        False where calls of threads that have ended may be left in the ring: one that is
        being written stands before them. What these threads leave has to stay until then.
        """
        found, is_all = self._maps.slow()
        found = np.concatenate((self._early, found))
        is_known = self._entries.vm_of[found["entry"]] >= 0
        self._early = found[~is_known]  # of threads that came after Entries.look
        found = found[is_known]
        room = MOST - len(self._kept)
        self.dropped += max(0, len(found) - room)
        self._kept += self._calls(found[:room])
        return is_all

    def take(self) -> tuple[SlowCall, ...]:
        """Those since the last time."""
        found, self._kept = tuple(self._kept), []
        return found

    def _calls(self, found: Array) -> list[SlowCall]:
        since_1970_ns = time.time_ns() - time.monotonic_ns()
        return [
            SlowCall(
                (since_1970_ns + start_ns) / 1e9,
                *self._entries.who(entry),
                tid,
                code=call & 0xFFFF,
                fast=bool(call & layout.CALL_FAST),
                handler=HANDLERS[bool(call & layout.CALL_VMM)],
                var_cnt=call >> layout.CALL_VAR_SHIFT & 0x3FF,
                rep_cnt=call >> layout.CALL_REP_SHIFT & 0xFFF,
                status=result & 0xFFFF,
                reps=result >> 32 & 0xFFF,
                duration_ns=duration_ns,
            )
            for start_ns, duration_ns, call, result, entry, tid in found.tolist()
        ]
