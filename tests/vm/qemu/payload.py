"""What payload.S and the test share: the guest's memory, and how the guest is built."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from ctypes import Structure, c_uint32, sizeof
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).with_name("payload.S")
LOADED_AT = 0x100000
SHARED_AT = 0x200000
"""Guest-physical address of `Shared`: above the payload, and nothing the BIOS writes to."""
MOST_VCPUS = 8
TICK_NS = 100_000_000
"""From one round to the next."""

KINDS = {
    "FLUSH_FAST": (0x02, True),
    "FLUSH_MEMORY": (0x02, False),
    "IPI": (0x0B, True),
    "OUTPUT": (0x50, True),
    "SIGNAL": (0x5D, True),
}
"""The calls that the payload can make, in the order of its table: code, fast."""
ALWAYS = ("FLUSH_FAST", "FLUSH_MEMORY")
"""Made wherever CPUID offers them; it never offers both."""
WORDS = {name.lower(): name for name in KINDS if name not in ALWAYS}
"""What a test can ask for, where CPUID offers it."""


class Vcpu(Structure):
    """One vCPU's own ledger, written by it alone. Arrays have an element for each kind."""

    is_up: int
    ticked: int
    rounds: int
    ipis: int
    calls: Sequence[int]
    failed: Sequence[int]
    status: Sequence[int]

    _fields_ = (
        ("is_up", c_uint32),  # it will make rounds
        ("ticked", c_uint32),
        ("rounds", c_uint32),  # complete
        ("ipis", c_uint32),  # that arrived: several sent at once are one
        ("calls", c_uint32 * len(KINDS)),
        ("failed", c_uint32 * len(KINDS)),
        ("status", c_uint32 * len(KINDS)),  # of the last that failed
    )


class Shared(Structure):
    """What the test writes, and what it reads."""

    wanted: int
    rounds_wanted: int
    offered: int
    vcpus: Sequence[Vcpu]

    _fields_ = (
        ("wanted", c_uint32),  # kinds, a bit for each; the test's
        ("rounds_wanted", c_uint32),  # of each vCPU, since its start; the test's
        ("offered", c_uint32),  # kinds that CPUID offers; the payload's
        ("vcpus", Vcpu * MOST_VCPUS),
    )


def bits(kinds: Sequence[str]) -> int:
    """Names of `KINDS` as the payload takes them."""
    return sum(1 << list(KINDS).index(name) for name in kinds)


@cache
def image() -> bytes:
    """The kernel for QEMU's -kernel: payload.S, assembled and linked once.

    Raises:
        subprocess.CalledProcessError: GNU as or ld refused it; they say why on stderr.
    """
    symbols = {
        **{name: bits([name]) for name in KINDS},
        "KINDS": len(KINDS),
        "WANTED": SHARED_AT + _offset(Shared, "wanted"),
        "ROUNDS_WANTED": SHARED_AT + _offset(Shared, "rounds_wanted"),
        "OFFERED": SHARED_AT + _offset(Shared, "offered"),
        "LEDGERS": SHARED_AT + _offset(Shared, "vcpus"),
        "LEDGER_BYTES": sizeof(Vcpu),
        **{name.upper(): _offset(Vcpu, name) for name, _ in Vcpu._fields_},
        "MOST_VCPUS": MOST_VCPUS,
        "TICK_NS": TICK_NS,
    }
    defined = [word for name, value in symbols.items() for word in ("--defsym", f"{name}={value}")]
    link = ["ld", "-m", "elf_i386", "-N", "--no-warn-rwx-segments", "-e", "start"]
    with TemporaryDirectory() as folder:
        code, kernel = Path(folder, "payload.o"), Path(folder, "payload.elf")
        subprocess.run(["as", "--32", *defined, "-o", code, SOURCE], check=True)
        subprocess.run([*link, f"-Ttext={LOADED_AT:#x}", "-o", kernel, code], check=True)
        return kernel.read_bytes()


def _offset(structure: type[Structure], name: str) -> int:
    return int(getattr(structure, name).offset)
