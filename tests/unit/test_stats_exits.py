"""Evidence of exits: added up, subtracted, shown."""

from __future__ import annotations

from dataclasses import replace

from samples import snapshot, vm

from hvtrace.stats.exits import Exit, add_up, as_json, difference
from hvtrace.stats.snapshot import delta
from hvtrace.stats.table import exits, render

WIN = vm("win11", 1009)
ONE = Exit(WIN, 0x50, True, 4, 128, calls=59, untouched=7)
OTHER = replace(ONE, type=2, size_bytes=32, calls=3, untouched=0)


def test_threads_of_a_vm_are_added_up() -> None:
    again = replace(ONE, calls=11, untouched=2)
    assert add_up([ONE, OTHER, again]) == (OTHER, replace(ONE, calls=70, untouched=9))
    assert add_up([]) == ()


def test_what_came_after() -> None:
    later = replace(ONE, calls=61, untouched=8)
    assert difference([ONE, OTHER], [later, OTHER]) == (replace(ONE, calls=2, untouched=1),)
    assert difference([], [ONE]) == (ONE,)


def test_a_vm_of_the_same_name_is_another() -> None:
    reborn = replace(ONE, vm=vm("win11", 1013))
    assert difference([ONE], [ONE, reborn]) == (reborn,)


def test_a_delta_has_those_of_its_interval() -> None:
    old, new = snapshot(), snapshot()
    later = replace(ONE, calls=61)
    found = delta(replace(old, exits=(ONE,)), replace(new, exits=(later, OTHER)))
    assert found.exits == (replace(ONE, calls=2, untouched=0), OTHER)


def test_json_has_all_of_it() -> None:
    assert as_json(ONE) == {
        "vm": {"pid": 1009, "name": "win11"},
        "code": 0x50,
        "name": "HvCallGetVpRegisters",
        "fast": True,
        "type": 4,
        "size_bytes": 128,
        "calls": 59,
        "untouched": 7,
    }


def test_table_has_a_line_for_each() -> None:
    shown = replace(snapshot(), exits=(ONE, replace(OTHER, size_bytes=None)))
    assert exits(shown, 80) == [
        "exits of win11, GetVpRegisters fast: 59 calls by exit type 4, 128 bytes,",
        "  7 succeeded with the registers left as they were",
        "exits of win11, GetVpRegisters fast: 3 calls by exit type 2, of unknown size",
    ]
    assert "exits of win11" in render(shown, 1.0)
    assert "exits" not in render(snapshot(), 1.0)
