"""What the exits of forwarded calls really were: evidence, where it was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hvtrace.hyperv import codes
from hvtrace.stats.vm import Vm


@dataclass(frozen=True, slots=True)
class Exit:
    """Forwarded calls that are over, of one VM, call and exit type."""

    vm: Vm
    code: int
    fast: bool
    type: int  # kvm_run.hyperv.type: 2 is HCALL, above 3 is new
    size_bytes: int | None  # of the structure that this type fills; None: not known
    calls: int
    untouched: int  # succeeded with output in registers, which the VMM left as they were

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the same thing in two snapshots."""
        return (self.vm.identity, self.code, self.fast, self.type)


def add_up(exits: Iterable[Exit]) -> tuple[Exit, ...]:
    """One Exit for each key, sorted by VM, code and type."""
    found: dict[tuple[object, ...], Exit] = {}
    for one in exits:
        known = found.get(one.key)
        calls, untouched = (known.calls, known.untouched) if known else (0, 0)
        found[one.key] = replace(one, calls=calls + one.calls, untouched=untouched + one.untouched)
    order = sorted(found.values(), key=lambda e: (e.vm.name, e.vm.pid, e.code, e.fast, e.type))
    return tuple(order)


def difference(before: Iterable[Exit], after: Iterable[Exit]) -> tuple[Exit, ...]:
    """What came after `before`; nothing is left out but what had no new call."""
    old = {one.key: one for one in before}
    new = []
    for one in after:
        known = old.get(one.key)
        calls, untouched = (known.calls, known.untouched) if known else (0, 0)
        if one.calls > calls:
            left = one.untouched - untouched
            new.append(replace(one, calls=one.calls - calls, untouched=left))
    return tuple(new)


def as_json(one: Exit) -> dict[str, Any]:
    """One element of "exits" in the JSON contract (docs/schema.md)."""
    return {
        "vm": {"pid": one.vm.pid, "name": one.vm.name},
        "code": one.code,
        "name": codes.name_of(one.code),
        "fast": one.fast,
        "type": one.type,
        "size_bytes": one.size_bytes,
        "calls": one.calls,
        "untouched": one.untouched,
    }
