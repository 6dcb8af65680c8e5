"""Everything hvtrace needs of this host, looked at one by one; nothing ends at the first lack."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Interface
from hvtrace.kernel import features, kvm, pins
from hvtrace.kernel.features import Features
from hvtrace.kernel.programs import counters
from hvtrace.kernel.shape import choose


@dataclass(frozen=True, slots=True)
class Check:
    """One thing; `needed` means that hvtrace does not work without it."""

    name: str
    ok: bool
    needed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of them; `interface` is None where the events cannot be read."""

    kernel: str
    checks: tuple[Check, ...]
    interface: Interface | None

    @property
    def ok(self) -> bool:
        """Whether hvtrace works here."""
        return all(check.ok for check in self.checks if check.needed)


def examine() -> Report:
    """Look at this host; the programs are compiled and loaded once, to see whether they can be."""
    checks: list[Check] = []

    def needed(name: str, work: Callable[[], str]) -> bool:
        try:
            check = Check(name, True, True, work())
        except HvtraceError as error:
            check = Check(name, False, True, str(error))
        checks.append(check)
        return check.ok

    host: Features | None = None
    needed("privilege", _done(features.check_privilege, "root, or CAP_BPF and CAP_PERFMON"))
    has_bpf = needed("bpf", _done(features.check_bpf, "bpf(2) is permitted"))
    has_tracefs = needed("tracefs", lambda: str(features.mounted_tracefs()))
    needed("KVM", _kvm)
    events = features.mounted_tracefs() / "events" if has_tracefs else None
    if events and (events / "kvm").is_dir() and needed("events", lambda: _events(events)):
        host = features.look(choose(platform.release(), features.read_formats(events)))
        if has_bpf:
            needed("BCC", lambda: _load(host))
        checks += _useful(host)
    return Report(platform.release(), tuple(checks), host.interface if host else None)


def _done(check: Callable[[], None], text: str) -> Callable[[], str]:
    def work() -> str:
        check()
        return text

    return work


def _kvm() -> str:
    if not kvm.is_loaded():
        features.check_module()
        raise HvtraceError("not loaded yet: modprobe kvm_intel or kvm_amd (hvtrace waits for it)")
    if not kvm.has_hyperv():
        raise HvtraceError(f"{features.NO_HYPERV}: no hypercall can be seen")
    return "loaded, with Hyper-V"


def _events(events: Path) -> str:
    shape = choose(platform.release(), features.read_formats(events))
    return "raw tracepoints" if shape.raw else "normal tracepoints (raw ones lose calls here)"


def _load(host: Features) -> str:
    began = time.monotonic()
    counters(host, threads=16, slots=16).load().close()
    return f"compiled and loaded the programs in {time.monotonic() - began:.1f} s"


def _useful(host: Features) -> list[Check]:
    """What only some of it needs."""
    problem, kprobes, debugfs = host.structures.problem, host.kprobes, host.debugfs
    return [
        Check(
            "BTF",
            problem is None,
            False,
            f"{problem}: no CPUID of guests (audit), no --evidence" if problem else "of KVM, read",
        ),
        Check(
            "kprobes",
            kprobes,
            False,
            "for --evidence"
            if kprobes
            else "none (CONFIG_KPROBES): --evidence costs at every entry to a guest",
        ),
        Check(
            "debugfs",
            debugfs is not None,
            False,
            str(debugfs)
            if debugfs
            else "not mounted: VMs of one process are not told apart (mount -t debugfs)",
        ),
        *(Check("pinned", True, False, f"{it}: counts, and holds kvm.ko") for it in pins.folders()),
        Check("XMM output", True, False, host.interface.words),
    ]
