"""The ledger: what guests made and saw, counted in their own memory. Tests compare with it.

As JSON it is one object:

    {"schema": 1, "hvtrace": "<version>", "kernel": "<release>", "mix": "<name>", "seed": 0,
     "start": <unix s>, "duration_s": <s>,
     "vms": [{"pid": 1, "fd": 6, "name": "everything-0", "vcpus": [<tid>, ...],
              "hypercalls": 1,          completed calls of this VM, by the guest
              "kvm_hypercalls": 1,      the same by KVM's own counter
              "unseen": 1}],            calls from ring 3: #UD, and no event
     "calls": [{"vm": {"pid": 1, "name": "everything-0", "fd": 6}, "code": 2, "fast": true,
                "handler": "kernel",    or "vmm": forwarded
                "calls": 211,           completed + unfinished
                "completed": 211,       with a result, on the thread that began the call
                "unfinished": 0,        faulted + pending + orphans
                "faulted": 0,           #UD instead of a result
                "pending": 0,           never answered
                "orphans": 0,           completed on another thread: to a tracer that keeps state
                                        by thread, an unfinished call here, an orphan there
                "reps": 0,              reps completed, over the completed calls
                "xmm_input": 211,       of `calls`: input longer than 16 bytes in registers
                "xmm_output": {"none": 211},        of `calls`, as the mix declares it
                "untouched": 0,         of `calls`: want output in registers, and succeeded while
                                        the VMM left the registers alone, as one does that knows
                                        nothing of it: the guest got its own input back
                "statuses": {"0x0000": 211},        of `completed`
                "orphan_statuses": {}}],
     "problems": []}                    where guest, mix and KVM do not agree: one line each

A row is a (vm, code, fast, handler), in this order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from hvtrace import __version__
from hvtrace.guest.memory import REGISTERS, Descriptor, GuestMemory
from hvtrace.guest.mix import DELIVERED, FORWARDED, Call, Mix
from hvtrace.hyperv import codes, statuses


@dataclass(frozen=True, slots=True)
class Result:
    """What one vCPU's descriptor of one call says after the run."""

    started: int
    completed: int
    faulted: int
    reps: int
    forwarded: int
    moved: int
    statuses: dict[int, int]
    confirmed: int  # completed calls before the first that left wrong registers
    wrong: tuple[str, ...] = ()  # what that one left in which


@dataclass(frozen=True, slots=True)
class LedgerVm:
    """One VM of a run."""

    pid: int
    fd: int
    name: str
    vcpus: tuple[int, ...]  # thread ids
    first: int  # number of its first vCPU in the whole run
    kvm_hypercalls: int | None  # None: the VM has ended before it could say


@dataclass(slots=True)
class Row:
    """What one VM made of one (code, fast, handler)."""

    completed: int = 0
    faulted: int = 0
    pending: int = 0
    orphans: int = 0
    reps: int = 0
    xmm_input: int = 0
    untouched: int = 0
    xmm_output: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    orphan_statuses: Counter[int] = field(default_factory=Counter)

    @property
    def unfinished(self) -> int:
        """Calls that a tracer with state by thread never sees completed."""
        return self.faulted + self.pending + self.orphans

    @property
    def calls(self) -> int:
        """All of them."""
        return self.completed + self.unfinished

    def add(self, call: Call, result: Result) -> None:
        """Count one vCPU's calls in."""
        self.faulted += result.faulted
        self.pending += result.started - result.completed - result.faulted
        if result.moved:
            self.orphans += result.completed
            self.orphan_statuses.update(result.statuses)
        else:
            self.completed += result.completed
            self.reps += result.reps
            self.statuses.update(result.statuses)
        self.xmm_input += result.started * call.xmm_input
        self.xmm_output[call.xmm_output] += result.started
        if call.xmm_output in DELIVERED and not call.writes:
            self.untouched += result.statuses.get(0, 0)


Key = tuple[int, int, bool, str]


@dataclass(slots=True)
class Ledger:
    """A whole run; `rows` by (index of the VM, code, fast, handler)."""

    mix: Mix  # as it is on this kernel
    kernel: str
    seed: int
    start: float
    duration_s: float
    vms: list[LedgerVm]
    rows: dict[Key, Row] = field(default_factory=dict)
    unseen: Counter[int] = field(default_factory=Counter)  # by index of the VM
    problems: list[str] = field(default_factory=list)

    def hypercalls(self, vm: int) -> int:
        """Completed calls of VM number `vm`, whatever the thread: what KVM counts too."""
        rows = [row for key, row in self.rows.items() if key[0] == vm]
        return sum(row.completed + row.orphans for row in rows)


def results(memory: GuestMemory, vcpu: int) -> list[Result]:
    """What the memory of a VM says of one of its vCPUs, call by call."""
    return [_result(descriptor) for descriptor in memory.descriptors(vcpu)]


def _result(descriptor: Descriptor) -> Result:
    counts = ("started", "completed", "faulted", "reps", "forwarded", "moved", "confirmed")
    return Result(
        **{name: getattr(descriptor, name) for name in counts},
        statuses={entry.status: entry.count for entry in descriptor.statuses if entry.count},
        wrong=tuple(_wrong(descriptor)) if descriptor.confirmed != descriptor.completed else (),
    )


def _wrong(descriptor: Descriptor) -> Iterator[str]:
    failed = descriptor.rax_out & 0xFFFF
    found, wanted = descriptor.registers_out, descriptor.wanted
    if failed:
        wanted = descriptor.registers_in
    for name, words in REGISTERS.items():
        if found[words] != wanted[words]:
            yield f"{name.upper()} {_words(found[words])} instead of {_words(wanted[words])}"


def _words(words: Sequence[int]) -> str:
    return f"[{', '.join(map(hex, words))}]"


def fill(ledger: Ledger, found: Sequence[Sequence[Sequence[Result]]], rounds: int | None) -> None:
    """Add up results (by VM, vCPU, call) and note where they differ from what the mix expects.

    `rounds` is how many of them each vCPU was to make; None where that was
    left to a rate, or the run was cut short.
    """
    for vm, vcpus in enumerate(found):
        for i, vcpu in enumerate(vcpus):
            for call, result in zip(ledger.mix.calls, vcpu, strict=True):
                _count(ledger, vm, call, result)
                wanted = _wanted(ledger, vm, i, call, rounds)
                where = f"{ledger.vms[vm].name} vcpu{i} 0x{call.code:04x}"
                ledger.problems += [f"{where}: {text}" for text in problems(call, result, wanted)]
        counted, made = ledger.vms[vm].kvm_hypercalls, ledger.hypercalls(vm)
        if counted is not None and counted != made:
            text = f"{ledger.vms[vm].name}: KVM counts {counted} completed calls, the guest {made}"
            ledger.problems.append(text)


def _wanted(ledger: Ledger, vm: int, vcpu: int, call: Call, rounds: int | None) -> int | None:
    if rounds is None:
        return None
    if call.path == "killed":
        return 1
    return rounds * ledger.mix.times(call, ledger.vms[vm].first + vcpu)


def _count(ledger: Ledger, vm: int, call: Call, result: Result) -> None:
    if call.path == "unseen":
        ledger.unseen[vm] += result.faulted
    elif result.started:
        handler = "vmm" if result.forwarded else "kernel"
        key = (vm, call.code, call.fast, handler)
        ledger.rows.setdefault(key, Row()).add(call, result)


def problems(call: Call, result: Result, wanted: int | None) -> Iterator[str]:
    """Where `result` is not what `call` expects; `wanted` is the number of calls, if known."""
    if wanted is not None and result.started != wanted:
        yield f"{result.started} calls instead of {wanted}"
    if sum(result.statuses.values()) != result.completed:
        yield f"{result.completed} completed, but {result.statuses} statuses"
    forwarded = result.started if call.path in FORWARDED else 0
    if result.forwarded != forwarded:
        yield f"{result.forwarded} of {result.started} calls forwarded instead of {forwarded}"
    faults = result.started if call.path in ("fault", "unseen") else 0
    if result.faulted != faults:
        yield f"{result.faulted} of {result.started} calls faulted instead of {faults}"
    completed = 0 if call.path in ("fault", "unseen", "killed") else result.started
    if result.completed != completed:
        yield f"{result.completed} of {result.started} calls completed instead of {completed}"
    if result.confirmed != result.completed:
        yield f"after {result.confirmed} calls one left {', '.join(result.wrong)}"
    if call.path in FORWARDED:
        answers = islice(cycle(call.answers), completed)
        statuses = Counter(answer & 0xFFFF for answer in answers)
    else:
        statuses = Counter({call.status: completed} if completed else {})
    if statuses != Counter(result.statuses):
        yield f"statuses {_hex(result.statuses)} instead of {_hex(statuses)}"


def as_json(ledger: Ledger) -> dict[str, Any]:
    """The object of the module's description."""
    return {
        "schema": 1,
        "hvtrace": __version__,
        "kernel": ledger.kernel,
        "mix": ledger.mix.name,
        "seed": ledger.seed,
        "start": ledger.start,
        "duration_s": ledger.duration_s,
        "vms": [
            {
                "pid": vm.pid,
                "fd": vm.fd,
                "name": vm.name,
                "vcpus": list(vm.vcpus),
                "hypercalls": ledger.hypercalls(i),
                "kvm_hypercalls": vm.kvm_hypercalls,
                "unseen": ledger.unseen[i],
            }
            for i, vm in enumerate(ledger.vms)
        ],
        "calls": [
            _row_json(ledger.vms[key[0]], key, ledger.rows[key]) for key in sorted(ledger.rows)
        ],
        "problems": ledger.problems,
    }


def _row_json(vm: LedgerVm, key: Key, row: Row) -> dict[str, Any]:
    _, code, fast, handler = key
    return {
        "vm": {"pid": vm.pid, "name": vm.name, "fd": vm.fd},
        "code": code,
        "fast": fast,
        "handler": handler,
        "calls": row.calls,
        "completed": row.completed,
        "unfinished": row.unfinished,
        "faulted": row.faulted,
        "pending": row.pending,
        "orphans": row.orphans,
        "reps": row.reps,
        "xmm_input": row.xmm_input,
        "xmm_output": dict(row.xmm_output),
        "untouched": row.untouched,
        "statuses": _hex(row.statuses),
        "orphan_statuses": _hex(row.orphan_statuses),
    }


def _hex(statuses: dict[int, int]) -> dict[str, int]:
    return {f"0x{status:04x}": statuses[status] for status in sorted(statuses)}


def as_text(ledger: Ledger) -> Iterator[str]:
    """Lines for people, 80 columns: a table for each VM, a line for each outcome; problems."""
    for i, vm in enumerate(ledger.vms):
        vcpus = f"{len(vm.vcpus)} vCPU{'s' if len(vm.vcpus) != 1 else ''}"
        kvm = "" if vm.kvm_hypercalls is None else f", {vm.kvm_hypercalls} by KVM's count"
        made = f"{ledger.hypercalls(i)} calls completed{kvm}"
        yield f"{vm.name}: process {vm.pid}, {vcpus}, {made}"
        yield f"  {'CALL':27} {'FAST':4} {'BY':6} {'COUNT':>8} OUTCOME"
        for key in sorted(key for key in ledger.rows if key[0] == i):
            yield from _row_text(key, ledger.rows[key])
    yield from (f"problem: {text}" for text in ledger.problems)


def _row_text(key: Key, row: Row) -> Iterator[str]:
    _, code, fast, handler = key
    name = codes.name_of(code).removeprefix("HvCall")[:27]
    kind = ("xmm" if row.xmm_input else "yes") if fast else "no"
    head = f"  {name:27} {kind:4} {handler:6}"
    outcomes = [(n, statuses.name_of(status)) for status, n in sorted(row.statuses.items())]
    if row.unfinished:
        outcomes.append((row.unfinished, "unfinished"))
    for count, outcome in outcomes:
        yield f"{head} {count:8} {outcome[:29]}"
        head = " " * len(head)
