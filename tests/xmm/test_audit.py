"""`hvtrace audit --evidence` on KVMs with XMM output: who is not prepared, and for what."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from typing import Any

import pytest

from hvtrace.guest import mixfile
from hvtrace.guest.session import Orders, Session
from tests.vm.test_audit import audit, entry_is_watched
from tests.xmm.test_guest_xmm import RUNS, mix_of

KVM = os.environ["HVTRACE_KVM"]
# Mix -> findings on output in registers, and the severity of the first.
EXPECTED = {
    "xmm-claimed": (
        "error",
        {
            *("xmm-output-claimed", "xmm-output-exposed"),
            *("xmm-output-refused", "xmm-output-impossible"),
        },
    ),
    "xmm-output": ("warning", {"xmm-output-refused", "xmm-output-impossible"}),
    "old-vmm": ("error", {"xmm-output-untouched", "xmm-output-refused"}),
    "old-vmm-ends": ("error", {"exit-not-handled", "xmm-output-refused"}),
}
RATE = 40.0  # calls a second of one vCPU: the rarest of them come, too
MIXES = [name for name in RUNS if name != "everything"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(Session(Orders(mixfile.load(mix_of(name)), vcpus=2, rate=RATE)))
            for name in MIXES
        ]
        for session in sessions:
            session.wait_ready()
        with audit("--evidence", "--duration", "300") as running:
            for session in sessions:
                session.go()
            while entry_is_watched():  # so long they go on, and so all are seen
                time.sleep(0.5)
            for session in sessions:
                session.wait_idle(6.0)
                session.close()  # what was never answered is over then
            time.sleep(1.0)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate()
    assert (running.returncode, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("mix", MIXES)
def test_findings_on_output_in_registers(report: dict[str, Any], mix: str) -> None:
    [guest] = [g for g in report["guests"] if g["vm"]["name"] == f"{mix}-0"]
    about = [f for f in guest["findings"] if f["id"].startswith(("xmm-output", "exit", "new-exit"))]
    severity, ids = EXPECTED[mix]
    assert {finding["id"] for finding in about} == ids
    assert about[0]["severity"] == severity


def test_host_is_known_for_what_it_can(report: dict[str, Any]) -> None:
    kinds = {"forward": "none", "grown": "grown", "new-type": "new-type"}
    assert report["host"]["xmm_output"] == kinds[KVM]
    offered = report["host"]["offered"]["features"]
    assert ("xmm-output" in offered) == (KVM != "forward")


def test_exits_are_of_the_type_that_this_kvm_has(report: dict[str, Any]) -> None:
    types = {
        one["type"]
        for guest in report["guests"]
        for one in guest["exits"]
        if one["fast"] and one["code"] in (0x46, 0x50, 0x52, 0x9A)
    }
    assert types == {4 if KVM == "new-type" else 2}
