"""hvtrace on KVMs with XMM output, against the guests' ledger and the kernel's log.

The guests have checked every register after every call (tests/xmm/test_guest_xmm.py):
what their ledger calls used has arrived.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from hvtrace.kernel.live import LiveSource, open_source
from tests.vm.run import HVTRACE, Run, record
from tests.xmm.test_guest_xmm import RUNS, mix_of

KVM = os.environ["HVTRACE_KVM"]
WITH_OUTPUT = (0x46, 0x50, 0x52, 0x9A)  # what these KVMs forward when fast

# (type, bytes of its structure) of an exit: of calls with output in registers, of all others.
EXITS = {
    "forward": ((2, 32), (2, 32)),
    "grown": ((2, 128), (2, 128)),
    "new-type": ((4, 128), (2, 32)),
}[KVM]


@pytest.fixture(scope="module")
def source() -> Iterator[LiveSource]:
    with open_source(evidence=True) as opened:
        yield opened


@pytest.fixture(scope="module", params=RUNS)
def run(source: LiveSource, request: pytest.FixtureRequest) -> Run:
    return record(source, "--vms", "2", "--vcpus", "2", mix=mix_of(request.param))


def test_kernel_is_known_for_what_it_can(source: LiveSource) -> None:
    kinds = {"forward": "none", "grown": "grown", "new-type": "new-type"}
    assert source.interface.kind == kinds[KVM]
    assert source.interface.offered == (KVM != "forward")


def test_doctor_says_so() -> None:
    done = subprocess.run(
        [HVTRACE, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True), done.stderr
    found = report["xmm_output"]
    names = {"hcall", "synic", "syndbg"} | ({"hcall_xmm"} if KVM == "new-type" else set())
    assert set(found["parts_bytes"]) == names
    assert found["exit_bytes"] == {"forward": 56, "grown": 136, "new-type": 136}[KVM]
    assert found["function"] == (None if KVM == "forward" else "kvm_hv_write_xmm")


@pytest.mark.parametrize("field", ["calls", "completed", "unfinished", "xmm_input", "xmm_output"])
def test_counts_equal_the_ledger(run: Run, field: str) -> None:
    assert {key: getattr(call, field) for key, call in run.traced.items()} == {
        key: row[field] for key, row in run.made.items()
    }


def test_calls_equal_the_log(run: Run) -> None:
    logged, orphans = run.logged
    assert orphans == run.orphans
    assert {key: (c.completed, c.unfinished) for key, c in run.traced.items()} == {
        key: (one.completed, one.unfinished) for key, one in logged.items()
    }


def test_every_forwarded_call_has_its_exit(run: Run) -> None:
    """By VM, code and fast; also those that were never answered."""
    made = Counter[tuple[int, int, bool, int, int | None]]()
    for (pid, _, code, fast, handler), row in run.made.items():
        if handler == "vmm":
            exit_type, size = EXITS[0] if fast and code in WITH_OUTPUT else EXITS[1]
            made[pid, code, fast, exit_type, size] += row["calls"]
    seen = Counter[tuple[int, int, bool, int, int | None]]()
    for one in run.snapshot.exits:
        seen[one.vm.pid, one.code, one.fast, one.type, one.size_bytes] += one.calls
    assert seen == made
    assert run.snapshot.lost.no_exit == 0


def test_registers_that_the_vmm_left_alone(run: Run) -> None:
    """An old VMM's answers; on a KVM that carries no registers nothing can be left alone."""
    made = Counter[tuple[int, int]]()
    for (pid, _, code, _, _), row in run.made.items():
        made[pid, code] += 0 if KVM == "forward" else row["untouched"]
    seen = Counter[tuple[int, int]]()
    for one in run.snapshot.exits:
        seen[one.vm.pid, one.code] += one.untouched
    assert +seen == +made
    if run.ledger["mix"] == "old-vmm":
        assert seen.total() > 0
