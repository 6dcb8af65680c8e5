"""A tracer counts every call that it is measured with, or the benchmark ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.instructions import CPUID, HYPERCALLS, measure
from benchmarks.scale import SIZES, some_codes
from benchmarks.tracers import Counted, Tracer, tracers
from hvtrace.errors import HvtraceError
from hvtrace.kernel import layout

CALLS_EACH = 61


class FakeGuest:
    """Makes calls that are nobody's, 100 instructions each."""

    def __init__(self) -> None:
        self.made = 7  # before the tracer came: not its to count

    def instructions(self) -> float:
        self.made += CALLS_EACH
        return 100.0


def attached(calls: int):
    @contextmanager
    def attach() -> Iterator[Counted]:
        counted = Counted()
        yield counted
        counted.calls = calls

    return attach


def measured(calls: int, counts: bool = True) -> dict[str, float]:
    guests = {name: FakeGuest() for name in [*HYPERCALLS, CPUID]}
    return measure(Tracer("a peer", attached(calls), counts), guests)  # type: ignore[arg-type]


def test_one_that_counts_every_hypercall_is_measured() -> None:
    assert measured(2 * CALLS_EACH) == {"unknown code": 100, "output refused": 100, CPUID: 100}


@pytest.mark.parametrize("calls", [0, 2 * CALLS_EACH - 1, 3 * CALLS_EACH])
def test_one_that_misses_a_call_or_counts_another_exit_ends_it(calls: int) -> None:
    with pytest.raises(HvtraceError, match=f"a peer counted {calls} of 122 calls"):
        measured(calls)


def test_one_that_filters_must_count_none() -> None:
    assert measured(0, counts=False)
    with pytest.raises(HvtraceError, match="a peer counted 1 of 0 calls"):
        measured(1, counts=False)


def test_names_in_the_table_are_unique_and_figures_can_be_made_of_them() -> None:
    names = [tracer.name for tracer in tracers()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name]
    assert names[0] == "nothing"
    assert {"hvtrace", "hvtrace, after all of these", "the kernel's own tracefs log"} <= {*names}


def test_every_size_has_room_and_calls_that_differ() -> None:
    for size in SIZES:
        assert size.threads * size.calls <= size.room_slots
        assert size.threads <= size.room_threads
        assert len(set(some_codes(size.calls))) == size.calls < layout.TABLE
        # What is left is filled by one more call of each thread: see scale._beyond.
        assert size.room_slots - size.threads * size.calls <= size.threads
