"""Facts for an audit: when vCPUs are looked at, what a VM is made of, what could not be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import FakeSource, row, snapshot, vm

from hvtrace.audit.facts import Guest, Host
from hvtrace.hyperv.cpuid import Cpuid
from hvtrace.hyperv.interface import Interface
from hvtrace.kernel import audit, shape
from hvtrace.kernel.features import Features
from hvtrace.kernel.structures import Structures
from hvtrace.kernel.vcpus import Vcpu
from hvtrace.stats.exits import Exit

WIN = replace(vm("win", 1009), vmm="hvtrace-guest")
QEMU = replace(vm("q", 1013), vmm="qemu")
WORDS = ("features_edx",)
ARGUMENTS = ["qemu-system-x86_64", "-cpu", "host,hv-ipi,hv-time=off"]
CPUID = Cpuid(features_edx=1 << 4)
OFFERED = Cpuid(features_edx=1 << 4 | 1 << 14)


class Host_:
    """A host in which VMs and vCPUs turn up look by look."""

    def __init__(self) -> None:
        self.threads: list[list[tuple[int, int]]] = [[(1009, 11), (1009, 13)]]
        self.seen: list[list[Vcpu]] = [[]]
        self.attached: list[bool] = []
        self.features = Features(
            "6.12",
            shape.raw(),
            Interface(exit_bytes=56),
            OFFERED,
            Structures(exit_bytes=56, cpuid_words=WORDS),
            debugfs=Path("/sys/kernel/debug/kvm"),
        )
        self.source = FakeSource(snapshot(), snapshot([row(WIN, 2, latencies_ns=[5] * 7)]))

    def observe(
        self, looks: int, pid: int | None = None, evidence: bool = True
    ) -> tuple[Host, list[Guest]]:
        left = iter(range(looks))
        host, guests, _ = audit.observe(
            pid, 60.0, say=print, wait=lambda _: next(left, None) is None, evidence=evidence
        )
        return host, guests


def turn(parts: list[list]) -> list:  # type: ignore[type-arg]
    return parts.pop(0) if len(parts) > 1 else parts[0]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host_:
    fake = Host_()

    class Identities:
        def __init__(self, debugfs: Path | None) -> None:
            pass

        def threads(self) -> list[tuple[int, int]]:
            return turn(fake.threads) if fake.features.debugfs else []

        def process(self, pid: int) -> SimpleNamespace:
            vm = {1009: WIN, 1013: QEMU}[pid]
            return SimpleNamespace(arguments=ARGUMENTS, vm_of=lambda tid, comm: vm)

    class Vcpus:
        def __init__(self, loaded: str, words: tuple[str, ...]) -> None:
            assert (loaded, words) == ("programs", WORDS)

        def seen(self) -> dict[int, Vcpu]:
            return {vcpu.tid: vcpu for vcpu in turn(fake.seen)}

        def look(self) -> None:
            fake.attached.append(True)

        def rest(self) -> None:
            fake.attached.append(False)

    class Source:
        def __enter__(self):
            fake.source.host = fake.features  # type: ignore[attr-defined]
            fake.source.loaded = "programs"  # type: ignore[attr-defined]
            return fake.source

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(audit, "Identities", Identities)
    monkeypatch.setattr(audit, "Vcpus", Vcpus)
    monkeypatch.setattr(audit, "open_source", lambda *_, **__: Source())
    return fake


def vcpu(tid: int, number: int, **more: object) -> Vcpu:
    facts = {"pid": 1009, "cpuid": CPUID, "enforced": False}
    return Vcpu(tid=tid, number=number, **(facts | more))  # type: ignore[arg-type]


def test_vcpus_are_looked_at_until_all_were_seen(host: Host_) -> None:
    host.seen = [[], [vcpu(11, 0)], [vcpu(11, 0), vcpu(13, 1)]]
    _, [guest] = host.observe(looks=4)
    assert host.attached[:3] == [True, True, False]
    assert not any(host.attached[3:])
    assert (guest.vm, guest.vcpus, guest.hyperv, guest.enforced) == (WIN, 2, True, False)
    assert guest.cpuid == CPUID
    assert [call.completed for call in guest.calls] == [7]


def test_a_vcpu_that_turns_up_later_is_looked_at(host: Host_) -> None:
    host.threads = [[(1009, 11)], [(1009, 11)], [(1009, 11), (1009, 17)]]
    host.seen = [[vcpu(11, 0)], [vcpu(11, 0)], [vcpu(11, 0)], [vcpu(11, 0), vcpu(17, 1)]]
    host.observe(looks=4)
    assert host.attached[:4] == [False, False, True, False]


def test_a_parked_vcpu_is_looked_at_in_bursts(host: Host_, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds of twenty: it may never enter its guest. A look takes a second here."""
    clock = iter(range(100, 1000))
    now = [100.0]

    def monotonic() -> float:
        return now[0]

    def wait(_: float) -> bool:
        now[0] = next(clock)
        return now[0] >= 142

    monkeypatch.setattr(audit.time, "monotonic", monotonic)
    host.seen = [[vcpu(11, 0)]]
    audit.observe(None, 1e9, say=print, wait=wait)
    on = [i for i, attached in enumerate(host.attached) if attached]
    assert 5 <= len([i for i in on if i < 12]) <= 7
    assert not [i for i in on if 8 <= i <= 20]
    assert 5 <= len([i for i in on if 20 < i < 32]) <= 7


def test_without_debugfs_in_bursts(host: Host_) -> None:
    host.features = replace(host.features, debugfs=None)
    host.seen = [[vcpu(11, 0)]]
    found, [guest] = host.observe(looks=3)
    assert host.attached == [True] * 5 + [False] * 2
    assert guest.vcpus == 1
    assert any("no debugfs" in note for note in found.notes)


def test_without_btf_the_rest_goes_on(host: Host_) -> None:
    host.features = replace(host.features, structures=Structures(problem="this kernel has no BTF"))
    found, [guest] = host.observe(looks=2)
    assert host.attached == []
    assert (guest.cpuid, guest.hyperv, guest.enforced) == (None, None, None)
    assert (guest.vcpus, len(guest.calls)) == (2, 1)
    assert found.notes == ("not seen: CPUID of guests and exits of calls (this kernel has no BTF)",)


def test_without_kprobes_a_note(host: Host_) -> None:
    host.features = replace(host.features, kprobes=False)
    found, _ = host.observe(looks=1)
    assert "no kprobes (CONFIG_KPROBES)" in found.notes[0]
    found, _ = host.observe(looks=1, evidence=False)
    assert found.notes == ()  # nothing asked for them


def test_host_says_what_its_kvm_can(host: Host_) -> None:
    found, _ = host.observe(looks=1)
    assert (found.kernel, found.xmm_output_kind, found.offered) == ("6.12", "none", OFFERED)
    assert found.notes == ()


def test_flags_are_qemus_only(host: Host_) -> None:
    host.threads = [[(1009, 11), (1013, 19)]]
    _, guests = host.observe(looks=1)
    assert {guest.vm.name: guest.flags for guest in guests} == {"win": None, "q": ("hv-ipi",)}


def test_one_process_only(host: Host_) -> None:
    host.threads = [[(1009, 11), (1013, 19)]]
    _, guests = host.observe(looks=1, pid=1009)
    assert [guest.vm for guest in guests] == [WIN]


def test_vcpus_that_differ_are_told(host: Host_) -> None:
    host.seen = [[vcpu(13, 1, enforced=True), vcpu(11, 0)]]
    _, [guest] = host.observe(looks=1)
    assert guest.same_cpuid is False
    assert guest.enforced is False  # the first vCPU's


def test_a_guest_without_hyperv(host: Host_) -> None:
    host.seen = [[vcpu(11, 0, cpuid=None), vcpu(13, 1, cpuid=None)]]
    _, [guest] = host.observe(looks=1)
    assert (guest.hyperv, guest.cpuid, guest.enforced, guest.same_cpuid) == (
        False,
        None,
        None,
        True,
    )


def test_a_vm_that_was_gone_before_anybody_looked(host: Host_) -> None:
    host.threads = [[]]
    _, [guest] = host.observe(looks=1)
    assert (guest.vm, guest.vcpus, guest.cpuid) == (WIN, 0, None)
    assert len(guest.calls) == 1


def test_exits_go_to_their_vm(host: Host_) -> None:
    one = Exit(WIN, 0x50, True, 4, 128, calls=3, untouched=0)
    other = replace(one, vm=QEMU)
    host.threads = [[(1009, 11), (1013, 19)]]
    host.source.left[:] = [replace(each, exits=(one, other)) for each in host.source.left]
    host.source.left[0] = snapshot()
    _, guests = host.observe(looks=1)
    assert {guest.vm.name: guest.exits for guest in guests} == {"win": (one,), "q": (other,)}
