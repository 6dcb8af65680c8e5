"""How many series there may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How many things have series of their own; what is beyond is called "other"."""

    vms: int = 1024
    codes: int = 64  # of each VM
    series: int = 500_000
