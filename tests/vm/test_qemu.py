"""A real QEMU: what its guest made, by the guest's own count, against what hvtrace saw.

Three VMs at once, with different hv-* flags, watched from before their first call: by a
source in here, and by `hvtrace stat --json` as a user starts it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hvtrace.hyperv import statuses
from hvtrace.kernel.live import LiveSource
from hvtrace.stats.calls import calls
from hvtrace.stats.snapshot import Snapshot, Vm
from tests.vm.qemu.payload import WORDS
from tests.vm.qemu.run import Failed, Ledger, Qemu
from tests.vm.run import HVTRACE

ROUNDS = (7, 3)  # of each vCPU, in two goes
UUID = "5f5a1b7e-3c0d-4c55-9d5c-2b1e0f3a7c11"
ALL, MEMORY, PLAIN = "desk, left", "server", "plain"
FLAGS = {
    ALL: "host,hv-vpindex,hv-synic,hv-time,hv-tlbflush,hv-ipi,hv-xmm-input,hv-enforce-cpuid",
    MEMORY: "host,hv-vpindex,hv-tlbflush",
    PLAIN: "host",
}
# In a round of one vCPU: code, fast, status -> calls. Everything was asked for, of all.
ROUND = {
    ALL: {(0x02, True, 0): 17, (0x0B, True, 0): 11, (0x50, True, 2): 5, (0x5D, True, 0x12): 3},
    MEMORY: {(0x02, False, 0): 13, (0x50, True, 2): 5},
    PLAIN: {},
}
Traced = Counter[tuple[int, int, bool, int]]  # vCPU, code, fast, status -> calls


@dataclass
class Go:
    """What was there at the end of one go, by name of the VM."""

    ledgers: dict[str, Ledger]
    snapshot: Snapshot


@dataclass
class Seen:
    """Two goes, and the VMs after them."""

    vms: dict[str, Qemu]
    goes: list[Go]  # the state before the first, and after each
    stat: dict[str, Any]

    def traced(self, name: str, go: int) -> Traced:
        """What hvtrace counted until the end of a go."""
        snapshot = self.goes[go].snapshot
        threads = self.vms[name].threads()
        found = Traced()
        for tid, call in zip(snapshot.rows["tid"].tolist(), calls(snapshot), strict=True):
            if call.vm.pid == self.vms[name].pid:
                assert call.unfinished == 0
                for status, count in call.statuses.items():
                    key = (threads[tid], call.code, call.fast, statuses.parse(status))
                    found[key] += count
        return found

    def made(self, name: str, go: int) -> Traced:
        """What the guest counted until the end of a go."""
        vcpus = self.goes[go].ledgers[name].vcpus
        return Traced({(i, *key): n for i, one in enumerate(vcpus) for key, n in one.items()})

    def vm(self, name: str) -> list[Vm]:
        return [vm for vm in self.goes[-1].snapshot.vms if vm.pid == self.vms[name].pid]


@pytest.fixture(scope="module")
def seen(source: LiveSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    out = tmp_path_factory.mktemp("qemu") / "stat.json"
    # It runs the command when it has attached, and ends when the command does.
    watched = ["sh", "-c", "echo attached; cat >/dev/null"]
    pipe = subprocess.PIPE
    with (
        ExitStack() as stack,
        subprocess.Popen(
            [HVTRACE, "stat", "--json", "-o", out, "--", *watched], stdin=pipe, stdout=pipe
        ) as stat,
    ):
        assert stat.stdin is not None
        assert stat.stdout is not None
        vms = {
            name: stack.enter_context(
                Qemu(name, flags, words=[*WORDS], rounds=0, uuid=UUID if name == ALL else None)
            )
            for name, flags in FLAGS.items()
        }
        assert stat.stdout.readline() == b"attached\n"
        goes = [Go({name: vm.ledger() for name, vm in vms.items()}, source.snapshot())]
        for rounds in ROUNDS:
            ledgers = {name: vm.run(rounds) for name, vm in vms.items()}
            goes.append(Go(ledgers, source.snapshot()))
        stat.stdin.close()
        assert stat.wait() == 0
        yield Seen(vms, goes, json.loads(out.read_text()))


@pytest.mark.parametrize("name", FLAGS)
def test_the_guest_made_what_its_flags_offer(seen: Seen, name: str) -> None:
    rounds = sum(ROUNDS)
    ledger = seen.goes[-1].ledgers[name]
    assert ledger.rounds == (rounds, rounds)
    assert ledger.vcpus == tuple([{key: rounds * n for key, n in ROUND[name].items()}] * 2)


def test_ipis_arrived_where_they_were_sent(seen: Seen) -> None:
    ledgers = seen.goes[-1].ledgers
    assert all(ledgers[ALL].ipis)
    assert not any(ledgers[MEMORY].ipis)


@pytest.mark.parametrize("name", FLAGS)
def test_each_vcpus_calls_equal_the_guests_own_count(seen: Seen, name: str) -> None:
    assert [seen.traced(name, go) for go in range(3)] == [seen.made(name, go) for go in range(3)]


@pytest.mark.parametrize("name", FLAGS)
def test_what_a_go_added_equals_what_the_guest_made_in_it(seen: Seen, name: str) -> None:
    traced = seen.traced(name, 2) - seen.traced(name, 1)
    assert traced == seen.made(name, 2) - seen.made(name, 1)
    assert sum(traced.values()) == 2 * ROUNDS[1] * sum(ROUND[name].values())


@pytest.mark.parametrize("name", FLAGS)
def test_calls_equal_kvms_own_counter(seen: Seen, name: str) -> None:
    [counter] = Path("/sys/kernel/debug/kvm").glob(f"{seen.vms[name].pid}-*/hypercalls")
    assert int(counter.read_text()) == sum(seen.traced(name, 2).values())


@pytest.mark.parametrize("name", FLAGS)
def test_stat_says_the_same(seen: Seen, name: str) -> None:
    found = Counter[tuple[int, bool, int]]()
    for call in seen.stat["calls"]:
        if call["vm"]["pid"] == seen.vms[name].pid:
            assert (call["vm"]["name"], call["vm"]["vmm"]) == (name, "qemu")
            for status, count in call["statuses"].items():
                found[call["code"], call["fast"], statuses.parse(status)] += count
    assert found == seen.goes[-1].ledgers[name].calls


def test_nothing_was_lost(seen: Seen) -> None:
    assert set(seen.stat["lost"].values()) == {0}
    assert seen.stat["in_flight"] == 0


def test_only_signals_went_to_qemu(seen: Seen) -> None:
    handlers = {(call["code"], call["handler"]) for call in seen.stat["calls"]}
    assert handlers == {(0x02, "kernel"), (0x0B, "kernel"), (0x50, "kernel"), (0x5D, "vmm")}


def test_output_in_registers_was_wanted_and_refused(seen: Seen) -> None:
    verdicts = {(c["code"], c["fast"]): set(c["xmm_output"]) for c in seen.stat["calls"]}
    assert verdicts == {
        (0x02, True): {"none"},
        (0x02, False): {"memory"},
        (0x0B, True): {"none"},
        (0x50, True): {"refused"},
        (0x5D, True): {"none"},
    }


def test_vms_have_the_names_that_their_user_gave(seen: Seen) -> None:
    for name in (ALL, MEMORY):
        [vm] = seen.vm(name)
        assert (vm.name, vm.vmm, vm.uuid) == (name, "qemu", UUID if name == ALL else None)
        assert Path(f"/sys/kernel/debug/kvm/{vm.pid}-{vm.fd}").is_dir()


def test_a_vm_without_hypercalls_is_in_no_list(seen: Seen) -> None:
    assert seen.vm(PLAIN) == []


def test_a_guest_goes_on_by_itself() -> None:
    """As those that are watched while they run: after the first round there are more."""
    with Qemu("endless", "host,hv-relaxed", vcpus=1, words=["output"]) as vm:
        first = vm.ledger()
        deadline = time.monotonic() + 60.0
        while vm.ledger().rounds[0] < first.rounds[0] + 5:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert first.calls.keys() == vm.ledger().calls.keys() == {(0x50, True, 2)}


def test_a_qemu_that_does_not_start_says_why() -> None:
    with pytest.raises(Failed, match="unable to find CPU model 'nonsense'"), Qemu("x", "nonsense"):
        pass
