"""Rules on features: what is exposed, and the calls that stand on it."""

from __future__ import annotations

from collections.abc import Iterator

from hvtrace.audit import words
from hvtrace.audit.case import Case, Draft, grouped, xmm_form
from hvtrace.hyperv import kvm
from hvtrace.hyperv.cpuid import BY_NAME, XMM_INPUT_CODES, Feature, gates, of_flag
from hvtrace.stats.calls import Call

_FLUSH_CODES = (0x0002, 0x0003, 0x0013, 0x0014)
_IPI_CODES = (0x000B, 0x0015)

BUSY_PER_MINUTE = 60
"""Hypercalls of a guest that is not idle: only then its choice not to make one says anything."""


def denied(case: Case) -> Iterator[Draft]:
    """Calls that fail under enforcement, with a status or with #UD."""
    # KVM itself gives ACCESS_DENIED for nothing else: hvtrace.hyperv.kvm.RULES.
    by_status = grouped(
        (_denying(case, call).name, call.code, call.statuses.get("ACCESS_DENIED", 0))
        for call in case.guest.calls
        if call.handler == "kernel" and gates(call.code)
    )
    for name, counts in by_status.items():
        yield _denial(case, counts, "fail with ACCESS_DENIED", BY_NAME[name])
    if case.guest.enforced and case.exposes("xmm-input") is False:
        faulted = case.count(lambda call: call.unfinished if xmm_form(call) else 0)
        if faulted:
            yield _denial(case, faulted, "end in #UD", BY_NAME["xmm-input"])


def _denying(case: Case, call: Call) -> Feature:
    """The feature that a denied call lacks; where CPUID is not known, the one it is about."""
    needed = gates(call.code)
    return ([one for one in needed if not one.exposed(case.guest.given)] or [*needed])[-1]


def _denial(case: Case, counts: dict[int, int], end: str, feature: Feature) -> Draft:
    how, flag = case.remedy(feature)
    text = f"{case.calls(counts)} {end}: CPUID is enforced, and {_missing(feature)}{how}"
    return Draft(text, counts, flag)


def unexposed(case: Case) -> Iterator[Draft]:
    """Calls that only a lenient KVM serves."""
    if case.guest.enforced:
        return
    served = grouped(
        (name, call.code, call.statuses.get("SUCCESS", 0))
        for call in case.guest.calls
        for name in _lacking(case, call)
    )
    for name, counts in served.items():
        how, flag = case.remedy(BY_NAME[name])
        form = "XMM-form" if name == "xmm-input" else ""
        yield Draft(
            f"makes {case.calls(counts, form)}, which KVM serves only because CPUID is not "
            f"enforced: {_missing(BY_NAME[name])}{how}",
            counts,
            flag,
        )


def _lacking(case: Case, call: Call) -> list[str]:
    """The features, two at most, that this row needs and the guest is not shown."""
    names = [one.name for one in gates(call.code) if one.exposed(case.guest.given) is False][-1:]
    if xmm_form(call) and case.exposes("xmm-input") is False:
        names.append("xmm-input")
    return names


def _missing(feature: Feature) -> str:
    return f"{feature.title} {'are' if feature.title.endswith('s') else 'is'} not exposed"


def xmm_input(case: Case) -> Iterator[Draft]:
    """Parameters in memory, for want of a bit."""
    if case.exposes("xmm-input") is not False or not case.offers("xmm-input"):
        return
    # A guest that uses the registers unasked would not change: unexposed() names the flag.
    if any(map(xmm_form, case.guest.calls)):
        return
    counts = case.count(lambda call: call.calls if call.code in XMM_INPUT_CODES else 0)
    if counts:
        how, flag = case.remedy(BY_NAME["xmm-input"])
        text = f"makes {case.calls(counts, 'memory-form')}; XMM input is not exposed{how}"
        yield Draft(text, counts, flag)


def ipi_unused(case: Case) -> Iterator[Draft]:
    """IPIs go another way."""
    return _unused(case, BY_NAME["cluster-ipi"], _IPI_CODES, "sends one")


def flush_unused(case: Case) -> Iterator[Draft]:
    """TLB flushes go another way."""
    return _unused(case, BY_NAME["remote-tlb-flush"], _FLUSH_CODES, "flushes by it")


def _unused(case: Case, feature: Feature, codes: tuple[int, ...], never: str) -> Iterator[Draft]:
    made = case.count(lambda call: call.calls)
    busy = case.guest.vcpus > 1 and case.per_minute(made) >= BUSY_PER_MINUTE
    if busy and feature.exposed(case.guest.given) and made.keys().isdisjoint(codes):
        yield Draft(
            f"exposes {feature.flag} and never {never}, among {case.rate(made)} hypercalls a minute"
        )


def ipi_not_exposed(case: Case) -> Iterator[Draft]:
    """IPIs could go by hypercall."""
    return _not_exposed(case, BY_NAME["cluster-ipi"], _IPI_CODES)


def flush_not_exposed(case: Case) -> Iterator[Draft]:
    """TLB flushes could go by hypercall."""
    return _not_exposed(case, BY_NAME["remote-tlb-flush"], _FLUSH_CODES)


def _not_exposed(case: Case, feature: Feature, codes: tuple[int, ...]) -> Iterator[Draft]:
    guest = case.guest
    lacks = guest.hyperv and guest.vcpus > 1 and feature.exposed(guest.given) is False
    made = any(call.code in codes for call in guest.calls)  # unexposed() or denied() say it then
    if lacks and case.offers(feature.name) and not made:
        how, flag = case.remedy(feature)
        text = f"has {guest.vcpus} vCPUs and no {feature.title}, which this KVM offers{how}"
        yield Draft(text, flag=flag)


def flag_without_effect(case: Case) -> Iterator[Draft]:
    """The command line and CPUID disagree."""
    given = [flag for flag in case.guest.flags or () if _promises(flag)]
    vain = [
        flag
        for flag in given
        if (feature := of_flag(flag)) and feature.exposed(case.guest.given) is False
    ]
    if "hv-enforce-cpuid" in given and case.guest.enforced is False:
        vain.append("hv-enforce-cpuid")
    if vain:
        yield Draft(f"has {words.listed(vain)} on its command line, without effect on its vCPUs")


def _promises(flag: str) -> bool:
    """Whether a flag is a plain "on": neither auto, nor a spin wait that never notifies."""
    name, _, value = flag.partition("=")
    if name == "hv-spinlocks":
        return value.lower() not in ("0xffffffff", "4294967295")
    return not value


def cpuid_differs(case: Case) -> Iterator[Draft]:
    """vCPUs that are not alike."""
    if not case.guest.same_cpuid:
        yield Draft("its vCPUs differ in their Hyper-V CPUID: what is said here is of the first")


def not_implemented(case: Case) -> Iterator[Draft]:
    """Calls that nobody answers; attempts at output in registers have rules of their own."""
    found = grouped(
        (
            _who_does_not(call),
            call.code,
            call.statuses.get("INVALID_HYPERCALL_CODE", 0)
            - sum(call.xmm_output.get(verdict, 0) for verdict in ("refused", "impossible")),
        )
        for call in case.guest.calls
    )
    for who, counts in found.items():
        yield Draft(f"makes {case.calls(counts)}, which {who}", counts)


def _who_does_not(call: Call) -> str:
    if call.handler == "vmm":
        return "userspace does not implement"
    if kvm.handling_of(call.code).how == "vmm-if-syndbg":
        return "KVM does not serve while SynDBG is off"
    return "this KVM does not implement"


def no_hypercalls(case: Case) -> Iterator[Draft]:
    """Hyper-V for nothing."""
    if case.guest.hyperv and case.guest.cpuid and not case.guest.calls:
        yield Draft(
            f"is given Hyper-V and made no hypercall in {words.amount(case.host.duration_s)} s: "
            "it does not use it, or is idle"
        )
