"""Service time by vCPU, under the number that KVM gave it; and what is told of the programs."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from hvtrace.kernel import bpf
from hvtrace.stats.snapshot import Snapshot
from tests.bpf.conftest import Programs, in_thread

FLUSH, POST = 0x02, 0x5C
CALLS = {0: 7, 5: 11, 300: 13}  # by vCPU: numbers need not be dense


def run_vcpu(programs: Programs, debugfs: Path, number: int | None) -> None:
    """A vCPU's thread, from its beginning to its end; None: one that debugfs does not list."""

    def guest() -> None:
        if number is not None:
            folder = debugfs / f"{os.getpid()}-7" / f"vcpu{number}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "pid").write_text(f"{threading.get_native_id()}\n")
        for i in range(CALLS.get(number or 0, 3)):
            programs.call((FLUSH, POST)[i % 2])
        programs.source.look()  # as views do: who it is can be seen while it lives only

    in_thread(guest)


def seconds(snapshot: Snapshot) -> Counter[int]:
    """Service time by vCPU of the only VM."""
    assert set(snapshot.vcpus["vm"].tolist()) <= {0}
    return Counter(dict(snapshot.vcpus[["vcpu", "sum_ns"]].tolist()))


@pytest.fixture
def programs(make_programs, tmp_path: Path) -> Programs:
    (tmp_path / f"{os.getpid()}-7").mkdir()
    return make_programs(debugfs=tmp_path, vcpu_times=True)


def test_times_of_vcpus_stay_when_their_threads_have_gone(programs, tmp_path) -> None:
    before = Counter[int]()
    for number in (*CALLS, 5, None):
        run_vcpu(programs, tmp_path, number)
        now = programs.source.snapshot()
        times = seconds(now)
        assert times.total() == now.rows["sum_ns"].sum()
        added = times - before
        assert [*added] == [-1 if number is None else number]
        assert not before - times  # nothing fell
        before = times
    assert len(before) == len(CALLS) + 1
    assert programs.source.snapshot().rows["tid"].tolist() == [0, 0]


def test_times_go_with_their_vm(make_programs, tmp_path: Path) -> None:
    (tmp_path / f"{os.getpid()}-7").mkdir()
    programs = make_programs(debugfs=tmp_path, vcpu_times=True, keep_ended_seconds=-1)
    run_vcpu(programs, tmp_path, 5)
    assert len(programs.source.snapshot().vcpus) == 1
    (tmp_path / f"{os.getpid()}-7").rename(tmp_path / "gone")
    last = programs.source.snapshot()
    assert [vm.ended for vm in last.vms] == [True]
    assert len(last.vcpus) == 1
    assert len(programs.source.snapshot().vcpus) == 0


def test_nobody_asked_for_it(make_programs) -> None:
    programs = make_programs()
    programs.call(FLUSH)
    assert len(programs.source.snapshot().vcpus) == 0


def test_programs_are_told_with_their_runs_while_the_kernel_measures(programs: Programs) -> None:
    programs.call(FLUSH)
    before = {probe.name: probe for probe in programs.source.snapshot().probes}
    assert before.keys() == programs.source.loaded.programs.keys()
    statistics = bpf.enable_statistics()
    for _ in range(17):
        programs.call(FLUSH)
    os.close(statistics)
    programs.call(FLUSH)
    after = {probe.name: probe for probe in programs.source.snapshot().probes}
    runs = {name: after[name].runs - before[name].runs for name in before}
    assert runs["kvm_hv_hypercall"] == runs["kvm_hv_hypercall_done"] == 17
    assert runs["kvm_userspace_exit"] == 0
    took_ns = after["kvm_hv_hypercall"].run_ns - before["kvm_hv_hypercall"].run_ns
    assert 17 * 20 < took_ns < 1e9
    assert not any(probe.attached for probe in after.values())  # the tests drive them
    programs.source.attach()
    assert all(probe.attached for probe in programs.source.snapshot().probes)
    programs.source.detach()
    assert not any(probe.attached for probe in programs.source.snapshot().probes)
