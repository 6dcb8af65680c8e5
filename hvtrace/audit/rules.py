"""From facts to findings. What each finding means is in docs/findings.md."""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.audit import exposure, output
from hvtrace.audit.case import Case, Rule
from hvtrace.audit.facts import Guest, Host

SEVERITIES = ("error", "warning", "advice")
"""Worst first: calls give wrong results, or none; something is odd; something could be better."""

RULES: dict[str, tuple[str, Rule]] = {
    "xmm-output-claimed": ("error", output.claimed),
    "xmm-output-untouched": ("error", output.untouched),
    "exit-not-handled": ("error", output.exit_not_handled),
    "denied-by-cpuid": ("error", exposure.denied),
    "new-exit-type": ("warning", output.new_exit_type),
    "xmm-output-refused": ("warning", output.refused),
    "xmm-output-exposed": ("warning", output.exposed_in_vain),
    "xmm-output-impossible": ("warning", output.impossible),
    "unexposed-call": ("warning", exposure.unexposed),
    "flag-without-effect": ("warning", exposure.flag_without_effect),
    "cpuid-differs": ("warning", exposure.cpuid_differs),
    "xmm-input-not-exposed": ("advice", exposure.xmm_input),
    "ipi-not-exposed": ("advice", exposure.ipi_not_exposed),
    "tlb-flush-not-exposed": ("advice", exposure.flush_not_exposed),
    "ipi-unused": ("advice", exposure.ipi_unused),
    "tlb-flush-unused": ("advice", exposure.flush_unused),
    "not-implemented": ("advice", exposure.not_implemented),
    "no-hypercalls": ("advice", exposure.no_hypercalls),
}
"""By id, which never changes: the severity, and the rule. The worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one guest that is alarming, or could be better."""

    id: str  # a key of RULES
    severity: str  # of SEVERITIES
    text: str  # one sentence about the guest, without a full stop
    flag: str | None  # of QEMU's -cpu, to be set
    codes: tuple[int, ...]  # that it is about, the most frequent first
    per_minute: float | None  # how often these calls; None: not about calls


def findings(host: Host, guest: Guest) -> tuple[Finding, ...]:
    """All that follows for `guest`, in the order of RULES."""
    case = Case(host, guest)
    return tuple(
        Finding(
            name,
            severity,
            draft.text,
            draft.flag,
            codes=tuple(sorted(draft.counts, key=lambda code: -draft.counts[code])),
            per_minute=round(case.per_minute(draft.counts), 3) if draft.counts else None,
        )
        for name, (severity, rule) in RULES.items()
        for draft in rule(case)
    )
