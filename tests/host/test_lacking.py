"""Hosts without BTF, kprobes or debugfs: each lack is named, and the rest goes on.

They are taken away for one process, in a mount namespace of its own, on a kernel that
has them all.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hvtrace.guest import mixfile
from hvtrace.guest.session import Orders, Session
from tests.vm.run import HVTRACE

WITHOUT = {
    "BTF": "mount -t tmpfs none /sys/kernel/btf",
    "kprobes": "mount -t tmpfs none /sys/bus/event_source/devices",
    # hvtrace mounts it where nobody has: without CAP_SYS_ADMIN it cannot.
    "debugfs": "umount -l /sys/kernel/debug",
}
CALLS = [
    {"code": 0x02, "fast": True, "rdx": 0x1AA000, "xmm": [1], "xmm_input": True, "times": 17},
    {"code": 0x5D, "fast": True, "rdx": 0x10001, "path": "vmm", "times": 13},
    {
        **{"code": 0x5C, "block": [0x100000001, 0x800000001, 0x68747261]},
        **{"path": "vmm", "times": 7},
    },
]
MIX = {"primes": True, "call": CALLS}


def run(lacking: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """hvtrace on a host that lacks this."""
    steps = [WITHOUT[name] for name in lacking]
    drop = "setpriv --bounding-set=-sys_admin " if "debugfs" in lacking else ""
    script = " && ".join([*steps, f'exec {drop}"$0" "$@"'])
    command = ["unshare", "--mount", "sh", "-c", script, HVTRACE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def audit(lacking: list[str], *options: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(host, the only guest, what was said) of an audit while a guest works."""
    orders = Orders(mixfile.parse("lacking", MIX), vcpus=2, rate=20.0)
    with Session(orders) as session:
        session.wait_ready()
        session.go()
        done = run(lacking, "audit", "-d", "4", "--json", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    [guest] = report["guests"]
    assert guest["vm"]["vmm"] == "hvtrace-guest"
    assert sum(call["calls"] for call in guest["calls"]) > 0
    return report["host"], guest, done.stderr


def test_doctor_names_all_of_it() -> None:
    done = run([*WITHOUT], "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stderr
    assert {name for name, check in checks.items() if not check["ok"]} == {*WITHOUT}
    assert "CONFIG_DEBUG_INFO_BTF" in checks["BTF"]["text"]
    assert "CONFIG_KPROBES" in checks["kprobes"]["text"]
    assert "mount -t debugfs" in checks["debugfs"]["text"]


def test_audit_without_btf() -> None:
    host, guest, said = audit(["BTF"], "--evidence")
    [note] = host["notes"]
    assert "CPUID of guests" in note
    assert "CONFIG_DEBUG_INFO_BTF" in note
    assert (guest["exposed"], guest["hyperv"], guest["enforced"]) == (None, None, None)
    assert (guest["vcpus"], guest["exits"]) == (2, [])
    assert "no evidence of exits" in said
    assert len(said.splitlines()) == 1


def test_audit_without_debugfs() -> None:
    host, guest, said = audit(["debugfs"])
    [note] = host["notes"]
    assert "no debugfs" in note
    assert guest["hyperv"] is True
    assert "xmm-input" in guest["exposed"]["features"]
    assert "fd" not in guest["vm"]
    assert said == ""


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    file = tmp_path / "lacking.json"
    file.write_text(json.dumps(MIX))
    return file


def stat(
    lacking: list[str], mix: Path, option: str = "--evidence"
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(what stat counted, the guests' ledger, what was said)."""
    counted, ledger = mix.with_name("stat.json"), mix.with_name("ledger.json")
    guest = [HVTRACE, "guest", "--mix", str(mix), "--vcpus", "2", "--ledger", str(ledger)]
    done = run(lacking, "stat", option, "--json", "-o", str(counted), "--", *guest)
    assert done.returncode == 0, done.stderr
    return json.loads(counted.read_text()), json.loads(ledger.read_text()), done.stderr


def forwarded(ledger: dict[str, Any]) -> Counter[tuple[int, bool]]:
    found = Counter[tuple[int, bool]]()
    for row in ledger["calls"]:
        if row["handler"] == "vmm":
            found[row["code"], row["fast"]] += row["calls"]
    return found


def test_evidence_without_kprobes_is_as_exact(mix: Path) -> None:
    counted, ledger, said = stat(["kprobes"], mix)
    assert "evidence without kprobes (this kernel has none: CONFIG_KPROBES)" in said
    assert len(said.splitlines()) == 1
    exits = Counter({(one["code"], one["fast"]): one["calls"] for one in counted["exits"]})
    assert exits == forwarded(ledger)
    assert exits.total() > 0
    assert {(one["type"], one["size_bytes"]) for one in counted["exits"]} == {(2, 32)}
    assert counted["lost"]["no_exit"] == 0


def test_no_round_trips_without_btf(mix: Path) -> None:
    counted, ledger, said = stat(["BTF"], mix, "--round-trip")
    assert "no round trips" in said
    assert "CONFIG_DEBUG_INFO_BTF" in said
    assert len(said.splitlines()) == 1
    assert sum(call["calls"] for call in counted["calls"]) == sum(
        call["calls"] for call in ledger["calls"]
    )
    assert not any("round_trips" in call for call in counted["calls"])
