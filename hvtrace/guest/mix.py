"""A mix: which calls a guest makes, how often, and what it expects of each. Values only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count, islice

FORWARDED = frozenset({"vmm", "immediate-exit", "other-thread", "killed"})
SITES = ("page", "vmcall", "vmmcall", "user")
VERDICTS = (
    *("memory", "none", "unknown", "impossible"),
    *("refused", "used-gpr", "used-xmm", "claimed"),
)
DELIVERED = frozenset({"used-gpr", "used-xmm", "claimed"})  # verdicts on calls that succeeded
SYNDBG = ("off", "on", "hypercalls")
VMMS = ("new", "old")


@dataclass(frozen=True, slots=True)
class Before:
    """What differs on kernels older than `release`."""

    release: str
    path: str = "kernel"
    status: int = 0


@dataclass(frozen=True, slots=True)
class Stock:
    """What differs on a KVM that offers no output in registers; nothing is written there."""

    path: str = "kernel"
    status: int = 2
    xmm_output: str = "refused"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a mix; the fields are those of the file.

    In `writes` each word has its number among the registers (hvtrace.guest.memory.REGISTERS).
    """

    code: int
    about: str = ""
    fast: bool = False
    var: int = 0
    reps: int = 0
    start: int = 0
    bits: int = 0
    rdx: int = 0
    r8: int = 0
    xmm: tuple[int, ...] = ()
    block: tuple[int, ...] = ()
    via: str = "page"
    times: int = 1
    enforce: bool = False
    path: str = "kernel"
    status: int = 0
    answers: tuple[int, ...] = (0,)
    writes: tuple[tuple[int, int], ...] = ()
    xmm_input: bool = False
    xmm_output: str = ""
    before: Before | None = None
    stock: Stock | None = None

    @property
    def input(self) -> int:
        """The hypercall input value (TLFS: hypercall interface)."""
        return (
            self.code
            | self.fast << 16
            | self.var << 17
            | self.reps << 32
            | self.start << 48
            | self.bits
        )

    def on(self, release: tuple[int, int], *, xmm_output: bool) -> Call:
        """This call as kernel `release` (major, minor) must treat it, with XMM output or not."""
        if self.stock and not xmm_output:
            stock = self.stock
            return replace(
                self, path=stock.path, status=stock.status, xmm_output=stock.xmm_output, writes=()
            )
        if self.before and release < version(self.before.release):
            return replace(self, path=self.before.path, status=self.before.status)
        return self


@dataclass(frozen=True, slots=True)
class Guest:
    """What the guest's machine is like."""

    withhold: tuple[str, ...] = ()
    offer: tuple[str, ...] = ()
    syndbg: str = "off"
    eventfd: tuple[int, ...] = ()
    vmm: str = "new"


@dataclass(frozen=True, slots=True)
class Mix:
    """A whole mix; `calls` in the order in which the guest makes them."""

    name: str
    calls: tuple[Call, ...]
    about: str = ""
    rate: float = 0.0
    swing: float = 0.0
    primes: bool = False
    guest: Guest = field(default_factory=Guest)

    @property
    def blocks(self) -> int:
        """How many calls have parameters in memory."""
        return sum(bool(call.block) for call in self.calls)

    def on(self, release: tuple[int, int], *, xmm_output: bool) -> Mix:
        """The mix as it is on kernel `release` (major, minor), with XMM output or not."""
        calls = tuple(call.on(release, xmm_output=xmm_output) for call in self.calls)
        return replace(self, calls=calls)

    def times(self, call: Call, vcpu: int) -> int:
        """How often vCPU number `vcpu` of the whole run makes `call` in a round."""
        if not self.primes or call.path == "killed":
            return call.times
        return next(islice(_primes_from(call.times), vcpu, None))


def version(release: str) -> tuple[int, int]:
    """The (major, minor) of a kernel release: "6.12.107+deb13-amd64" gives (6, 12)."""
    major, minor = release.partition("-")[0].split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def _primes_from(start: int) -> Iterator[int]:
    return (n for n in count(max(2, start)) if all(n % d for d in range(2, int(n**0.5) + 1)))
