"""How large calls were: the real programs, every bit of the two fields."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hvtrace.kernel import layout
from hvtrace.stats.snapshot import Array, completed, delta, rollup
from tests.bpf.conftest import Programs, in_thread
from tests.bpf.test_round_trip import ROUND_TRIP, STRUCTURES

FLUSH, SPARSE, POST = 0x03, 0x13, 0x5C
BOUNDS = [size for bit in range(12) for size in (1 << bit, (1 << bit + 1) - 1)]


@pytest.fixture
def programs(make_programs: Callable[..., Programs]) -> Programs:
    return make_programs(sizes=True)


def counted(*sizes: int, bits: int) -> list[int]:
    """What is to be found of calls of these sizes."""
    found = [0] * bits
    for size in sizes:
        if size:
            found[size.bit_length() - 1] += 1
    return found


def sizes_of(programs: Programs, code: int) -> tuple[list[int], list[int]]:
    """Of all calls of `code`: (by rep count, by variable header)."""
    found = rollup(programs.source.snapshot(), ("code",))
    (sizes,) = found.sizes[found.rows["code"] == code]
    return sizes["reps"].tolist(), sizes["var"].tolist()


@pytest.mark.parametrize("fast", [0, 1])
def test_every_bit_and_its_bounds(programs: Programs, fast: int) -> None:
    for rep in (0, *BOUNDS):
        programs.call(FLUSH, fast=fast, rep=rep)
    for var in (0, *BOUNDS[:20]):
        programs.call(FLUSH, fast=fast, var=var)
    both = [(7, 11), (4095, 1023), (1, 512)]
    for rep, var in both:
        programs.call(FLUSH, fast=fast, rep=rep, var=var)
    assert sizes_of(programs, FLUSH) == (
        counted(*BOUNDS, *(rep for rep, _ in both), bits=12),
        counted(*BOUNDS[:20], *(var for _, var in both), bits=10),
    )


def test_prime_counts_of_calls_that_differ(programs: Programs) -> None:
    """Memory and fast calls, the kernel's and the VMM's, completed and not: each in its row."""
    for _ in range(17):
        programs.call(FLUSH, rep=5)
    for _ in range(13):
        programs.call(FLUSH, fast=1, rep=5)
    for _ in range(11):
        programs.hypercall(FLUSH, rep=5)
        programs.userspace_exit()
        programs.done()
    for _ in range(7):
        programs.hypercall(SPARSE, var=3)  # superseded by the next
    programs.call(POST)
    snapshot = rollup(programs.source.snapshot())
    keys = snapshot.rows[["code", "fast", "handler"]].tolist()
    rows = dict(zip(keys, snapshot.sizes.tolist(), strict=True))
    assert {key: (sum(reps), sum(var)) for key, (reps, var) in rows.items()} == {
        (FLUSH, 0, 0): (17, 0),
        (FLUSH, 1, 0): (13, 0),
        (FLUSH, 0, 1): (11, 0),
        (SPARSE, 0, 0): (0, 7),
        (POST, 0, 0): (0, 0),
    }
    assert rows[FLUSH, 0, 1][0][2] == 11
    assert rows[SPARSE, 0, 0][1][1] == 7


def test_those_of_many_calls_by_chance(programs: Programs) -> None:
    rng = np.random.default_rng(10_007)
    reps, var = (rng.integers(0, most, 1009).tolist() for most in (4096, 1024))
    reps[::3], var[::5] = [0] * 337, [0] * 202
    for i, (r, v) in enumerate(zip(reps, var, strict=True)):
        programs.call(SPARSE, fast=i % 2, rep=r, var=v)
    assert sizes_of(programs, SPARSE) == (counted(*reps, bits=12), counted(*var, bits=10))


def test_before_5_18_there_is_no_variable_header(make_programs: Callable[..., Programs]) -> None:
    programs = make_programs(sizes=True, has_var_cnt=False)
    for _ in range(7):
        programs.call(FLUSH, rep=9)
    assert sizes_of(programs, FLUSH) == (counted(*[9] * 7, bits=12), [0] * 10)


def test_verdicts_and_statuses_are_the_same_as_without(
    make_programs: Callable[..., Programs],
) -> None:
    """With sizes of memory calls kept, too, the shape of a slot changes more often."""

    def rows(programs: Programs) -> Array:
        for i in range(101):
            kind = {"fast": i % 2, "rep": i % 7, "var": i % 3}
            programs.call((FLUSH, SPARSE, 0x50)[i % 3], (i % 5 == 0) * 2 | i << 32, **kind)
        found = rollup(programs.source.snapshot())
        assert completed(found.rows).sum() == 101
        for name in ("vcpu", "sum_ns", "min_ns", "max_ns", "buckets"):  # what time it took
            found.rows[name] = 0
        return found.rows

    with_sizes = rows(make_programs(sizes=True, slow_ns=0))
    assert (with_sizes == rows(make_programs())).all()


def test_threads_that_end_leave_theirs(programs: Programs) -> None:
    for i in range(1, 4):
        in_thread(lambda: [programs.call(FLUSH, rep=3) for _ in range(5)])
        programs.source.look()
        programs.call(FLUSH, rep=3)
        assert sizes_of(programs, FLUSH)[0] == counted(*[3] * 6 * i, bits=12)


def test_a_slot_that_comes_again_begins_at_nothing(make_programs: Callable[..., Programs]) -> None:
    programs = make_programs(sizes=True, threads=2, slots=1)
    for _ in range(3):
        in_thread(lambda: [programs.call(FLUSH, rep=2048, var=512) for _ in range(7)])
        programs.source.look()
    before = rollup(programs.source.snapshot())
    in_thread(lambda: programs.call(POST, rep=1))
    since = delta(before, rollup(programs.source.snapshot()))
    assert since.sizes["reps"].tolist() == [counted(1, bits=12)]
    assert not since.sizes["var"].any()
    assert since.lost.no_slot == 0


def test_together_with_round_trips(make_programs: Callable[..., Programs]) -> None:
    programs = make_programs(sizes=True, structures=STRUCTURES, round_trip=ROUND_TRIP)
    in_thread(lambda: programs.call(FLUSH, rep=5))
    programs.call(FLUSH, rep=7)
    found = programs.source.snapshot()
    assert len(found.rows) == len(found.sizes) == len(found.trips) == 2
    assert len(rollup(found).sizes) == len(rollup(found).trips) == 1


def test_none_where_they_were_not_asked_for(make_programs: Callable[..., Programs]) -> None:
    programs = make_programs()
    programs.call(FLUSH, rep=5)
    assert len(programs.source.snapshot().sizes) == 0
    programs.hypercall(FLUSH, rep=5)
    call = int(programs.source._maps.threads["call"].max())
    assert call & layout.CALL_SIZES == 0  # of memory calls, the programs keep none
