"""From command lines, /proc and KVM's debugfs to the name of a VM."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hvtrace.kernel import vms
from hvtrace.kernel.registry import Registry, Thread
from hvtrace.kernel.vms import Identities, describe
from hvtrace.stats.snapshot import Vm

UUID = "c7a5fdb2-cdaf-9455-926a-d65c16db1809"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            f"/usr/bin/qemu-system-x86_64 -name guest=win11,debug-threads=on -S -uuid {UUID}",
            ("win11", "qemu", UUID),
        ),
        ("qemu-system-x86_64 -m 4G -name win2k22", ("win2k22", "qemu", None)),
        ("qemu-system-x86_64 -name win10,process=q,debug-threads=on", ("win10", "qemu", None)),
        ("qemu-system-x86_64 -name debug-threads=on,guest=late", ("late", "qemu", None)),
        ("qemu-system-x86_64 -name guest=a,,b,debug-threads=on", ("a,b", "qemu", None)),
        ("qemu-system-x86_64 -enable-kvm -m 1G", ("qemu-77", "qemu", None)),
        ("qemu-system-x86_64 -name", ("qemu-77", "qemu", None)),
        (
            "/usr/libexec/qemu-kvm -name guest=default_vm1,debug-threads=on -S",
            ("default_vm1", "qemu", None),
        ),
        (
            f"cloud-hypervisor --api-socket /run/ch.sock --platform num_pci_segments=2,uuid={UUID}",
            ("cloud-hypervisor-77", "cloud-hypervisor", UUID),
        ),
        ("/usr/bin/crosvm run --name termina vmlinux", ("termina", "crosvm", None)),
        ("crosvm run --name=termina vmlinux", ("termina", "crosvm", None)),
        ("/firecracker --id i-551e7604 --api-sock a.sock", ("i-551e7604", "firecracker", None)),
        ("./openvmm --hv --memory 4GB", ("openvmm-77", "openvmm", None)),
        ("python3 -m hvtrace.guest.vm --name busy-0", ("busy-0", "hvtrace-guest", None)),
        ("/opt/my/vmm --name x -n kvm", ("vmm-77", "vmm", None)),
        ("python3 my_vmm.py --name x", ("python3-77", "python3", None)),
        ("", ("vcpu0-77", "vcpu0", None)),
    ],
)
def test_name_vmm_and_uuid(command: str, expected: tuple[str, str, str | None]) -> None:
    assert describe(command.split(), 77, "vcpu0") == expected


def test_spaces_in_a_name_survive() -> None:
    assert describe(["qemu-kvm", "-name", "guest=My VM"], 1, "")[0] == "My VM"


def test_start_time_of_this_process_is_that_of_ps() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    etimes = int(subprocess.check_output(["ps", "-o", "etimes=", "-p", str(os.getpid())]))
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(uptime - vms.start_time(os.getpid()) / ticks - etimes) < 2


def test_start_time_survives_a_hostile_name(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "7").mkdir()
    fields = " ".join(str(n) for n in range(4, 53))
    (tmp_path / "7" / "stat").write_text(f"7 (a) S 1 (b)) S {fields}\n")
    monkeypatch.setattr(vms, "PROC", tmp_path)
    assert vms.start_time(7) == 22
    (tmp_path / "7" / "stat").write_text(f"7 (a) Z {fields}\n")
    assert vms.start_time(7) == 0  # a zombie runs no VM
    assert vms.start_time(8) == 0


@pytest.fixture
def debugfs(tmp_path: Path) -> Path:
    """Two VMs of process 100 and one of process 200, as KVM lays them out."""
    for folder, threads in {"100-12": [101, 102], "100-13": [103], "200-9": [201]}.items():
        for i, tid in enumerate(threads):
            (tmp_path / folder / f"vcpu{i}").mkdir(parents=True)
            (tmp_path / folder / f"vcpu{i}" / "pid").write_text(f"{tid}\n")
        (tmp_path / folder / "hypercalls").write_text("0\n")
    (tmp_path / "hypercalls").write_text("0\n")
    return tmp_path


def resolve(debugfs: Path | None, tgid: int, tid: int) -> Vm:
    return Identities(debugfs, lambda pid: 5 * pid).process(tgid).vm_of(tid, "vmm")


def test_vms_of_one_process_are_kept_apart_by_debugfs(debugfs: Path) -> None:
    first, second = resolve(debugfs, 100, 101), resolve(debugfs, 100, 103)
    assert (first.fd, second.fd) == (12, 13)
    assert first.identity != second.identity
    assert (first.name, second.name) == ("vmm-100#12", "vmm-100#13")
    assert resolve(debugfs, 100, 102).identity == first.identity


def test_the_only_vm_of_a_process_takes_all_its_threads(debugfs: Path) -> None:
    """A VMM may move a vCPU to a thread that debugfs does not name yet."""
    assert resolve(debugfs, 200, 299) == resolve(debugfs, 200, 201)
    assert resolve(debugfs, 200, 201).name == "vmm-200"


def test_vcpus_have_the_numbers_that_kvm_gave_them(debugfs: Path) -> None:
    process = Identities(debugfs, lambda pid: 5).process(100)
    assert [process.number_of(tid) for tid in (101, 102, 103, 999)] == [0, 1, 0, -1]
    (debugfs / "100-12" / "vcpu1").rename(debugfs / "100-12" / "vcpu13")
    assert Identities(debugfs, lambda pid: 5).process(100).number_of(102) == 13


def test_an_unknown_thread_of_several_vms_stays_with_its_process(debugfs: Path) -> None:
    assert resolve(debugfs, 100, 999).fd is None


def test_without_debugfs_the_process_is_the_vm() -> None:
    assert resolve(None, 100, 101).identity == resolve(None, 100, 103).identity


def test_alive(debugfs: Path) -> None:
    started = {100: 5, 200: 7}
    identities = Identities(debugfs, lambda pid: started.get(pid, 0))
    vm = identities.process(200).vm_of(201, "x")
    assert identities.alive(vm)
    (debugfs / "200-9").rename(debugfs / "gone")  # the VM ended, its process lives on
    assert not identities.alive(vm)
    vm = identities.process(100).vm_of(101, "x")
    started[100] = 6  # the pid came again
    assert not identities.alive(vm)
    del started[100]
    assert not identities.alive(vm)


def make_registry(started: dict[int, int], keep_ended_seconds: float) -> Registry:
    identities = Identities(None, lambda pid: started.get(pid, 0))
    return Registry(identities, keep_ended_seconds)


def test_registry_joins_threads_of_a_vm_and_never_two_processes() -> None:
    started = {100: 5}
    registry = make_registry(started, 60)
    assert registry.find([Thread(100, 101, "a"), Thread(100, 102, "b")]) == [(0, -1), (0, -1)]
    started[100] = 6
    assert registry.find([Thread(100, 101, "a")]) == [(1, -1)]  # same pid, another process


def test_a_thread_that_ended_is_taken_for_no_other_process_of_its_pid() -> None:
    """The kernel noted when its process began; the pid has come again since."""
    started = {100: 5}
    registry = make_registry(started, 60)
    found = registry.find([Thread(100, 101, "a"), Thread(100, 77, "old", process_began=3)])
    assert found == [(0, -1), (1, -1)]
    new, old = registry.vms
    assert (old.pid, old.name, old.vmm, old.start_time, old.fd) == (100, "old-100", "old", 3, None)
    assert new.start_time == 5
    assert registry.find([Thread(100, 78, "b", process_began=5)]) == [(0, -1)]  # it is this one
    del started[100]
    assert registry.find([Thread(100, 79, "c", process_began=5)]) == [(0, -1)]  # was, and is known
    assert registry.find([Thread(100, 80, "d", process_began=3)]) == [(1, -1)]
    assert len(registry.vms) == 2


def test_a_thread_that_was_noted_is_not_asked_for() -> None:
    vm = Vm(100, "win11", "qemu", 3, 13, UUID)
    registry = make_registry({100: 5}, 60)
    assert registry.find([Thread(100, 101, "a", 3, (vm, 7))]) == [(0, 7)]
    assert registry.vms == [vm]


def test_a_thread_that_ended_is_not_guessed_between_vms_of_its_process() -> None:
    registry = make_registry({}, 60)
    vms = [Vm(100, f"vmm-100#{fd}", "vmm", 3, fd) for fd in (12, 13)]
    registry.find([Thread(100, 101 + i, "a", 3, (vm, 0)) for i, vm in enumerate(vms)])
    registry.find([Thread(100, 103, "a", 3)])
    assert [vm.fd for vm in registry.vms] == [12, 13, None]


def test_registry_marks_and_forgets_what_ended() -> None:
    started = {100: 5, 200: 5, 300: 5}
    registry = make_registry(started, -1)
    registry.find(Thread(pid, pid, "a") for pid in (100, 200, 300))
    del started[200]
    registry.mark_ended(busy={0, 2})
    assert [vm.ended for vm in registry.vms] == [False, True, False]
    moved = registry.expire()
    assert moved is not None
    assert moved.tolist() == [0, -1, 1]
    assert [vm.pid for vm in registry.vms] == [100, 300]
    assert registry.expire() is None


def test_registry_keeps_what_ended_just_now() -> None:
    registry = make_registry({}, 3600)
    registry.find([Thread(100, 100, "a")])
    registry.mark_ended(busy=set())
    assert registry.vms[0].ended
    assert registry.expire() is None


def test_busy_vm_is_not_looked_at() -> None:
    registry = make_registry({}, 0)
    registry.find([Thread(100, 100, "a")])
    registry.mark_ended(busy={0, -1})
    assert not registry.vms[0].ended
