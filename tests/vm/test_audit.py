"""`hvtrace audit` on many guests at once: the findings that each deserves, and no others.

Ten small VMMs with different CPUID and calls, and five real QEMUs with different hv-*
flags, all running while one audit watches as a user starts it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from hvtrace.guest import mixfile
from hvtrace.guest.session import Orders, Session
from tests.vm.qemu.run import Qemu
from tests.vm.run import HVTRACE

FLUSH = {"code": 0x02, "fast": True, "rdx": 0x1AA000, "xmm": [1], "xmm_input": True}
FLUSH_IN_MEMORY = {"code": 0x02, "block": [0x1AA000, 0, 1]}
FLUSH_EX_IN_MEMORY = {"code": 0x13, "var": 1, "block": [0x1AA000, 0, 0, 1, 3]}
IPI = {"code": 0x0B, "fast": True, "rdx": 0xE1, "r8": 2}
SPIN = {"code": 0x08, "fast": True, "rdx": 0x1000}
OUTPUT = {
    **{"code": 0x50, "fast": True, "reps": 1, "rdx": 0xFFFF, "status": 2},
    **{"xmm_input": True, "xmm_output": "refused"},
}
TOO_MUCH = {**OUTPUT, "reps": 5, "xmm_output": "impossible"}
NOBODY = {"code": 0x1234, "status": 2}

# Name -> what is withheld, what is offered beyond KVM's own, calls, findings (id -> flag).
GUESTS: dict[str, tuple[list[str], list[str], list[dict[str, Any]], dict[str, str | None]]] = {
    "good": ([], [], [FLUSH, IPI, SPIN], {}),
    "memory": (
        ["xmm-input"],
        [],
        [FLUSH_IN_MEMORY, FLUSH_EX_IN_MEMORY, IPI],
        {"xmm-input-not-exposed": "hv-xmm-input"},
    ),
    "no-ipi": ([], [], [FLUSH], {"ipi-unused": None}),
    "told-of-output": (
        *([], ["xmm-output"], [FLUSH, IPI, OUTPUT]),
        {"xmm-output-exposed": None, "xmm-output-refused": None},
    ),
    "too-much": ([], [], [FLUSH, IPI, TOO_MUCH], {"xmm-output-impossible": None}),
    "lenient": (["cluster-ipi"], [], [FLUSH, IPI], {"unexposed-call": "hv-ipi"}),
    "denied": (
        *(["spin-wait"], []),
        [{**call, "enforce": True} for call in (FLUSH, IPI, {**SPIN, "status": 6})],
        {"denied-by-cpuid": "hv-spinlocks=0xfff"},
    ),
    "faulted": (
        *(["xmm-input"], []),
        [{**call, "enforce": True} for call in ({**FLUSH, "path": "fault"}, IPI)],
        {"denied-by-cpuid": "hv-xmm-input"},
    ),
    "poor": (
        *(["cluster-ipi", "remote-tlb-flush", "ex-processor-masks"], [], [SPIN]),
        {"ipi-not-exposed": "hv-ipi", "tlb-flush-not-exposed": "hv-tlbflush"},
    ),
    "strange": ([], [], [FLUSH, IPI, NOBODY], {"not-implemented": None}),
}
RATE = 5.0  # calls a second of each small VMM's vCPU, until all were seen
QEMU_ROUNDS = 7

ALL = "host,hv-vpindex,hv-synic,hv-time,hv-tlbflush,hv-ipi,hv-xmm-input"
# Name -> -cpu, words of the payload, findings.
QEMUS: dict[str, tuple[str, tuple[str, ...], dict[str, str | None]]] = {
    "desk": (f"{ALL},hv-enforce-cpuid", ("ipi", "signal"), {}),
    "asks": (ALL, ("ipi", "output"), {"xmm-output-refused": None}),
    "server": (
        "host,hv-vpindex,hv-synic,hv-tlbflush,hv-ipi=on",
        (),
        {"xmm-input-not-exposed": "hv-xmm-input", "ipi-unused": None},
    ),
    "silent": (ALL, (), {"no-hypercalls": None}),
    "plain": ("host", ("ipi", "output"), {}),
}

Report = dict[str, Any]


def mix_of(name: str) -> Orders:
    withheld, offered, calls, _ = GUESTS[name]
    guest = {"withhold": withheld, "offer": offered}
    mix = mixfile.parse(name, {"guest": guest, "call": calls})
    return Orders(mix=mix, vcpus=2, rate=RATE, name=name)


@dataclass
class Seen:
    """What the audit printed, and what the guests made, by code."""

    report: Report
    made: dict[str, Counter[int]]


@pytest.fixture(scope="module")
def seen() -> Seen:
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(Session(mix_of(name))) for name in GUESTS}
        for session in sessions.values():
            session.wait_ready()
        qemus = {
            name: stack.enter_context(Qemu(name, flags, words=words, rounds=0))
            for name, (flags, words, _) in QEMUS.items()
        }
        with audit("--duration", "300") as running:
            for session in sessions.values():
                session.go()
            for name, qemu in qemus.items():
                if name != "silent":
                    qemu.run(QEMU_ROUNDS)
            while entry_is_watched():
                time.sleep(0.5)
            time.sleep(4.0)  # some of every call
            for session in sessions.values():
                session.wait_idle(0.0)
                session.close()  # a call that ended in #UD is over with its thread
            time.sleep(1.0)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate()
        assert (running.returncode, err) == (0, "")
        made = {name: Counter[int]() for name in (*GUESTS, *QEMUS)}
        for name, session in sessions.items():
            ledger = session.ledger()
            assert ledger.problems == []
            for (_, code, *_), one in ledger.rows.items():
                made[name][code] += one.calls
        for name, qemu in qemus.items():
            for (code, *_), count in qemu.ledger().calls.items():
                made[name][code] += count
    return Seen(json.loads(out), made)


@pytest.fixture(scope="module")
def report(seen: Seen) -> Report:
    return seen.report


@contextmanager
def audit(*options: str) -> Iterator[subprocess.Popen[str]]:
    """`hvtrace audit --json` as a user starts it, from when it has begun to look at vCPUs."""
    command = [HVTRACE, "audit", "--json", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as running:
        try:
            while not entry_is_watched():
                assert running.poll() is None
                time.sleep(0.2)
            yield running
        finally:
            running.kill()


def entry_is_watched() -> bool:
    """Whether anything is attached to KVM's kvm_entry, by bpftool."""
    command = ["bpftool", "link", "show", "--json"]
    while (done := subprocess.run(command, capture_output=True, check=False)).returncode:
        pass  # a link was gone between its number and its name
    return any(link.get("tp_name") == "kvm_entry" for link in json.loads(done.stdout))


def guest_of(report: Report, name: str) -> Report:
    [found] = [guest for guest in report["guests"] if guest["vm"]["name"] in (name, f"{name}-0")]
    return found


def test_all_guests_are_there_and_no_others(report: Report) -> None:
    names = [guest["vm"]["name"] for guest in report["guests"]]
    assert sorted(names) == sorted([f"{name}-0" for name in GUESTS] + [*QEMUS])
    assert {guest["vcpus"] for guest in report["guests"]} == {2}
    assert report["host"]["xmm_output"] == "none"
    assert report["host"]["notes"] == []


@pytest.mark.parametrize("name", [*GUESTS, *QEMUS])
def test_findings_are_those_expected(report: Report, name: str) -> None:
    expected = (GUESTS | QEMUS)[name][-1]
    found = guest_of(report, name)["findings"]
    assert {finding["id"]: finding["flag"] for finding in found} == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize("name", GUESTS)
def test_cpuid_is_what_the_vmm_gave(report: Report, name: str) -> None:
    """KVM's own, less what was withheld, and what was offered besides."""
    withheld, offered, *_ = GUESTS[name]
    every = set(report["host"]["offered"]["features"]) - {"syndbg"}  # given where asked for only
    exposed = set(guest_of(report, name)["exposed"]["features"])
    assert exposed == every - set(withheld) | set(offered)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("desk", {"vpindex", "synic", "time", "remote-tlb-flush", "cluster-ipi", "xmm-input"}),
        ("server", {"vpindex", "synic", "remote-tlb-flush", "cluster-ipi"}),
        ("plain", set()),
    ],
)
def test_cpuid_is_what_the_flags_of_a_qemu_say(
    report: Report, name: str, features: set[str]
) -> None:
    found = guest_of(report, name)
    asked = {"vpindex", "synic", "time", "remote-tlb-flush", "cluster-ipi", "xmm-input"}
    assert set(found["exposed"]["features"]) & asked == features
    assert found["flags"] == [word for word in QEMUS[name][0].split(",") if word != "host"] or (
        name == "server"  # "=on" is the same as nothing
    )
    assert found["hyperv"] == bool(features)


def test_enforcement_is_known(report: Report) -> None:
    enforced = {g["vm"]["name"] for g in report["guests"] if g["enforced"]}
    assert enforced == {"denied-0", "faulted-0", "desk"}


@pytest.mark.parametrize("name", [*GUESTS, *QEMUS])
def test_calls_are_those_that_the_guest_made(seen: Seen, name: str) -> None:
    found = Counter[int]()
    for call in guest_of(seen.report, name)["calls"]:
        found[call["code"]] += call["calls"]
    assert found == seen.made[name]
    assert found.total() > 0 or name in ("silent", "plain")


def test_rates_are_those_of_the_guests(seen: Seen) -> None:
    [finding] = guest_of(seen.report, "too-much")["findings"]
    made = seen.made["too-much"][0x50]
    assert made > 0
    assert finding["per_minute"] == pytest.approx(60 * made / seen.report["duration_s"], 0.001)
