"""The ledger: sums of what guests counted, and every disagreement."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from goldens import check

from hvtrace import __version__
from hvtrace.guest import image, ledger
from hvtrace.guest.image import Amount
from hvtrace.guest.ledger import Ledger, LedgerVm, Result
from hvtrace.guest.mix import Call, Mix

KERNEL = Call(0x02, fast=True, times=7, xmm_input=True, xmm_output="none")
REFUSED = Call(0x50, fast=True, times=3, status=2, xmm_input=True, xmm_output="refused")
MEMORY = Call(0x03, reps=5, times=5, xmm_output="memory")
FORWARDED = Call(0x5D, fast=True, path="vmm", times=5, answers=(0, 0x12), xmm_output="none")
IN_KERNEL = Call(0x5D, fast=True, times=2, xmm_output="none")
MOVED = Call(0x5D, fast=True, path="other-thread", times=3, answers=(0x13,), xmm_output="none")
FAULT = Call(0x02, fast=True, path="fault", times=11, xmm_input=True, xmm_output="none")
UNSEEN = Call(0x02, fast=True, path="unseen", via="user", times=13, xmm_output="none")
KILLED = Call(0x5D, fast=True, path="killed", xmm_output="none")
USED = Call(
    0x52, fast=True, path="vmm", times=5, writes=((4, 0x77),), xmm_input=True,
    xmm_output="used-xmm",
)  # fmt: skip
UNTOUCHED = Call(0x52, fast=True, path="vmm", times=3, xmm_input=True, xmm_output="used-xmm")
CALLS = (KERNEL, REFUSED, MEMORY, FORWARDED, IN_KERNEL, MOVED, FAULT, UNSEEN, KILLED)


def result(call: Call, times: int | None = None, **changes: Any) -> Result:
    """What a guest finds where all goes as expected, but for `changes`."""
    n = call.times if times is None else times
    forwarded = call.path in ("vmm", "immediate-exit", "other-thread", "killed")
    faulted = n if call.path in ("fault", "unseen") else 0
    completed = 0 if faulted or call.path == "killed" else n
    statuses = Counter(
        call.answers[i % len(call.answers)] & 0xFFFF if forwarded else call.status
        for i in range(completed)
    )
    values: dict[str, Any] = {
        "started": n,
        "completed": completed,
        "faulted": faulted,
        "reps": call.reps * completed,
        "forwarded": n if forwarded else 0,
        "moved": n if call.path == "other-thread" else 0,
        "statuses": dict(statuses),
        "confirmed": completed,
    }
    return Result(**{**values, **changes})


def made(
    *vms: list[list[Result]], calls: tuple[Call, ...] = CALLS, rounds: int | None = 1
) -> Ledger:
    """A ledger of these results, by VM, vCPU and call; KVM's counter agrees."""
    found = Ledger(
        mix=Mix("test", calls),
        kernel="6.12.0",
        seed=0,
        start=1000.0,
        duration_s=2.5,
        vms=[
            LedgerVm(
                pid=100 + i,
                fd=6,
                name=f"test-{i}",
                vcpus=tuple(1000 + 10 * i + j for j in range(len(vm))),
                first=i * len(vm),
                kvm_hypercalls=sum(r.completed for vcpu in vm for r in vcpu),
            )
            for i, vm in enumerate(vms)
        ],
    )
    ledger.fill(found, vms, rounds)
    return found


def whole() -> Ledger:
    one = [result(call) for call in CALLS]
    return made([one, one], [one, one])


def test_a_run_as_expected_has_no_problems() -> None:
    assert whole().problems == []


def test_vcpus_of_a_vm_are_added_up_and_vms_are_not() -> None:
    found = whole()
    assert found.rows[0, 0x03, False, "kernel"].completed == 10
    assert found.rows[1, 0x03, False, "kernel"].reps == 50
    assert {key[0] for key in found.rows} == {0, 1}


def test_calls_of_one_row_are_added_up() -> None:
    """Completed ones and faults of a code are one row; so are answers and the killed call."""
    found = whole()
    flush = found.rows[0, 0x02, True, "kernel"]
    assert (flush.calls, flush.completed, flush.faulted, flush.unfinished) == (36, 14, 22, 22)
    assert flush.xmm_input == 36
    signal = found.rows[0, 0x5D, True, "vmm"]
    assert (signal.completed, signal.orphans, signal.pending) == (10, 6, 2)
    assert (signal.calls, signal.unfinished) == (18, 8)
    assert signal.statuses == {0: 6, 0x12: 4}
    assert signal.orphan_statuses == {0x13: 6}


def test_handlers_are_rows_of_their_own() -> None:
    found = whole()
    assert found.rows[0, 0x5D, True, "kernel"].completed == 4


def test_calls_without_an_event_are_no_rows() -> None:
    found = whole()
    assert found.unseen == {0: 26, 1: 26}
    assert sum(row.calls for key, row in found.rows.items() if key[0] == 0) == 2 * sum(
        call.times for call in CALLS if call is not UNSEEN
    )


def test_hypercalls_are_what_kvm_counts() -> None:
    assert whole().hypercalls(0) == 2 * (7 + 3 + 5 + 5 + 2 + 3)


def test_calls_that_were_not_made_are_no_rows() -> None:
    found = made([[result(KERNEL, 0)]], calls=(KERNEL,), rounds=None)
    assert found.rows == {}
    assert found.problems == []


@pytest.mark.parametrize(
    ("call", "changes", "problem"),
    [
        (KERNEL, {"started": 6, "completed": 6, "statuses": {0: 6}}, "6 calls instead of 7"),
        (KERNEL, {"statuses": {0: 6}}, "7 completed, but {0: 6} statuses"),
        (KERNEL, {"statuses": {3: 7}}, "statuses {'0x0003': 7} instead of {'0x0000': 7}"),
        (KERNEL, {"forwarded": 7}, "7 of 7 calls forwarded instead of 0"),
        (FORWARDED, {"forwarded": 4}, "4 of 5 calls forwarded instead of 5"),
        (KERNEL, {"faulted": 1}, "1 of 7 calls faulted instead of 0"),
        (FAULT, {"faulted": 0}, "0 of 11 calls faulted instead of 11"),
        (UNSEEN, {"faulted": 12}, "12 of 13 calls faulted instead of 13"),
        (KILLED, {"completed": 1, "statuses": {0: 1}}, "1 of 1 calls completed instead of 0"),
        (MEMORY, {"completed": 4, "statuses": {0: 4}}, "4 of 5 calls completed instead of 5"),
        (FORWARDED, {"statuses": {0: 5}}, "statuses {'0x0000': 5} instead of"),
        (
            KERNEL,
            {"confirmed": 3, "wrong": ("RDX a", "R8 b")},
            "after 3 calls one left RDX a, R8 b",
        ),
        (USED, {"confirmed": 0, "wrong": ("XMM1 a",)}, "after 0 calls one left XMM1 a"),
    ],
)
def test_each_disagreement_is_a_problem(call: Call, changes: dict[str, Any], problem: str) -> None:
    found = made([[result(call, **changes)]], calls=(call,))
    assert any(problem in text for text in found.problems)
    assert found.problems[0].startswith(f"test-0 vcpu0 0x{call.code:04x}: ")


def test_a_vmm_that_leaves_registers_alone_is_counted() -> None:
    """Successes only, and only of calls whose verdict says that there was output."""
    refused = Call(0x52, fast=True, path="vmm", times=2, answers=(5,), xmm_output="refused")
    claimed = Call(0x46, fast=True, path="vmm", times=7, xmm_output="claimed")
    calls = (USED, UNTOUCHED, refused, claimed, FORWARDED)
    found = made([[result(call) for call in calls]], calls=calls)
    assert found.problems == []
    row = found.rows[0, 0x52, True, "vmm"]
    assert (row.untouched, row.xmm_output) == (3, {"used-xmm": 8, "refused": 2})
    assert found.rows[0, 0x46, True, "vmm"].untouched == 7
    assert found.rows[0, 0x5D, True, "vmm"].untouched == 0


def test_a_failure_is_never_untouched() -> None:
    found = made([[result(UNTOUCHED, statuses={0: 2, 5: 1})]], calls=(UNTOUCHED,))
    assert found.rows[0, 0x52, True, "vmm"].untouched == 2


def test_kvm_that_counts_otherwise_is_a_problem() -> None:
    found = Ledger(
        Mix("test", (KERNEL,)), "6.12.0", 0, 0.0, 0.0,
        [LedgerVm(1, 6, "test-0", (2,), 0, kvm_hypercalls=8)],
    )  # fmt: skip
    ledger.fill(found, [[[result(KERNEL)]]], 1)
    assert found.problems == ["test-0: KVM counts 8 completed calls, the guest 7"]


def test_each_vcpu_is_measured_by_its_own_prime() -> None:
    call = Call(0x02, fast=True, times=7, xmm_output="none")
    found = Ledger(
        Mix("test", (call,), primes=True), "6.12.0", 0, 0.0, 0.0,
        [LedgerVm(1, 6, "test-0", (2, 3), 2, kvm_hypercalls=None)],
    )  # fmt: skip
    ledger.fill(found, [[[result(call, 2 * 13)], [result(call, 2 * 17)]]], 2)
    assert found.problems == []


def test_results_are_read_from_memory() -> None:
    memory = image.write(Mix("test", (Call(2, xmm=(5, 6)), Call(3))), 1, Amount())
    second = memory.descriptors(0)[1]
    second.started, second.completed, second.faulted, second.reps = 9, 7, 1, 70
    second.forwarded, second.moved = 9, 2
    second.statuses[0].status, second.statuses[0].count = 0, 4
    second.statuses[1].status, second.statuses[1].count = 0x1234, 3
    second.confirmed = 7
    first, found = ledger.results(memory, 0)
    assert first == Result(0, 0, 0, 0, 0, 0, {}, 0)
    assert found == Result(9, 7, 1, 70, 9, 2, {0: 4, 0x1234: 3}, 7)


SPOILT = "XMM0 [0x5, 0xff] instead of [0x5, 0x6]"


@pytest.mark.parametrize(
    ("rax", "wrong"),
    [
        (0x4_FFFF_0000, (SPOILT, "XMM1 [0x0, 0x0] instead of [0x7, 0x0]")),
        (0x0_0000_0005, (SPOILT,)),
    ],
)
def test_wrong_registers_are_named(rax: int, wrong: tuple[str, ...]) -> None:
    """After a failure the registers must be those before, whatever the VMM wrote."""
    mix = Mix("test", (Call(0x50, fast=True, rdx=9, xmm=(5, 6), writes=((4, 7),)),))
    memory = image.write(mix, 1, Amount())
    (call,) = memory.descriptors(0)
    call.completed, call.confirmed, call.rax_out = 5, 4, rax
    call.registers_out = call.registers_in
    call.registers_out[3] = 0xFF
    (found,) = ledger.results(memory, 0)
    assert (found.confirmed, found.wrong) == (4, wrong)


def test_json_is_that_of_the_golden_file() -> None:
    data = ledger.as_json(whole())
    assert data["hvtrace"] == __version__
    check("guest-ledger.json", json.dumps({**data, "hvtrace": "VERSION"}, indent=1) + "\n")


def test_json_sums() -> None:
    data = json.loads(json.dumps(ledger.as_json(whole())))
    for vm in data["vms"]:
        rows = [row for row in data["calls"] if row["vm"]["pid"] == vm["pid"]]
        assert vm["hypercalls"] == sum(row["completed"] + row["orphans"] for row in rows)
        for row in rows:
            assert row["calls"] == row["completed"] + row["unfinished"]
            assert row["unfinished"] == row["faulted"] + row["pending"] + row["orphans"]
            assert row["completed"] == sum(row["statuses"].values())
            assert row["orphans"] == sum(row["orphan_statuses"].values())
            assert row["calls"] == sum(row["xmm_output"].values())


def test_text_is_that_of_the_golden_file() -> None:
    found = whole()
    found.problems.append("test-0 vcpu0 0x0002: 6 calls instead of 7")
    check("guest-ledger.txt", "\n".join(ledger.as_text(found)) + "\n")


def test_text_fits_the_terminal() -> None:
    assert max(map(len, ledger.as_text(whole()))) <= 80
