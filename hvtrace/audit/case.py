"""One guest on its host, and the questions that rules ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hvtrace.audit import words
from hvtrace.audit.facts import Guest, Host
from hvtrace.hyperv.cpuid import BY_NAME, XMM_INPUT_CODES, Feature
from hvtrace.stats.calls import Call

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a rule found: the sentence, and the calls it is about."""

    text: str
    counts: Mapping[int, int] = field(default_factory=dict)  # code -> calls of the interval
    flag: str | None = None  # of QEMU's -cpu, to be set


@dataclass(frozen=True, slots=True)
class Case:
    """A guest and its host. What is not known is None, and no rule stands on it."""

    host: Host
    guest: Guest

    def exposes(self, name: str) -> bool | None:
        """Whether the guest is shown this feature (a key of BY_NAME)."""
        return BY_NAME[name].exposed(self.guest.given)

    def offers(self, name: str) -> bool | None:
        """Whether the host's KVM has it to offer."""
        return BY_NAME[name].exposed(self.host.offered)

    def count(self, number: Callable[[Call], int]) -> Counter[int]:
        """`number` of each row, added up by code; no zeros."""
        counts: Counter[int] = Counter()
        for call in self.guest.calls:
            counts[call.code] += number(call)
        return +counts

    def per_minute(self, counts: Mapping[int, int]) -> float:
        """The rate of all of them together."""
        return sum(counts.values()) * 60 / max(self.host.duration_s, 1e-9)

    def rate(self, counts: Mapping[int, int]) -> str:
        """The same in words: "3.1 M"."""
        return words.amount(self.per_minute(counts))

    def calls(self, counts: Mapping[int, int], kind: str = "") -> str:
        """ "3.1 M memory-form FlushVirtualAddressSpace a minute": `kind` stands before names."""
        return words.tally({code: self.per_minute({code: n}) for code, n in counts.items()}, kind)

    def remedy(self, feature: Feature) -> tuple[str, str | None]:
        """How a sentence that misses `feature` ends, and the flag to set."""
        flag, flags = feature.flag, self.guest.flags
        if flag is None:
            return f" ({feature.where}; QEMU has no flag for it)", None
        if flags is None:
            return f" ({feature.where}; in QEMU {flag})", flag
        if {"hv-passthrough", flag} & set(flags):
            return f" ({feature.where}) though its flags ask for it: is this QEMU too old?", None
        needs = [name for name in feature.needs if name not in flags]
        return f": {flag}{f', which needs {words.listed(needs)}' if needs else ''}", flag


Rule = Callable[[Case], Iterator[Draft]]


def grouped(found: Iterable[tuple[Key, int, int]]) -> dict[Key, Counter[int]]:
    """(key, code, calls) as calls by code, for each key; without what is not above zero."""
    groups: dict[Key, Counter[int]] = {}
    for key, code, number in found:
        if number > 0:
            groups.setdefault(key, Counter())[code] += number
    return groups


def xmm_form(call: Call) -> bool:
    """Whether KVM reads XMM registers for this row, or raises #UD instead."""
    return call.fast and call.code in XMM_INPUT_CODES
