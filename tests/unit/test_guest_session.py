"""A run with its processes, end to end, but for KVM: the model of a guest takes its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_model import ModelKvm

from hvtrace.errors import HvtraceError
from hvtrace.guest import session
from hvtrace.guest.ledger import Ledger
from hvtrace.guest.mix import Before, Call, Mix, Stock
from hvtrace.guest.session import Orders, Session

MODEL = (sys.executable, str(Path(__file__).with_name("guest_model.py")))

FLUSH = Call(0x02, fast=True, times=7, xmm_input=True, xmm_output="none")
UNKNOWN = Call(0x03, times=5, status=2, xmm_output="memory")
SIGNAL = Call(0x5E, path="vmm", times=5, answers=(0, 0x12), xmm_output="memory")
MOVED = Call(0x5E, path="other-thread", times=3, xmm_output="memory")
KILLED = Call(0x5E, path="killed", xmm_output="memory")
MIX = Mix("test", (FLUSH, UNKNOWN, SIGNAL, MOVED), primes=True)


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_COMMAND", MODEL)
    monkeypatch.setattr(session, "Kvm", ModelKvm)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def run(orders: Orders) -> Ledger:
    with Session(orders) as running:
        running.wait_ready()
        running.go()
        running.wait_idle(None)
        ledger = running.ledger()
        running.close()
    return ledger


def test_a_whole_run() -> None:
    ledger = run(Orders(MIX, vms=2, vcpus=2))
    assert ledger.problems == []
    assert [vm.name for vm in ledger.vms] == ["test-0", "test-1"]
    assert len({vm.pid for vm in ledger.vms}) == 2
    assert len({tid for vm in ledger.vms for tid in vm.vcpus}) == 4
    # vCPUs 0 and 1 of the run are the first VM's: 7 + 11 flushes; 2 and 3 the second's.
    assert ledger.rows[0, 0x02, True, "kernel"].completed == 7 + 11
    assert ledger.rows[1, 0x02, True, "kernel"].completed == 13 + 17
    assert ledger.rows[0, 0x5E, False, "vmm"].orphans == 3 + 5
    assert ledger.hypercalls(0) == ledger.vms[0].kvm_hypercalls
    assert ledger.duration_s > 0


def test_several_vms_in_one_process() -> None:
    ledger = run(Orders(MIX, vms=3, vms_per_process=2, name="many"))
    assert ledger.problems == []
    assert [vm.name for vm in ledger.vms] == ["many-0", "many-0", "many-1"]
    first, second, third = ledger.vms
    assert first.pid == second.pid != third.pid
    assert first.fd != second.fd
    assert [vm.first for vm in ledger.vms] == [0, 1, 2]


def test_rounds() -> None:
    ledger = run(Orders(MIX, rounds=3))
    assert ledger.problems == []
    assert ledger.rows[0, 0x02, True, "kernel"].completed == 21


def test_the_vms_are_those_that_were_ready() -> None:
    with Session(Orders(MIX, vms=2)) as running:
        ready = running.wait_ready()
        assert [vm.kvm_hypercalls for vm in ready] == [None, None]
        for vm in ready:
            arguments = Path(f"/proc/{vm.pid}/cmdline").read_text().split("\0")
            assert arguments[arguments.index("--name") + 1] == vm.name
            tasks = Path(f"/proc/{vm.pid}/task/{vm.vcpus[0]}/comm").read_text()
            assert tasks == "vcpu0\n"
        assert all(row.calls == 0 for row in running.ledger().rows.values())


def test_a_killed_vm_leaves_its_call_open() -> None:
    with Session(Orders(Mix("test", (FLUSH, KILLED)), vcpus=2)) as running:
        running.wait_ready()
        running.go()
        running.wait_idle(None)
        running.close()
        assert running.processes[0].child.returncode == -signal.SIGKILL
        ledger = running.ledger()  # from the memory of a process that is gone
    assert ledger.problems == []
    row = ledger.rows[0, 0x5E, False, "vmm"]
    assert (row.pending, row.completed, row.unfinished) == (2, 0, 2)


def test_a_vm_that_needs_no_killing_ends_by_itself() -> None:
    with Session(Orders(MIX)) as running:
        running.wait_ready()
        running.go()
        running.wait_idle(None)
        running.close()
        assert running.processes[0].child.returncode == 0


def test_a_rate_ends_after_the_duration() -> None:
    mix = Mix("test", (FLUSH, SIGNAL), rate=500)
    with Session(Orders(mix, rate=500, vcpus=2)) as running:
        running.wait_ready()
        running.go()
        began = time.monotonic()
        running.wait_idle(0.6)
        assert 0.5 < time.monotonic() - began < 10
        ledger = running.ledger()
    assert ledger.problems == []
    assert 50 < ledger.hypercalls(0) < 1500


def test_ctrl_c_ends_a_run_in_good_order() -> None:
    mix = Mix("test", (FLUSH,), rate=500)
    with Session(Orders(mix, rate=500)) as running:
        running.wait_ready()
        running.go()
        threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
        running.wait_idle(None)
        assert running.ledger().problems == []
        assert running.ledger().hypercalls(0) > 0


def test_counted_rounds_that_are_cut_short_are_no_problem() -> None:
    with Session(Orders(MIX, rounds=10**9)) as running:
        running.wait_ready()
        running.go()
        running.wait_idle(0.2)
        assert running.ledger().problems == []


def test_expectations_are_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(0x8003, path="vmm", xmm_output="memory", before=Before("6.3", status=2))
    monkeypatch.setattr(session.platform, "release", lambda: "6.1.0-50-amd64")
    ledger = run(Orders(Mix("test", (call,))))
    assert ledger.problems == []
    assert ledger.rows[0, 0x8003, False, "kernel"].statuses == {2: 1}
    assert ledger.kernel == "6.1.0-50-amd64"


@pytest.mark.parametrize(("offered", "handler"), [(True, "vmm"), (False, "kernel")])
def test_expectations_are_those_of_what_kvm_offers(
    monkeypatch: pytest.MonkeyPatch, offered: bool, handler: str
) -> None:
    call = Call(
        0x50, fast=True, path="vmm", times=3, writes=((4, 7),), xmm_output="used-xmm",
        stock=Stock(status=0),
    )  # fmt: skip
    monkeypatch.setattr(ModelKvm, "xmm_output", offered)
    ledger = run(Orders(Mix("test", (call,))))
    assert ledger.problems == []
    verdict = "used-xmm" if offered else "refused"
    assert ledger.rows[0, 0x50, True, handler].xmm_output == {verdict: 3}


def test_a_vm_that_ends_too_early_is_an_error() -> None:
    with Session(Orders(Mix("test", (FLUSH,), rate=100), rate=100)) as running:
        running.wait_ready()
        running.go()
        running.processes[0].child.kill()
        with pytest.raises(HvtraceError, match=r"^VM test-0 has ended with status -9$"):
            running.wait_idle(None)


def test_an_error_of_a_vm_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; print('error KVM refused', sys.argv[-2]); sys.stdin.readline()"
    monkeypatch.setattr(session, "_COMMAND", (sys.executable, "-c", script))
    refused = pytest.raises(HvtraceError, match=r"^VM test-0: KVM refused test-0$")
    with Session(Orders(MIX)) as running, refused:
        running.wait_ready()


def test_a_start_that_fails_halfway_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def second_fails(*args: object, **more: object) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(popen(*args, **more))  # type: ignore[call-overload]
        return started[0]

    monkeypatch.setattr(session.subprocess, "Popen", second_fails)
    with pytest.raises(OSError, match="temporarily"), Session(Orders(MIX, vms=2)):
        pass
    assert started[0].returncode == -signal.SIGKILL


def test_a_host_that_cannot_is_told_before_any_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise HvtraceError("no Hyper-V here")

    monkeypatch.setattr(session, "Kvm", refuse)
    monkeypatch.setattr(session.subprocess, "Popen", None)
    with pytest.raises(HvtraceError, match="no Hyper-V here"):
        Session(Orders(MIX))


def test_vms_end_with_their_parent() -> None:
    """Also where the parent is killed: then nobody says "end"."""
    script = (
        "import time\n"
        "from contextlib import nullcontext\n"
        "from types import SimpleNamespace\n"
        "from hvtrace.guest import session\n"
        "from hvtrace.guest.mix import Call, Mix\n"
        f"session._COMMAND = {MODEL!r}\n"
        "session.Kvm = lambda: nullcontext(SimpleNamespace(hyperv_cpuid=lambda: []))\n"
        "with session.Session(session.Orders(Mix('test', (Call(2),)))) as running:\n"
        "    print(running.wait_ready()[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        vm = Path("/proc") / parent.stdout.readline().strip()
        assert vm.exists()
        parent.kill()
        parent.wait()
        until = time.monotonic() + 10
        while _runs(vm) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _runs(vm)


def _runs(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
