"""Rules on output in registers, and on the exits that bring it."""

from __future__ import annotations

from collections.abc import Iterator

from hvtrace.audit import words
from hvtrace.audit.case import Case, Draft, grouped
from hvtrace.hyperv.cpuid import BY_NAME
from hvtrace.stats.calls import Call

_STOCK_EXIT_TYPES = 3  # KVM_EXIT_HYPERV_SYNIC, _HCALL, _SYNDBG


def claimed(case: Case) -> Iterator[Draft]:
    """Success where the kernel can not deliver."""
    if counts := case.count(lambda call: call.xmm_output.get("claimed", 0)):
        yield Draft(
            f"userspace answers success to {case.calls(counts, 'fast')}, which have output, on a "
            "kernel without XMM output: the guest takes stale registers for the result",
            counts,
        )


def untouched(case: Case) -> Iterator[Draft]:
    """Success by a VMM that does not know of the registers in its exit."""
    found = grouped(("", one.code, one.untouched) for one in case.guest.exits)
    for counts in found.values():
        yield Draft(
            f"userspace answers success to {case.calls(counts, 'fast')} and leaves the registers "
            "of the exit as they were: the guest takes its own input for the result",
            counts,
        )


def exit_not_handled(case: Case) -> Iterator[Draft]:
    """Calls that left by a new exit type and never came back."""
    new = {
        (one.code, one.fast): one.type for one in case.guest.exits if one.type > _STOCK_EXIT_TYPES
    }
    found = grouped(
        (new[call.code, call.fast], call.code, call.unfinished)
        for call in case.guest.calls
        if call.handler == "vmm" and (call.code, call.fast) in new
    )
    for exit_type, counts in found.items():
        yield Draft(
            f"userspace never finishes {case.calls(counts)}, which leave by exit type "
            f"{exit_type}: it does not know that exit",
            counts,
        )


def new_exit_type(case: Case) -> Iterator[Draft]:
    """An exit type that no released kernel has, and whose structure BTF does not show."""
    found = grouped(
        (one.type, one.code, one.calls)
        for one in case.guest.exits
        if one.type > _STOCK_EXIT_TYPES and one.size_bytes is None
    )
    for exit_type, counts in found.items():
        yield Draft(
            f"{case.calls(counts)} leave by exit type {exit_type}, which hvtrace does not know",
            counts,
        )


def refused(case: Case) -> Iterator[Draft]:
    """Attempts that failed, and why."""
    found = grouped(
        (_why_refused(case, call), call.code, call.xmm_output.get("refused", 0))
        for call in case.guest.calls
    )
    for reason, counts in found.items():
        yield Draft(
            f"asks for XMM output and is refused {case.rate(counts)} times a minute "
            f"({words.names(counts)}): {reason}",
            counts,
        )


def _why_refused(case: Case, call: Call) -> str:
    if case.host.xmm_output_kind == "none":
        return "this KVM has no XMM output"
    if case.exposes("xmm-output") is False:
        return f"it is not exposed ({BY_NAME['xmm-output'].where})"
    statuses = [name for name in call.statuses if name != "SUCCESS"]
    who = "KVM" if call.handler == "kernel" else "userspace"
    return f"{who} answers {' or '.join(statuses)}" if statuses else "they never completed"


def exposed_in_vain(case: Case) -> Iterator[Draft]:
    """The VMM promises what its KVM can not keep."""
    if case.host.xmm_output_kind == "none" and case.exposes("xmm-output"):
        yield Draft(
            f"exposes XMM output ({BY_NAME['xmm-output'].where}), which this KVM does not have: "
            "fast calls with output cannot succeed"
        )


def impossible(case: Case) -> Iterator[Draft]:
    """More than the registers hold."""
    if counts := case.count(lambda call: call.xmm_output.get("impossible", 0)):
        yield Draft(
            f"makes {case.calls(counts, 'fast')} with more input and output than the registers "
            "hold: the guest should pass them in memory",
            counts,
        )
