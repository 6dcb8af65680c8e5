"""Own cost, measured by this kernel now and then."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from hvtrace.kernel import bpf, measuring
from tests.bpf.conftest import Programs, in_thread

ENDS = "sched_process_exit"  # the one program whose event this kernel sends


def runs(programs: Programs) -> int:
    (probe,) = [one for one in programs.source.snapshot().probes if one.name == ENDS]
    assert (probe.runs > 0) == (probe.run_ns > 0)
    return probe.runs


def threads_end(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        in_thread(lambda: None)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_MEASURE_SECONDS", 0.02)
    monkeypatch.setattr(measuring, "_REST_SECONDS", 0.2)


def test_a_part_of_the_time_again_and_again(programs: Programs, short: None) -> None:
    assert runs(programs) == 0
    programs.source.measure()
    found = []
    for _ in range(100):  # 0.01 s each: about one in ten of them is measured
        threads_end(0.01)
        found.append(runs(programs))
    growing = sum(after > before for before, after in pairwise(found))
    assert found[-1] > found[0]
    assert 3 <= growing <= 50


def test_the_caller_does_not_wait_and_nothing_is_left(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_MEASURE_SECONDS", 5.0)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    begin = time.monotonic()
    programs.source.measure()
    programs.source.snapshot()
    threads_end(0.02)
    programs.source.close()
    assert time.monotonic() - begin < 2  # less than it would have measured
    assert threading.active_count() == before[1]
    assert len(os.listdir("/proc/self/fd")) < before[0]  # its own are closed, too


def test_without_the_right_one_line_is_said(
    make_programs: Callable[..., Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    said: list[str] = []
    programs = make_programs(say=said.append)
    monkeypatch.setattr(bpf, "enable_statistics", refuse)
    programs.source.measure()
    assert said == ["own cost is not measured: Operation not permitted (it takes CAP_SYS_ADMIN)"]
    programs.call(3)
    assert programs.only().completed == 1
