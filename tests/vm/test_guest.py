"""The guests' ledger against the kernel: its own log of the tracepoints, and KVM's counters.

hvtrace itself takes no part. What is equal here is what every other test may
stand on.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from hvtrace.guest import mixfile
from tests.vm.held import Held, hold, logging
from tests.vm.run import HVTRACE
from tests.vm.tracefs import tally


@pytest.fixture(scope="module")
def everything() -> Held:
    return hold("--mix", "everything", "--vms", "2", "--vcpus", "2")


@pytest.fixture(scope="module")
def one_process() -> Held:
    return hold("--mix", "everything", "--vms", "2", "--vms-per-process", "2", "--rounds", "2")


@pytest.fixture(scope="module")
def busy() -> Held:
    return hold("--mix", "windows-busy", "--vcpus", "2", "--duration", "3")


@pytest.fixture(scope="module")
def xmm_output() -> Held:
    return hold("--mix", "xmm-output", "--vcpus", "2")


@pytest.fixture(params=["everything", "one_process", "busy", "xmm_output"])
def held(request: pytest.FixtureRequest) -> Held:
    found: Held = request.getfixturevalue(request.param)
    return found


def test_no_problems(held: Held) -> None:
    assert held.ledger["problems"] == []


def test_no_call_before_go(held: Held) -> None:
    assert held.quiet == []


def test_ledger_equals_the_log(held: Held) -> None:
    assert held.in_ledger == held.in_log


def test_orphans_equal_those_of_the_log(held: Held) -> None:
    _, orphans = held.logged
    assert orphans == sum(c["orphans"] for c in held.ledger["calls"])


def test_completed_calls_equal_kvms_counters(held: Held) -> None:
    """In debugfs by VM and in all, and as the VM's process read it; the guest's own sum."""
    by_vm = {(vm["pid"], vm["fd"]): vm["hypercalls"] for vm in held.ledger["vms"]}
    assert held.counters == by_vm
    assert held.total == sum(by_vm.values())
    assert held.by_vm == by_vm


def test_threads_and_processes_have_names(held: Held) -> None:
    for vm in held.ledger["vms"]:
        assert [held.names[tid] for tid in vm["vcpus"]] == [
            f"vcpu{i}" for i in range(len(vm["vcpus"]))
        ]
        arguments = held.command_lines[vm["pid"]]
        assert arguments[arguments.index("-m") + 1] == "hvtrace.guest.vm"
        assert arguments[arguments.index("--name") + 1] == vm["name"]


def test_every_path_was_taken(everything: Held) -> None:
    rows = everything.ledger["calls"]
    for field in ("completed", "faulted", "pending", "orphans", "reps", "xmm_input"):
        assert all(
            sum(r[field] for r in rows if r["vm"]["pid"] == vm["pid"])
            for vm in everything.ledger["vms"]
        ), field
    assert all(vm["unseen"] for vm in everything.ledger["vms"])
    assert sum(r["pending"] for r in rows) == 4  # one for each vCPU


def test_each_vcpu_made_its_own_number_of_calls(everything: Held) -> None:
    by_thread, _ = tally(everything.events)
    flushes = {
        tid: one.statuses[0]
        for (tid, code, fast, _), one in by_thread.items()
        if (code, fast) == (0x13, True)
    }
    assert len(set(flushes.values())) == len(flushes) == 4


def test_orphans_come_from_other_threads(everything: Held) -> None:
    vcpus = set(everything.vm_of)
    strangers = [e for e in everything.events if e.tid not in vcpus]
    orphans = sum(c["orphans"] for c in everything.ledger["calls"])
    assert Counter(e.name for e in strangers)["kvm_hv_hypercall_done"] == orphans > 0


def test_two_vms_in_one_process_are_two(one_process: Held) -> None:
    first, second = one_process.ledger["vms"]
    assert first["pid"] == second["pid"]
    assert first["fd"] != second["fd"]
    assert first["hypercalls"] != second["hypercalls"]


def test_rounds_repeat_the_table(one_process: Held) -> None:
    call = next(c for c in mixfile.load("everything").calls if c.code == 0x8042)
    assert one_process.made[0, 0x8042, False, "kernel"]["calls"] == 2 * call.times


def test_busy_makes_only_calls_that_windows_makes(busy: Held) -> None:
    known = {0x02, 0x03, 0x08, 0x0B, 0x13, 0x14, 0x15, 0x5C, 0x5D, 0x8001}
    assert {code for _, code, _, _ in busy.made} <= known
    assert busy.ledger["vms"][0]["hypercalls"] > 100


def test_output_in_registers_is_refused(xmm_output: Held) -> None:
    """No released kernel has it, whatever the guest's CPUID says: its VMM never sees the call."""
    rows = {(c["code"], c["fast"]): c for c in xmm_output.ledger["calls"]}
    verdicts = Counter[str]()
    for code in (0x46, 0x50, 0x52, 0x9A):
        row = rows[code, True]
        assert row["handler"] == "kernel"
        assert row["statuses"] == {"0x0002": row["calls"]}
        assert row["untouched"] == 0
        verdicts.update(row["xmm_output"])
    assert set(verdicts) == {"refused", "impossible"}
    assert min(verdicts.values()) > 0


@pytest.mark.parametrize(("syndbg", "status"), [("off", 2), ("on", 8)])
def test_debugger_calls_without_the_transport(tmp_path: Path, syndbg: str, status: int) -> None:
    mix = {
        "guest": {"syndbg": syndbg},
        "call": [{"code": code, "status": status, "times": 3} for code in (0x69, 0x6A, 0x6B)],
    }
    file = tmp_path / "debugger.json"
    file.write_text(json.dumps(mix))
    found = hold("--mix", str(file), "--name", "debugged")
    assert found.ledger["problems"] == []
    assert found.ledger["vms"][0]["name"] == "debugged-0"
    assert {c["code"]: c["statuses"] for c in found.ledger["calls"]} == {
        code: {f"0x{status:04x}": 3} for code in (0x69, 0x6A, 0x6B)
    }


def test_what_a_mix_did_not_expect_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({"call": [{"code": 0x1234, "times": 5}]}))
    result = subprocess.run(
        [HVTRACE, "guest", "--mix", str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "statuses {'0x0002': 5} instead of {'0x0000': 5}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_vm_that_is_killed_is_an_error() -> None:
    command = [HVTRACE, "guest", "--mix", "windows-idle", "--pause", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        assert guest.stderr is not None
        vm = json.loads(guest.stdout.readline())["ready"][0]
        guest.stdin.write("\n")
        guest.stdin.flush()
        time.sleep(1)
        subprocess.run(["kill", "-9", str(vm["pid"])], check=True)
        assert guest.wait() == 1
        assert guest.stderr.read() == "hvtrace: VM windows-idle-0 has ended with status -9\n"


def test_ctrl_c_ends_a_run_with_its_ledger() -> None:
    command = [HVTRACE, "guest", "--mix", "windows-idle", "--vcpus", "2", "--json"]
    pipe = subprocess.PIPE
    with logging() as log, subprocess.Popen(command, stdout=pipe, text=True) as guest:
        assert guest.stdout is not None
        while not any(e.name == "kvm_hv_hypercall" for e in log.read()):
            time.sleep(0.5)
        guest.send_signal(signal.SIGINT)
        ledger = json.loads(guest.stdout.readline())
        assert guest.wait() == 0
    assert ledger["problems"] == []
    assert ledger["vms"][0]["hypercalls"] == ledger["vms"][0]["kvm_hypercalls"] > 0
