"""Real output in registers: what the guests found there, below each patched KVM.

hvtrace itself takes no part, but for its guests: their ledger against the kernel's
own log and KVM's counters, as in tests/vm/test_guest.py. That `problems` is empty
says that every register was, after every call, what the mix says. `HVTRACE_KVM` is
the name of the KVM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hvtrace.guest import mixfile, session
from hvtrace.guest.session import Orders, Session
from tests.vm.held import Held, hold
from tests.vm.run import HVTRACE

KVM = os.environ["HVTRACE_KVM"]
MIXES = Path(__file__).parent / "mixes"
RUNS = {  # KVM -> mix -> verdicts on its calls with output that succeed
    "forward": {"xmm-claimed": {"claimed"}},
    "grown": {
        "xmm-output": {"used-gpr", "used-xmm"},
        "everything": {"used-gpr", "used-xmm"},
        "old-vmm": {"used-gpr", "used-xmm"},
    },
    "new-type": {
        "xmm-output": {"used-gpr", "used-xmm"},
        "everything": {"used-gpr", "used-xmm"},
        "old-vmm-ends": set(),
    },
}[KVM]


def mix_of(name: str) -> str:
    """What to give to --mix."""
    return name if name in mixfile.names() else str(MIXES / f"{name}.toml")


@pytest.fixture(scope="module", params=RUNS)
def held(request: pytest.FixtureRequest) -> Held:
    return hold("--mix", mix_of(request.param), "--vms", "2", "--vcpus", "2")


def verdicts(held: Held) -> Counter[str]:
    found = Counter[str]()
    for row in held.ledger["calls"]:
        found.update(row["xmm_output"])
    return found


def test_every_register_is_as_the_mix_says(held: Held) -> None:
    assert held.ledger["problems"] == []


def test_ledger_equals_the_log(held: Held) -> None:
    assert held.in_ledger == held.in_log


def test_completed_calls_equal_kvms_counters(held: Held) -> None:
    by_vm = {(vm["pid"], vm["fd"]): vm["hypercalls"] for vm in held.ledger["vms"]}
    assert held.counters == by_vm == held.by_vm


def test_output_arrived_or_was_claimed(held: Held) -> None:
    delivered = {v for v in verdicts(held) if v.startswith("used") or v == "claimed"}
    assert delivered == RUNS[held.ledger["mix"]]


def test_calls_with_output_were_forwarded(held: Held) -> None:
    """Fast ones; in memory they are refused by KVM, as they always were."""
    rows = [row for row in held.made.values() if row["code"] in (0x46, 0x50, 0x52, 0x9A)]
    assert {row["fast"] for row in rows} >= {True}
    for row in rows:
        assert row["handler"] == ("vmm" if row["fast"] else "kernel")
        assert row["fast"] or row["statuses"] == {"0x0002": row["calls"]}


def test_a_vmm_that_leaves_registers_alone_is_known(held: Held) -> None:
    """It took part in all calls that succeeded, or in none."""
    untouched = sum(row["untouched"] for row in held.ledger["calls"])
    found = verdicts(held)
    delivered = found["used-gpr"] + found["used-xmm"] + found["claimed"]
    new = held.ledger["mix"] in ("xmm-output", "everything")
    assert untouched == (0 if new else delivered)


def run(folder: Path, mix: object) -> subprocess.CompletedProcess[str]:
    file = folder / "mine.json"
    file.write_text(json.dumps(mix))
    command = [HVTRACE, "guest", "--json", "--mix", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_output_that_is_only_expected_is_a_problem(tmp_path: Path) -> None:
    """An old VMM, where the guest is told to find output: it does not arrive by itself."""
    call = {"code": 0x46, "fast": True, "rdx": 0x4D, "path": "vmm", "times": 7}
    call |= {"writes": {"rdx": 5}, "xmm_output": "used-gpr", "stock": {}}
    result = run(tmp_path, {"guest": {"vmm": "old", "offer": ["xmm-output"]}, "call": [call]})
    assert result.returncode == 1
    expected = {
        "forward": "mine-0 vcpu0 0x0046: 7 of 7 calls forwarded instead of 0",
        "grown": "mine-0 vcpu0 0x0046: after 0 calls one left RDX [0x4d] instead of [0x5]",
        "new-type": "VM mine-0: vcpu0: an exit of type 4, at which an old VMM ends",
    }
    assert expected[KVM] in result.stderr
    assert len(result.stderr.splitlines()) == 1


# A VMM that writes one word too many: the last there is, the high half of XMM5.
WRONG_VMM = """
import sys
from hvtrace.guest import vcpu, vm

right = vcpu.VcpuThread._write_output
def wrong(self, call):
    right(self, call)
    self.vcpu.run.hyperv.registers[13] = 0xbad
vcpu.VcpuThread._write_output = wrong
vm.main(sys.argv[1:])
"""


def test_what_a_vmm_writes_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every call that had output, and nowhere else: KVM takes it for those alone."""
    monkeypatch.setattr(session, "_COMMAND", (sys.executable, "-c", WRONG_VMM))
    mix = mixfile.load(mix_of("xmm-claimed" if KVM == "forward" else "xmm-output"))
    with Session(Orders(mix)) as running:
        running.wait_ready()
        running.go()
        running.wait_idle(None)
        ledger = running.ledger()
        running.close()
    used = [call for call in mix.calls if call.xmm_output.startswith("used")]
    assert len(used) == (0 if KVM == "forward" else 9)
    left = "after 0 calls one left XMM5 [0x0, 0xbad] instead of [0x0, 0x0]"
    assert ledger.problems == [f"xmm-output-0 vcpu0 0x{call.code:04x}: {left}" for call in used]


def test_a_guest_that_was_not_told_is_refused(tmp_path: Path) -> None:
    """Without the bit in its CPUID; but the KVM that only forwards does not look."""
    call = {"fast": True, "times": 5, "status": 2, "xmm_output": "refused"}
    if KVM == "forward":
        call |= {"path": "vmm", "answers": [2]}
    calls = [{**call, "code": code} for code in (0x46, 0x50, 0x52, 0x9A)]
    result = run(tmp_path, {"guest": {"withhold": ["xmm-output"]}, "call": calls})
    assert result.returncode == 0, result.stderr
    ledger = json.loads(result.stdout)
    assert {c["code"]: c["handler"] for c in ledger["calls"]} == {
        code: "vmm" if KVM == "forward" else "kernel" for code in (0x46, 0x50, 0x52, 0x9A)
    }
