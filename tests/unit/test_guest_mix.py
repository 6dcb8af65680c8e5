"""Calls and mixes as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.guest.mix import Before, Call, Mix, Stock, version
from hvtrace.hyperv import values


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, n))


@given(
    st.integers(0, 0xFFFF),
    st.booleans(),
    st.integers(0, 0x3FF),
    st.integers(0, 0xFFF),
    st.integers(0, 0xFFF),
)
def test_input_value_is_read_back_by_the_decoder(
    code: int, fast: bool, var: int, reps: int, start: int
) -> None:
    found = values.decode_input(Call(code, fast=fast, var=var, reps=reps, start=start).input)
    assert (found.code, found.fast) == (code, fast)
    assert (found.var_cnt, found.rep_cnt, found.rep_idx) == (var, reps, start)


def test_bits_are_added_to_the_input_value() -> None:
    assert Call(2, bits=0x80000000).input == 0x80000002


def test_without_primes_everyone_makes_the_same() -> None:
    mix = Mix("test", (Call(1, times=6),))
    assert [mix.times(mix.calls[0], vcpu) for vcpu in range(4)] == [6, 6, 6, 6]


@given(st.integers(1, 400), st.integers(0, 12))
def test_primes_are_prime_and_differ_by_vcpu(times: int, vcpu: int) -> None:
    mix = Mix("test", (Call(1, times=times),), primes=True)
    found = [mix.times(mix.calls[0], i) for i in range(vcpu + 1)]
    assert all(is_prime(n) and n >= times for n in found)
    assert found == sorted(set(found))
    assert not any(is_prime(n) for n in range(times, found[0]))


def test_a_killed_call_is_made_once_whatever_the_primes() -> None:
    mix = Mix("test", (Call(1, path="killed"),), primes=True)
    assert [mix.times(mix.calls[0], vcpu) for vcpu in range(3)] == [1, 1, 1]


def test_older_kernels_may_differ() -> None:
    call = Call(0x8001, path="vmm", answers=(5,), before=Before("6.3", status=2))
    mix = Mix("test", (call, Call(1)))
    assert mix.on((6, 3), xmm_output=False) == mix.on((7, 0), xmm_output=True) == mix
    old = mix.on((6, 2), xmm_output=False).calls
    assert (old[0].path, old[0].status) == ("kernel", 2)
    assert old[1] == mix.calls[1]


def test_a_kvm_without_xmm_output_differs() -> None:
    used = Call(0x46, fast=True, path="vmm", writes=((0, 5),), xmm_output="used-gpr", stock=Stock())
    never = Call(0x50, path="vmm", answers=(3,), xmm_output="impossible",
                 stock=Stock(path="vmm", status=0, xmm_output="impossible"))  # fmt: skip
    mix = Mix("test", (used, never, Call(1)))
    assert mix.on((6, 12), xmm_output=True) == mix
    first, second, third = mix.on((7, 2), xmm_output=False).calls
    assert (first.path, first.status, first.xmm_output) == ("kernel", 2, "refused")
    assert first.writes == ()
    assert (second.path, second.status, second.xmm_output) == ("vmm", 0, "impossible")
    assert third == mix.calls[2]


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ("6.12.107+deb13-amd64", (6, 12)),
        ("6.1.0-50-amd64", (6, 1)),
        ("7.2-rc1", (7, 2)),
        ("6.3", (6, 3)),
        ("6.18.44-fc-v445", (6, 18)),
    ],
)
def test_version(release: str, found: tuple[int, int]) -> None:
    assert version(release) == found
